"""Paired differences as rows with an interval and one dot per pair: what the page's difference plot shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from likeness.report.metric_names import interval, verdict
from likeness.report.records import CellResult, direction_of, pairs, pooled

MOST_ROWS = 40  # more cells than this are pooled by subject and edit
MOST_DOTS = 60  # pairs; more than this would be a bar


@dataclass(frozen=True)
class Row:
    """One line of the plot; places are in percent of the plot's width."""

    name: str
    number: int | None  # of the cell on the page, None where several are pooled
    n: int
    text: str
    verdict: str  # better, worse or open
    mean: float
    low: float | None
    high: float | None
    dots: list[float]


@dataclass(frozen=True)
class Plot:
    """The rows of one metric, where zero is, and the ends of the axis as text."""

    metric: str
    rows: list[Row]
    zero: float
    ends: tuple[str, str]


def difference_plot(cells: Sequence[CellResult], numbers: Sequence[int], metric: str) -> Plot | None:
    """Return the plot of a metric over cells measured alike; None where no pair was measured."""
    groups = _groups(cells, numbers)
    found = [(name, number, *_pairs(members, metric)) for name, number, members in groups]
    found = [row for row in found if row[2] and row[2]["mean"] is not None]
    if not found:
        return None
    drawn = [v for _, _, entry, dots in found for v in (*_ends(entry), *dots)]
    low, high = min(0.0, *drawn), max(0.0, *drawn)
    room = 0.04 * (high - low or 1.0)
    low, high = low - room, high + room
    direction = direction_of(cells, metric)

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - low) / (high - low), 2)

    rows = [
        Row(name, number, entry["n"], interval(metric, entry), verdict(entry, direction), place(entry["mean"]),
            place(entry["low"]), place(entry["high"]), [place(v) for v in dots])
        for name, number, entry, dots in found
    ]  # fmt: skip
    return Plot(metric, rows, place(0.0), (f"{low:+.2g}", f"{high:+.2g}"))


def _ends(entry: dict[str, Any]) -> list[float]:
    return [entry[key] for key in ("low", "mean", "high") if entry[key] is not None]


def _groups(cells: Sequence[CellResult], numbers: Sequence[int]):
    if len(cells) <= MOST_ROWS:
        return [(cell.name, number, [cell]) for cell, number in zip(cells, numbers, strict=True)]
    pools: dict[str, list[CellResult]] = {}
    for cell in cells:
        pools.setdefault(f"{cell.axes['subject']} · {cell.axes['edit']}", []).append(cell)
    return [(name, None, members) for name, members in pools.items()]


def _pairs(members: Sequence[CellResult], metric: str) -> tuple[dict[str, Any] | None, list[float]]:
    members = [cell for cell in members if cell.compares]
    found = pooled(members, metric) if len(members) > 1 else None
    entry = found["difference"] if found else members[0].difference(metric) if members else None
    dots = [a - b for a, b, _ in pairs(members, metric)]
    return entry, dots if len(dots) <= MOST_DOTS else []
