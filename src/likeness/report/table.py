"""The terminal's summary: one line per cell, with minus without, intervals included."""

from __future__ import annotations

from collections.abc import Sequence

from likeness.report.by_photo import together
from likeness.report.metric_names import interval
from likeness.report.records import CellResult, Failed, count_pairs, count_sources, measured_alike, pooled
from likeness.report.varying import told_apart

SHOWN = {"clip_t": "CLIP to prompt", "lpips": "LPIPS to source", "head_shift_px": "head moved, px"}
MOST_LINES = 100  # more are no help in a terminal; the report's page has them all
NARROWEST = 140  # columns, where the output is no terminal


def print_table(done: Sequence[CellResult], failed: Sequence[Failed] = ()) -> None:
    """Print cells' edit success and paired differences, an edit of several photos as one line; failed cells last."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = "Prompt-to-Prompt minus re-prompting, from the same noise"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading in ("subject", "edit", "asked", "n"):
        table.add_column(heading, no_wrap=heading != "asked")
    table.add_column("edit happened\nwith / without", justify="right")
    present = [name for name in SHOWN if any(cell.difference(name) for cell in done)]
    for name in present:
        table.add_column(f"{SHOWN[name]}\nmean [95 %]", justify="right")
    lines = told_apart(together(done))
    for cell in lines[:MOST_LINES]:
        axes = cell.axes
        differences = [interval(name, cell.difference(name)) for name in present]
        texts = (axes["subject"], axes["edit"], cell.label, str(cell.summary["n"]), success(cell), *differences)
        table.add_row(*map(Text, texts))  # what a user typed is no markup
    if len(lines) > MOST_LINES:
        table.add_row("…", "", f"{len(lines) - MOST_LINES} more in the report", "", "")
    for row in overall(done, present):
        table.add_section()
        table.add_row(*row)
    for cell in failed:
        table.add_row("[red]failed", "", Text(cell.folder.name), "", Text(cell.error))
    console = Console()
    (console if console.is_terminal else Console(width=NARROWEST)).print(table)


def overall(cells: Sequence[CellResult], metrics: Sequence[str]) -> list[list[str]]:
    """Return one row for each set of several cells that may be averaged: their numbers pooled over source pictures."""
    rows = []
    for number, members in enumerate(measured_alike(cells).values(), 1):
        if len(members) < 2:
            continue
        found = pooled(members, "edit_success")
        happened = f"{found['with']:.0%} / {found['without']:.0%}" if found else "–"
        entries = {metric: pooled(members, metric) for metric in metrics}
        n = count_pairs(members)
        which = "all" if len(members) == len(cells) else f"measured alike ({number})"
        over = f"{len(members)} cells, mean over {count_sources(members)} source pictures"
        rows.append([which, "", over, str(n), happened,
                     *(interval(name, entry and entry["difference"]) for name, entry in entries.items())])  # fmt: skip
    return rows


def success(cell: CellResult) -> str:
    """Return "75 % / 100 %", or a dash where nothing says whether the edit happened."""
    shares = cell.summary.get("success")
    return f"{shares['with']:.0%} / {shares['without']:.0%}" if shares else "–"
