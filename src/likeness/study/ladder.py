"""How long is long enough: score the rungs of a ladder and find the knee of what is gained against what is lost.

The knee is where the normalised gain lies furthest above the normalised cost (Satopaa et al. 2011, "Kneedle").
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from likeness.errors import InputError

Rows = dict[int, dict[str, float]]


@dataclass(frozen=True)
class Score:
    """One column of the table: names that may hold it, best first, and the sign that makes more better.

    `scale` is the least range a cost is normalised by: smaller changes than this are noise, not a cost
    (assumption).
    """

    label: str
    names: tuple[str, ...]
    sign: int
    scale: float


IDENTITY = Score("likeness", ("subject_identity_distance", "subject_dino", "subject_clip_i"), 1, 0.0)
COSTS = (
    Score("prompt fidelity", ("subject_asked_shown", "subject_clip_t"), 1, 0.05),
    Score("prior drift", ("prior_drift_lpips",), -1, 0.1),
    Score("bleeding", ("other_bleed_identity", "other_bleed_dino", "other_bleed_clip_i"), -1, 0.05),
)
LOWER_IS_BETTER = frozenset({"subject_identity_distance"})
TIE = 6  # decimals to which two rungs that are equally good agree


@dataclass(frozen=True)
class Rung:
    """One checkpoint: the numbers shown, by column, and gain and cost, both in [0, 1] over the ladder."""

    step: int
    values: dict[str, float]
    gain: float
    cost: float


@dataclass(frozen=True)
class Ladder:
    """All rungs, the base model first (step 0), the step of the knee, and what there is to say about it."""

    rungs: list[Rung]
    knee: int
    columns: dict[str, str]  # label -> the metric behind it
    notices: list[str]


def rows_of(history: Rows, steps: Sequence[int]) -> Rows:
    """Return the rows of the base model and of every rung, or say which are gone."""
    wanted = (0, *steps)
    if gone := [str(step) for step in wanted if step not in history]:
        raise InputError(
            f"history.csv lacks step {', '.join(gone)}, so the ladder cannot be scored; put the file back, or delete "
            "the model's folder to start anew."
        )
    return {step: history[step] for step in wanted}


def score(rows: Rows) -> Ladder:
    """Score the base model (step 0) and every rung, and choose the knee; several subjects are averaged.

    Of rungs that are equally good the shortest training is chosen.
    """
    rows = _pooled(dict(sorted(rows.items())))
    used = {s: next((n for n in s.names if n in rows[0]), None) for s in (IDENTITY, *COSTS)}
    if used[IDENTITY] is None:
        raise InputError(
            f"the ladder cannot be scored: history.csv holds none of {', '.join(IDENTITY.names)} as a number at every "
            "checkpoint and every subject; look at the pictures in samples/, and train with schedule=long."
        )
    likeness = _signed(rows, used[IDENTITY], IDENTITY)
    gains = _normalised([v - likeness[0] for v in likeness], IDENTITY.scale)
    costs = [
        _normalised([values[0] - v for v in values], s.scale)
        for s in COSTS
        if used[s] is not None and (values := _signed(rows, used[s], s))
    ]
    mean = [sum(c) / len(costs) for c in zip(*costs, strict=True)] if costs else [0.0] * len(rows)
    columns = {s.label: name for s, name in used.items() if name is not None}
    rungs = [
        Rung(step, {label: row[name] for label, name in columns.items()}, gain, cost)
        for (step, row), gain, cost in zip(rows.items(), gains, mean, strict=True)
    ]
    knee = max(rungs[1:], key=lambda rung: (round(rung.gain - rung.cost, TIE), -rung.step))
    absent = [s.label for s, name in used.items() if name is None]
    return Ladder(rungs, knee.step, columns, [*_notices(rungs, knee), *map(_not_scored, absent)])


def _notices(rungs: list[Rung], knee: Rung) -> list[str]:
    if max(rung.gain for rung in rungs[1:]) <= 0:
        return ["no checkpoint is nearer to the subject than the base model: train longer or at a higher rate."]
    if len(rungs) == 2:
        return ["there is one checkpoint and so nothing to choose from: raise schedule.ladder."]
    if knee is rungs[-1]:
        return ["the knee is the last checkpoint, so the best may lie beyond it: raise schedule.num_train_steps."]
    if knee is rungs[1]:
        return ["the knee is the first checkpoint, so the best may lie before it: lower schedule.num_train_steps."]
    return []


def _not_scored(label: str) -> str:
    return f"{label} was not measured at every checkpoint and is no part of the cost."


def _pooled(rows: Rows) -> Rows:
    """Return health numbers by their bare name, the mean over subjects; only those that all rows have of all subjects.

    A mean over other subjects in another row would be a change that nobody's pictures show.
    """
    shared = [name for name in rows[0] if name.startswith("health/") and all(name in row for row in rows.values())]
    by_name: dict[str, list[str]] = {}
    for name in shared:
        by_name.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    subjects = max(map(len, by_name.values()), default=0)
    whole = {bare: names for bare, names in by_name.items() if len(names) == subjects}
    return {
        step: {bare: sum(row[n] for n in names) / subjects for bare, names in whole.items()}
        for step, row in rows.items()
    }


def _signed(rows: Rows, name: str, score: Score) -> list[float]:
    sign = -1 if name in LOWER_IS_BETTER else score.sign
    return [sign * row[name] for row in rows.values()]


def _normalised(changes: Sequence[float], scale: float) -> list[float]:
    """Divide by the largest change, at least `scale`; what went the other way counts as none."""
    largest = max([*changes, scale, 1e-12])
    return [max(0.0, change) / largest for change in changes]


def table(ladder: Ladder) -> tuple[list[str], list[list]]:
    """Return column names and rows, for a file or a tracker."""
    columns = ["step", *ladder.columns, "gain", "cost", "knee"]
    rows = [
        [r.step, *r.values.values(), r.gain, r.cost, "knee" if r.step == ladder.knee else ""] for r in ladder.rungs
    ]
    return columns, rows


def write_csv(ladder: Ladder, path: Path) -> None:
    """Write the table beside the model."""
    columns, rows = table(ladder)
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *rows])
    part.replace(path)


def print_ladder(ladder: Ladder, title: str) -> None:
    """Print the table, the knee marked, and what each column is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    columns, rows = table(ladder)
    for name in columns[:-1]:
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("")
    for row in rows:
        texts = [str(row[0]), *(f"{value:.3f}" for value in row[1:-1])]
        shown.add_row(*texts, "<- knee" if row[-1] else "", style="bold" if row[-1] else None)
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(shown)
    lower = {name: " (lower is nearer)" for name in LOWER_IS_BETTER}
    print("  " + ", ".join(f"{label}: {name}{lower.get(name, '')}" for label, name in ladder.columns.items()))
    for notice in ladder.notices:
        print(f"note: {notice}")
