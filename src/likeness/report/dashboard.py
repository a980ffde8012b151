"""Build and save a W&B workspace over a project's runs: python -m likeness.report.dashboard [--project likeness].

Pictures, edit success against structure kept, metrics by subject, edit and style, re-weighting curves, training
health. It reads the keys that study.tracking logs. Saving needs an account; the report page needs none.
"""

from __future__ import annotations

import argparse
from typing import Any

from likeness.errors import InputError
from likeness.report.metric_names import HEADLINE, STRUCTURE, named
from likeness.report.tracker import first_line

NAME = "likeness: edits and training"
AXES = ("subject", "edit", "style")
WEIGHTED = ("blossom", "clip_t", STRUCTURE)  # what a word's weight is plotted against
LOSSES = ("train/loss", "train/loss_instance", "train/loss_prior")


def build(entity: str, project: str, name: str = NAME) -> Any:
    """Return the workspace, not yet saved; needs the extra `dashboard`, no network and no account."""
    ws, _ = _workspaces()
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[pictures(), trade_off(), by_axis(), reweighting(), training()],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            pinned_columns=["summary:edit/edit_success", f"summary:edit/{STRUCTURE}", "summary:edit/n"]
        ),
    )


def pictures() -> Any:
    """Every cell's grid, and the table with source, without and with side by side."""
    ws, wr = _workspaces()
    panels = [
        wr.MediaBrowser(
            title="source, without, with", media_keys=["edit/grid"], num_columns=2, layout=_at(0, 0, 16, 14)
        ),
        wr.MediaBrowser(
            title="where words act", media_keys=["edit/attention"], num_columns=1, layout=_at(16, 0, 8, 14)
        ),
        wr.WeavePanelSummaryTable(table_name="edit/pictures", layout=_at(0, 14, 24, 12)),
    ]
    return ws.Section(name="Pictures", panels=panels, is_open=True)


def trade_off() -> Any:
    """Edit success against what of the structure is lost, with and without Prompt-to-Prompt."""
    ws, wr = _workspaces()
    panels = [
        wr.ScatterPlot(
            title=f"edit happened against {named(STRUCTURE)}: {title}",
            x=wr.SummaryMetric(f"edit/{STRUCTURE}{end}"),
            y=wr.SummaryMetric(f"edit/edit_success{end}"),
            range_x=(0, None),
            range_y=(0, 1),
            legend_template="${run:displayName}",
            layout=_at(12 * at, 0, 12, 9),
        )
        for at, (title, end) in enumerate((("Prompt-to-Prompt", ""), ("re-prompting", "_without")))
    ]
    panels.append(
        wr.ScatterPlot(
            title="CLIP to the target prompt against structure lost",
            x=wr.SummaryMetric(f"edit/{STRUCTURE}"),
            y=wr.SummaryMetric("edit/clip_t"),
            layout=_at(0, 9, 12, 9),
        )
    )
    return ws.Section(name="Edit success against structure kept", panels=panels, is_open=True)


def by_axis() -> Any:
    """Headline metrics by subject, by edit and by style, and all of them at once.

    A bar is the mean of cells drawn and measured alike; those of another model, backbone or version have their own.
    """
    ws, wr = _workspaces()
    panels = [
        wr.BarPlot(
            title=f"{named(metric)} by {axis}",
            metrics=[f"edit/{metric}", f"edit/{metric}_without"],
            groupby=wr.Config(f"cell.alike.{axis}"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            layout=_at(8 * column, 6 * row, 8, 6),
        )
        for row, metric in enumerate(HEADLINE)
        for column, axis in enumerate(AXES)
    ]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(f"cell.{axis}")) for axis in AXES]
    columns += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(f"edit/{metric}")) for metric in HEADLINE]
    panels.append(wr.ParallelCoordinatesPlot(title="subject x edit x style", columns=columns,
                                             layout=_at(0, 6 * len(HEADLINE), 24, 10)))  # fmt: skip
    return ws.Section(name="Metrics by subject, edit and style", panels=panels)


def reweighting() -> Any:
    """What is drawn as a word's weight grows, a point for each cell: a mean would mix models and subjects."""
    ws, wr = _workspaces()
    panels = [
        wr.ScatterPlot(
            title=f"{named(metric)} by the word's weight",
            x=wr.Config("cell.weight"),
            y=wr.SummaryMetric(f"edit/{metric}"),
            legend_template="${config:cell.word} ${config:cell.alike.subject}",
            layout=_at(8 * column, 0, 8, 8),
        )
        for column, metric in enumerate(WEIGHTED)
    ]
    return ws.Section(name="Re-weighting", panels=panels)


def training() -> Any:
    """Losses, likeness to the photos, drift of the prior, and the samples while fine-tuning."""
    ws, wr = _workspaces()
    step = wr.Metric("train/step")
    panels = [
        wr.LinePlot(title="loss", x=step, y=list(LOSSES), smoothing_factor=0.6, smoothing_type="exponential",
                    layout=_at(0, 0, 8, 7)),
        wr.LinePlot(title="validation", x=step, metric_regex="validation/.*", layout=_at(8, 0, 8, 7)),
        wr.LinePlot(title="gradient norm", x=step, y=["train/grad_norm"], layout=_at(16, 0, 8, 7)),
        wr.LinePlot(title="likeness to the photos", x=step, metric_regex="health/(.*/)?subject_.*",
                    layout=_at(0, 7, 8, 7)),
        wr.LinePlot(title="drift and bleeding of other people", x=step, metric_regex="health/(.*/)?(prior|other)_.*",
                    layout=_at(8, 7, 8, 7)),
        wr.LinePlot(title="health of attention", x=step,
                    metric_regex="health/(.*/)?(identifier|class)_(entropy|focus|mass).*", layout=_at(16, 7, 8, 7)),
        wr.MediaBrowser(title="samples", media_keys=["samples/grid"], num_columns=3, layout=_at(0, 14, 24, 12)),
    ]  # fmt: skip
    return ws.Section(name="Training health", panels=panels)


def _at(x: int, y: int, w: int, h: int) -> Any:
    return _workspaces()[1].Layout(x=x, y=y, w=w, h=h)


def _workspaces() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise InputError("the dashboard needs wandb-workspaces: uv pip install -e '.[dashboard]'.") from error
    return workspaces, reports


def save(project: str, entity: str | None = None, name: str = NAME) -> str:
    """Save the workspace in a project and return its address; InputError without an account or a connection."""
    workspace = build(entity or "you", project, name)
    import wandb

    try:
        account = wandb.login(prompt=False, verify=False)
    except Exception as error:  # a key that is no key
        raise InputError(f"the W&B login failed ({first_line(error)}): set another key with `wandb login`.") from error
    if not account:
        raise InputError(
            "a saved workspace needs a W&B account: run `wandb login`, or set WANDB_API_KEY. Without one, every "
            "sweep's report.html shows the same, and `wandb leet` reads offline runs in the terminal."
        )
    try:
        workspace.entity = entity or wandb.Api().default_entity
        return workspace.save().url
    except Exception as error:  # the client raises what requests, its own API or pydantic raise
        raise InputError(f"W&B did not take the workspace: {first_line(error)}") from error


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.report.dashboard", description=__doc__)
    parser.add_argument("--project", default="likeness", help="logger.project of the runs (default: likeness)")
    parser.add_argument("--entity", help="user or team (default: yours)")
    parser.add_argument("--name", default=NAME, help="name of the saved view")
    arguments = parser.parse_args(argv)
    try:
        print(save(arguments.project, arguments.entity, arguments.name))
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
