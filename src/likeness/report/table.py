"""The terminal's summary: one line per cell, with minus without, intervals included."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from likeness.report.records import CellResult, read_cells
from likeness.report.varying import told_apart

SHOWN = {"clip_t": "CLIP to prompt", "lpips": "LPIPS to source", "head_shift_px": "head moved, px"}
NARROWEST = 140  # columns, where the output is no terminal


def print_table(cells: Iterable[Path]) -> None:
    """Print every cell's edit success and paired differences; failed cells get a line of their own."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    done, failed = read_cells(cells)
    table = Table(box=box.SIMPLE_HEAD, title="Prompt-to-Prompt minus re-prompting, same seeds", title_justify="left")
    for heading in ("subject", "edit", "asked", "n"):
        table.add_column(heading, no_wrap=heading != "asked")
    table.add_column("edit happened\nwith / without", justify="right")
    present = [name for name in SHOWN if any(cell.difference(name) for cell in done)]
    for name in present:
        table.add_column(f"{SHOWN[name]}\nmean [95 %]", justify="right")
    for cell in told_apart(done):
        axes = cell.axes
        differences = [interval(cell.difference(name)) for name in present]
        table.add_row(axes["subject"], axes["edit"], cell.label, str(cell.summary["n"]), success(cell), *differences)
    for cell in failed:
        table.add_row("[red]failed", "", cell.folder.name, "", cell.error)
    console = Console()
    (console if console.is_terminal else Console(width=NARROWEST)).print(table)


def success(cell: CellResult) -> str:
    """Return "75 % / 100 %", or a dash where nothing says whether the edit happened."""
    shares = cell.summary.get("success")
    return f"{shares['with']:.0%} / {shares['without']:.0%}" if shares else "–"


def interval(difference: dict[str, Any] | None, digits: int = 3) -> str:
    """Return "-0.120 [-0.150, -0.080]"; a dash where there is no number."""
    if difference is None or difference["mean"] is None:
        return "–"
    digits = 1 if abs(difference["mean"]) >= 10 else digits
    text = f"{difference['mean']:+.{digits}f}"
    if difference["low"] is None:
        return text
    return f"{text} [{difference['low']:+.{digits}f}, {difference['high']:+.{digits}f}]"
