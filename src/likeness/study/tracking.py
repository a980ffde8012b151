"""What training runs and cells send to Weights & Biases, through report.tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from likeness.config import Sweep, Train, to_plain
from likeness.ranks import is_main_process


def start_run(config: Train | Sweep, *, name: str, group: str, job_type: str, tags: list[str], directory: Path):
    """Return an entered-able tracker run with the project's conventions for names, groups and tags.

    Of several processes that train together one is tracked.
    """
    from likeness.report import tracker

    if not is_main_process():
        return no_run()
    return tracker.start(
        config.logger.mode,
        project=config.logger.project,
        name=name,
        group=group,
        job_type=job_type,
        tags=tags,
        config=to_plain(config),
        directory=directory,
    )


def no_run():
    """Return a run that records nothing."""
    from likeness.report import tracker

    return tracker.Run()


def track_cell(
    sweep: Sweep,
    run_dir: Path,
    folder: Path,
    record: dict[str, Any],
    rows: list[dict[str, Any]],
    summary: dict[str, Any],
) -> None:
    """Log one cell as a run: a table with one row per seed, the grid, and the summary numbers."""
    if sweep.logger.mode == "none":
        return
    group = run_dir.parent.name if run_dir.name.isdigit() else run_dir.name
    axes = record["axes"]
    tags = [axes["subject"], axes["edit"], axes["method"], axes["model"]]
    name = folder.name.rsplit("-", 1)[0]
    with start_run(
        sweep, name=name, group=group, job_type="edit", tags=tags, directory=Path(sweep.out) / "wandb"
    ) as run:
        skip = {
            "image",
            "arm",
            "seed",
            "subject",
            "prior_class",
            "model",
            "method",
            "schedule",
            "edit",
            "operator",
        }
        names = [n for n in rows[0] if n not in skip | {"source_prompt", "target_prompt"}]
        columns = ["seed", "source_prompt", "target_prompt", "source", "without", "with"]
        columns += [f"{n}/{arm}" for n in names for arm in ("without", "with")]
        table = []
        for seed in record["seeds"]:
            by_arm = {row["arm"]: row for row in rows if row["seed"] == seed}
            pictures = [Image.open(folder / by_arm[arm]["image"]) for arm in ("source", "without", "with")]
            values = [by_arm[arm][n] for n in names for arm in ("without", "with")]
            table.append([seed, record["source_prompt"], record["target_prompt"], *pictures, *values])
        run.table("edit/pictures", columns, table)
        with Image.open(folder / "grid.png") as grid:
            run.images("edit/grid", [(grid.convert("RGB"), record["target_prompt"])])
        numbers = {f"edit/{n}": v["with"] for n, v in summary["metrics"].items()}
        numbers |= {f"edit/{n}_without": v["without"] for n, v in summary["metrics"].items()}
        numbers |= {f"edit/{n}_difference": v["difference"]["mean"] for n, v in summary["metrics"].items()}
        run.summary({k: v for k, v in numbers.items() if v is not None})
