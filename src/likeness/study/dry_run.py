"""What a sweep would do: cells, prompts, what is missing, and the time, as earlier cells took it. Draws nothing."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from likeness import metrics
from likeness.config import Sweep
from likeness.errors import InputError
from likeness.study import cells, edited
from likeness.study.notices import plan_notices
from likeness.study.plan import EditPlan, label
from likeness.study.progress import duration, named

# Seconds for a picture of 128 px in 50 DDIM steps with guidance, measured on 2 CPU cores; until cells are recorded.
SECONDS_PER_PICTURE = {"paperdoll": 1.3}


@dataclass
class Total:
    """What all dry runs of this process add up to."""

    cells: int = 0
    there: int = 0
    refused: list[str] = field(default_factory=list)  # the error of each
    seconds: float = 0.0
    unknown: int = 0  # cells whose time nothing tells
    missing: dict[str, str] | None = None  # what is missing -> what to do
    trained: set[Path] = field(default_factory=set)  # models that the sweep would train itself


TOTAL = Total()


def dry_run(
    sweep: Sweep, plan: EditPlan, command: str, finished_cell: Callable[[Sweep, EditPlan], Path | None]
) -> None:
    """Print one cell and add it to the total; `finished_cell` returns where it lies, None if it would be drawn."""
    missing, done = what_is_missing(sweep, command), None
    if not missing:
        try:
            done = finished_cell(sweep, plan)
        except InputError as error:  # a device or precision that is not here
            missing["what draws it"] = str(error)
    TOTAL.missing = (TOTAL.missing or {}) | missing
    TOTAL.cells += 1
    pictures = 3 * len(sweep.seeds)
    print(f"{sweep.subject.name} · {sweep.edit.name} · {label(plan.axes)} · {plan.operator}")
    print(f"  source  {plan.source_prompt}")
    print(f"  target  {plan.target_prompt}" + "".join(f"   [{w} x {v:g}]" for w, v in plan.weights))
    for notice in plan_notices(sweep, plan):
        print(f"  note    {notice}")
    for what, remedy in missing.items():
        print(f"  MISSING {what}\n          {remedy}")
    if done is not None:
        TOTAL.there += 1
        print(f"  draws   nothing: already there in {done}")
        return
    seconds, source = expected_seconds(sweep)
    if seconds is None:
        TOTAL.unknown += 1
    else:
        TOTAL.seconds += seconds
    time_ = source if seconds is None else f"about {duration(seconds)} {source}"
    each = "a photo" if sweep.photo else f"{len(sweep.seeds)} seeds"
    print(f"  draws   {pictures} pictures ({each} x 3 arms), {time_}")


def refuse(job: Path, error: str) -> None:
    """Count a job that cannot be drawn as it is asked for and print its error's first line; the total has the rest."""
    TOTAL.cells += 1
    TOTAL.refused.append(error)
    print(f"REFUSED {named(job, error)}")


def what_is_missing(sweep: Sweep, command: str) -> dict[str, str]:
    """Return what has to be there before this cell can be drawn and is not, and what to do about it."""
    missing = {}
    checks = {
        f"base model {sweep.model.source}": lambda: edited.check_base(sweep),
        f"metrics {sweep.metrics.name}": lambda: metrics.check_available(
            sweep.metrics.name, lpips_net=sweep.metrics.lpips_net, subject=True
        ),
    }
    for what, check in checks.items():
        try:
            check()
        except InputError as error:
            missing[what] = str(error)
    if f"base model {sweep.model.source}" in missing and sweep.model.source == "embedded":
        return missing  # the fine-tuned model's name holds the hash of these weights
    if not edited.is_there(sweep):
        folder = edited.folder_of(sweep)
        if sweep.train_missing:
            TOTAL.trained.add(folder)
        remedy = f"trained first (train_missing=true), or: {command}" if sweep.train_missing else f"make it: {command}"
        missing[f"fine-tuned model {folder}"] = remedy
    return missing


def expected_seconds(sweep: Sweep) -> tuple[float | None, str]:
    """Return how long this cell will take and where that is known from; None where nothing tells."""
    work = 3 * len(sweep.seeds) * sweep.sampler.num_inference_steps
    alike = [r for r in records(sweep.out) if (r.get("axes") or {}).get("model") == sweep.model.name]
    if alike:
        device = alike[-1]["device"]
        costs = [c for r in alike if r["device"] == device and (c := _seconds_per_step(r)) is not None]
        if costs:
            return median(costs) * work, f"on {device} (median of {len(costs)} recorded cells)"
    if sweep.model.name in SECONDS_PER_PICTURE:
        return SECONDS_PER_PICTURE[sweep.model.name] * work / 50, "on 2 CPU cores"
    return None, "time not known: no cell of this model is recorded yet"


def _seconds_per_step(record: dict[str, Any]) -> float | None:
    """Return what one picture and step took, in a cell that drew anything."""
    drawn, timing = record.get("drawn"), record.get("timing") or {}
    steps = (record.get("sampler") or {}).get("num_inference_steps")
    if not drawn or not steps:
        return None
    seconds = sum(timing.get(part, 0.0) for part in ("draw", "decode", "measure"))
    return seconds / (drawn * steps)


@functools.lru_cache(maxsize=4)
def records(out: str) -> list[dict[str, Any]]:
    """Return the records of finished cells under an output folder, oldest first; read once per process."""
    paths = sorted((Path(out) / "cells").glob("[!.]*/record.json"), key=lambda p: p.stat().st_mtime)
    found = [cells.read_record(path.parent) for path in paths]
    return [record for record in found if record and record.get("status") == "done"]


def print_total() -> None:
    """Print what the dry runs of this process add up to; nothing where there was none."""
    if not TOTAL.cells:
        return
    refused = len(TOTAL.refused)
    to_draw = TOTAL.cells - TOTAL.there - refused
    time_ = f"about {duration(TOTAL.seconds)}" if TOTAL.unknown < to_draw or not to_draw else "time not known"
    count = len(TOTAL.trained)
    plus = f" plus {count} training{'s' * (count > 1)}, time not known" if count else ""
    counts = f"{TOTAL.there} there, {to_draw} to draw" + (f", {refused} refused" if refused else "")
    print(f"\n{TOTAL.cells} cells: {counts}, {time_}{plus}")
    for what, remedy in (TOTAL.missing or {}).items():
        print(f"missing: {what}\n  {remedy}")
    for error, count in Counter(TOTAL.refused).items():
        print(f"refused{f' ({count} cells)' if count > 1 else ''}: {error}")
