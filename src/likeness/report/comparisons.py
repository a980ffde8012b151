"""The page's tables over cells: with, without and the paired difference of the headline metrics, ready to sort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from likeness.metrics.statistics import holm
from likeness.report.metric_names import HEADLINE, STRUCTURE, interval, named, number, verdict
from likeness.report.records import CellResult, count_pairs, pooled


@dataclass(frozen=True)
class Value:
    """A table cell: its text, what it sorts by (None: last), and either a pair of arms or a verdict."""

    text: str
    order: float | str | None
    arms: tuple[str, str] | None = None  # with, without
    verdict: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a table; `number` is the cell's on the page, None where several are pooled."""

    number: int | None
    values: list[Value]


@dataclass(frozen=True)
class Table:
    """Lines under columns, of which the first few are `words`."""

    title: str
    columns: list[str]
    lines: list[Line]
    words: int


def cell_table(cells: Sequence[CellResult], numbers: Sequence[int]) -> Table:
    """Return one line per cell, p-values of the structure difference corrected over the table (Holm)."""
    metrics = present(cells)
    corrected = holm([(cell.difference(STRUCTURE) or {}).get("p") for cell in cells])
    columns = ["subject", "edit", "asked", "n", *headings(cells, metrics)]
    if STRUCTURE in metrics:
        columns.append("p of LPIPS (Holm)")
    lines = []
    for cell, at, p in zip(cells, numbers, corrected, strict=True):
        values = [text(cell.axes["subject"]), text(cell.axes["edit"]), text(cell.label)]
        values.append(Value(str(cell.summary["n"]), cell.summary["n"]))
        for metric in metrics:
            values += compared(metric, cell.summary["metrics"].get(metric) if cell.compares else None, cell)
        if STRUCTURE in metrics:
            values.append(Value("–" if p is None else f"{p:.3f}", p))
        lines.append(Line(at, values))
    return Table("All cells", columns, lines, words=3)


def group_table(title: str, cells: Sequence[CellResult], key: Callable[[CellResult], str]) -> Table:
    """Return one line per group of cells, numbers pooled over their pictures."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    metrics = present(cells)
    lines = []
    for name, members in groups.items():
        n = count_pairs(members)
        values = [text(name), Value(str(len(members)), len(members)), Value(str(n), n)]
        for metric in metrics:
            values += compared(metric, pooled(members, metric), members[0])
        lines.append(Line(None, values))
    return Table(title, [title.removeprefix("Per "), "cells", "n", *headings(cells, metrics)], lines, words=1)


def present(cells: Sequence[CellResult]) -> list[str]:
    """Return the headline metrics that any of the cells has in both arms."""
    return [metric for metric in HEADLINE if any(cell.difference(metric) for cell in cells)]


def headings(cells: Sequence[CellResult], metrics: Sequence[str]) -> list[str]:
    """Return two headings for each metric: both arms, and the difference."""
    directions = {name: arrow for cell in cells for name, arrow in cell.record["directions"].items()}
    return [
        heading
        for metric in metrics
        for heading in (f"{named(metric, directions.get(metric, 'neutral'))}: with / without", "difference [95 %]")
    ]


def compared(metric: str, entry: dict[str, Any] | None, cell: CellResult) -> list[Value]:
    """Return a metric's two table cells; both sort by their numbers."""
    if entry is None:
        return [Value("–", None), Value("–", None)]
    difference = entry["difference"]
    judged = verdict(difference, cell.record["directions"].get(metric, "neutral"))
    return [
        Value("", entry["with"], arms=(number(metric, entry["with"]), number(metric, entry["without"]))),
        Value(interval(metric, difference), difference["mean"], verdict=judged),
    ]


def text(value: object) -> Value:
    """Return a table cell of words, sorted without regard to case."""
    return Value(str(value), str(value).casefold())
