"""Tables over cells, for page and Markdown: with, without and the paired difference of the headline metrics.

p-values are corrected over the lines of their table (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from likeness.metrics.statistics import holm
from likeness.report.metric_names import HEADLINE, STRUCTURE, interval, named, number, verdict
from likeness.report.records import CellResult, count_pairs, count_sources, pooled

# What a column is, where its heading is too short to say it.
TITLES = {
    "n": "pairs: one seed of one cell, with and without Prompt-to-Prompt",
    "sources": "source pictures that the pairs come from; means, intervals and tests are over these",
    "difference [95 %]": "with minus without, mean over source pictures, and its 95 % bootstrap interval",
    "effect d": "Cohen's d: the mean of the paired differences over their standard deviation",
    "effect d of LPIPS": "Cohen's d: the mean of the paired differences of LPIPS over their standard deviation",
    "p (Holm)": "two-sided sign-flip permutation test, corrected for the number of lines of this table (Holm)",
    "p of LPIPS (Holm)": "two-sided sign-flip permutation test of the paired differences of LPIPS, corrected for the "
    "number of lines of this table (Holm)",
}

OVER = "Pooled means are over source pictures: the edits of one are averaged first, so that each counts once."


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
    """Lines under columns, of which the first few are `words`; `titles` say what some columns are."""

    title: str
    columns: list[str]
    lines: list[Line]
    words: int
    titles: dict[str, str] = field(default_factory=lambda: TITLES)


def as_markdown(table: Table) -> str:
    """Return a table's columns and lines as Markdown."""
    rows = [table.columns, ["---"] * len(table.columns)]
    for line in table.lines:
        rows.append([escaped(" / ".join(value.arms) if value.arms else value.text) for value in line.values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escaped(text: object) -> str:
    """Return a text that stays in its cell of a Markdown table."""
    return " ".join(str(text).replace("|", "\\|").split())


def cell_table(cells: Sequence[CellResult], numbers: Sequence[int]) -> Table:
    """Return one line per cell, with effect size and corrected p of the structure difference."""
    metrics = present(cells)
    corrected = holm([(cell.difference(STRUCTURE) or {}).get("p") for cell in cells])
    columns = ["subject", "edit", "asked", "n", *headings(cells, metrics)]
    if STRUCTURE in metrics:
        columns += ["effect d of LPIPS", "p of LPIPS (Holm)"]
    lines = []
    for cell, at, p in zip(cells, numbers, corrected, strict=True):
        values = [text(cell.axes["subject"]), text(cell.axes["edit"]), text(cell.label)]
        values.append(Value(str(cell.summary["n"]), cell.summary["n"]))
        for metric in metrics:
            values += compared(metric, cell.summary["metrics"].get(metric) if cell.compares else None, cell)
        if STRUCTURE in metrics:
            values += judged(cell.difference(STRUCTURE), p)
        lines.append(Line(at, values))
    return Table("All cells", columns, lines, words=3)


def group_table(title: str, cells: Sequence[CellResult], key: Callable[[CellResult], str]) -> Table:
    """Return one line per group of cells, numbers pooled over their source pictures."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    metrics = present(cells)
    lines = []
    for name, members in groups.items():
        counts = (len(members), count_pairs(members), count_sources(members))
        values = [text(name), *(Value(str(count), count) for count in counts)]
        for metric in metrics:
            values += compared(metric, pooled(members, metric), members[0])
        lines.append(Line(None, values))
    columns = [title.removeprefix("Per "), "cells", "n", "sources", *headings(cells, metrics)]
    return Table(title, columns, lines, words=1)


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
    word = verdict(difference, cell.record["directions"].get(metric, "neutral"))
    return [
        Value("", entry["with"], arms=(number(metric, entry["with"]), number(metric, entry["without"]))),
        Value(interval(metric, difference), difference["mean"], verdict=word),
    ]


def judged(difference: dict[str, Any] | None, corrected: float | None) -> list[Value]:
    """Return the table cells of an effect size and a corrected p, dashes where there is none."""
    size = (difference or {}).get("effect")
    return [
        Value("–" if size is None else f"{size:+.2f}", size),
        Value("–" if corrected is None else f"{corrected:.3f}", corrected),
    ]


def text(value: object) -> Value:
    """Return a table cell of words, sorted without regard to case."""
    return Value(str(value), str(value).casefold())
