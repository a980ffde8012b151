"""What training runs and cells send to Weights & Biases, through report.tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from likeness.config import Sweep, Train, to_plain
from likeness.ranks import is_main_process
from likeness.study.cells import ARMS
from likeness.study.place import short_hash

ABOUT = ("hash", "weights", "source_prompt", "target_prompt")  # of the record, beside its axes
ENDINGS = {"with": "", "without": "_without"}  # of the arms, in the names of numbers


def start_run(
    config: Train | Sweep,
    *,
    name: str,
    group: str,
    job_type: str,
    tags: list[str],
    directory: Path,
    about: dict[str, Any] | None = None,
    continued: Path | None = None,
):
    """Return an entered-able tracker run with the project's conventions for names, groups and tags.

    `about` goes beside the configuration into what runs are filtered and grouped by; `continued` is a file by which
    interrupted work finds its run again. Of several processes that train together one is tracked.
    """
    from likeness.report import tracker

    if not is_main_process():
        return no_run()
    return tracker.start(
        config.logger.mode,
        project=config.logger.project,
        entity=config.logger.entity,
        name=name,
        group=group,
        job_type=job_type,
        tags=tags,
        config=to_plain(config) | (about or {}),
        directory=directory,
        continued=continued,
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
    finetuned: Path | None,
) -> None:
    """Log one cell as a run: a table with one row per seed, its pictures, every seed's numbers and their summary."""
    if sweep.logger.mode == "none":
        return
    axes = record["axes"]
    about = {**axes, **{k: record[k] for k in ABOUT}, "folder": folder.name, "finetuned": finetuned and finetuned.name}
    asked = [str(axes[axis]) for axis in ("style", "scene", "target") if axes.get(axis) is not None]
    with start_run(
        sweep,
        name=folder.name,
        group=run_dir.parent.name if run_dir.name.isdigit() else run_dir.name,
        job_type="edit",
        tags=[axes["subject"], axes["edit"], axes["method"], axes["model"], *asked],
        directory=Path(sweep.out) / "wandb",
        about={"cell": about | {"alike": alike(record)}},
    ) as run:
        if finetuned:
            run.uses(finetuned.name, "model")
        log_cell(run, folder, record, rows, summary)


def alike(record: dict[str, Any]) -> dict[str, str]:
    """Return, for each axis of the dashboard's bars, a name that only cells share whose numbers may be averaged.

    It ends in the model and a hash of all that must agree: trained weights, backbones, precision, versions.
    """
    from likeness.report.dashboard import AXES
    from likeness.report.records import CellResult

    axes = record["axes"]
    drawn = short_hash(CellResult(Path(), record, {}, []).conditions | {"weights": record["weights"]})
    shown = {axis: str(axes.get(axis) or f"no {axis}") for axis in AXES}
    named = {axis: value if axis == "subject" else f"{axes['subject']}, {value}" for axis, value in shown.items()}
    return {axis: f"{name} ({axes.get('model')} {drawn})" for axis, name in named.items()}


def log_cell(run, folder: Path, record: dict[str, Any], rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Send a cell's pictures and numbers to an open run."""
    names = list(summary["metrics"])
    columns = ["seed", "source_prompt", "target_prompt", *ARMS]
    columns += [f"{name}/{arm}" for name in names for arm in ("without", "with")]
    table = []
    for seed in record["seeds"]:
        by_arm = {row["arm"]: row for row in rows if row["seed"] == seed}
        pictures = [picture(folder / by_arm[arm]["image"]) for arm in ARMS]
        values = [by_arm[arm][name] for name in names for arm in ("without", "with")]
        table.append([seed, record["source_prompt"], record["target_prompt"], *pictures, *values])
        arms = {f"seed/{name}{end}": by_arm[arm][name] for name in names for arm, end in ENDINGS.items()}
        run.log({"seed/seed": seed} | {name: value for name, value in arms.items() if value is not None})
    run.table("edit/pictures", columns, table)
    for sheet in ("grid", "attention"):
        if (folder / f"{sheet}.png").is_file():
            run.images(f"edit/{sheet}", [(picture(folder / f"{sheet}.png"), record["target_prompt"])])
    run.summary(summary_numbers(summary))


def summary_numbers(summary: dict[str, Any]) -> dict[str, float]:
    """Return the numbers by which cells are compared: each metric's arms and paired difference, with its interval."""
    numbers: dict[str, float | None] = {"edit/n": summary["n"]}
    for name, entry in summary["metrics"].items():
        numbers |= {f"edit/{name}{end}": entry[arm] for arm, end in ENDINGS.items()}
        difference = entry["difference"]
        numbers |= {f"edit/{name}_difference": difference["mean"]}
        numbers |= {f"edit/{name}_difference_{key}": difference[key] for key in ("low", "high", "p")}
    return {name: value for name, value in numbers.items() if value is not None}


def picture(path: Path) -> Image.Image:
    """Return a picture, its file closed."""
    with Image.open(path) as image:
        return image.convert("RGB")
