"""Gather any set of outputs into one tidy CSV (or parquet) and Markdown: python -m likeness.results outputs [...].

README and experiments take their numbers from here. Cells measured or drawn with different backbones, weights or
versions get tables of their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from likeness.errors import InputError
from likeness.metrics.statistics import holm
from likeness.report.by_photo import together
from likeness.report.comparisons import OVER, as_markdown, escaped
from likeness.report.effects import effects, effects_table, structure_verdict
from likeness.report.folders import cells_under
from likeness.report.metric_names import interval
from likeness.report.parquet import write_parquet
from likeness.report.records import CellResult, Failed, measured_alike, read_cells
from likeness.report.spreadsheet import write_rows
from likeness.report.table import success
from likeness.report.varying import columns, told_apart
from likeness.report.weights import weight_curves, weight_table


def tidy(cells: Sequence[CellResult]) -> list[dict[str, str]]:
    """Return one row per picture of all cells: its results.csv row, the cell, its settings and its backbones."""
    rows = []
    for cell in cells:
        settings = columns(cell)
        rows += [{"cell": cell.folder.name, **settings, **row, "backbones": cell.backbones} for row in cell.rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in names} for row in rows]


def write_csv(cells: Sequence[CellResult], target: Path) -> Path:
    """Write the tidy table as CSV; raises InputError if there is nothing to write."""
    rows = _some(tidy(cells))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_rows(target, rows)
    return target


def _some(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    if not rows:
        raise InputError("no finished cell was found: nothing to write.")
    return rows


def markdown(cells: Sequence[CellResult]) -> str:
    """Return two Markdown tables for cells measured alike: one row per cell, and what is pooled over them.

    The first has success, LPIPS and its paired difference, an edit of several photos being one row; p-values are
    corrected over each table (Holm).
    """
    parts = []
    lines_alike = measured_alike(told_apart(together(cells)))
    cells = told_apart(cells)
    for (backbones, members), rows in zip(measured_alike(cells).items(), lines_alike.values(), strict=True):
        corrected = holm([(cell.difference("lpips") or {}).get("p") for cell in rows])
        lines = [
            "| subject | edit | asked | n | edit happened with / without | LPIPS to source with / without "
            "| difference [95 %] | p (Holm) | head moved, px with / without |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for cell, p in zip(rows, corrected, strict=True):
            lines.append(
                f"| {escaped(cell.axes['subject'])} | {escaped(cell.axes['edit'])} | {escaped(cell.label)} "
                f"| {cell.summary['n']} | {success(cell)} | {arms(cell, 'lpips', 3)} "
                f"| {interval('lpips', cell.difference('lpips'))} | {'–' if p is None else f'{p:.3f}'} "
                f"| {arms(cell, 'head_shift_px', 1)} |"
            )
        found = effects(members)
        if found:
            lines += ["", as_markdown(effects_table(found)), "", OVER]
        verdict = structure_verdict(found)
        if verdict and verdict[0] != "open":
            lines += ["", verdict[1]]
        if curves := weight_curves(members):
            lines += ["", as_markdown(weight_table(curves))]
        parts.append("\n".join([*lines, "", f"Measured with {backbones}."]))
    return "\n\n".join(parts)


def arms(cell: CellResult, metric: str, digits: int) -> str:
    """Return "with / without" of a metric, or a dash."""
    values = [cell.mean(metric, arm) for arm in ("with", "without")]
    return "–" if None in values else " / ".join(f"{value:.{digits}f}" for value in values)


def report_failures(failed: Sequence[Failed]) -> None:
    for cell in failed:
        print(f"left out: {cell.folder.name}: {cell.error}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.results", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, help="outputs, a run folder, or single cells")
    parser.add_argument("--csv", type=Path, help="write one row per picture here")
    parser.add_argument("--parquet", type=Path, help="write the same rows here, numbers as numbers (extra: parquet)")
    parser.add_argument("--markdown", type=Path, help="write the table here instead of printing it")
    arguments = parser.parse_args(argv)
    try:
        cells, failed = read_cells(cells_under(arguments.places))
        if not cells:
            raise InputError(f"no finished cell under {', '.join(map(str, arguments.places))}: run sweep.py first.")
        if arguments.csv:
            print(write_csv(cells, arguments.csv))
        if arguments.parquet:
            print(write_parquet(_some(tidy(cells)), arguments.parquet))
        text = markdown(cells)
        if arguments.markdown:
            arguments.markdown.write_text(text + "\n", encoding="utf-8")
        else:
            print(text)
        report_failures(failed)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
