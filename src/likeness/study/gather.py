"""Bring the cells of a sweep together: a table in the terminal and the report page. Can be run again at any time.

python -m likeness.study.gather outputs/runs/2026-01-01_10-00-00-123456_sweep

The exit code is 1 where jobs of the sweep left nothing, as those that an interrupted one never began.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from likeness.errors import InputError
from likeness.report.records import counted, listed, read_cells
from likeness.study import failures


def cells_of(run_dir: Path) -> list[Path]:
    """Return the cell folders a run folder points at, each once, in the order of its jobs; see `failures.jobs`."""
    return failures.jobs(run_dir)


def gather(run_dir: Path, title: str | None = None) -> Path | None:
    """Print the table and what failed, and write report.html into the run folder; None where no cell was drawn.

    Jobs of the last launch that were interrupted or never began, and left nothing, are counted apart from failed ones.
    """
    folders = cells_of(run_dir)
    done, failed = read_cells(folders)
    page = None
    if done:
        from likeness.report.page import write_page
        from likeness.report.table import print_table

        print_table(done)
        page = write_page(done, failed, run_dir / "report.html", title or run_dir.name)
    for cell in listed(failed) if len(folders) > 1 else ():  # a single job says itself what went wrong
        print(f"{'not drawn' if cell.silent else 'failed'}: {cell.name}: {cell.error}")
    if failed and (len(folders) > 1 or failed[0].silent):
        (first, count), *others = counted(failed).items()
        shown = [f"{count} of {len(folders)} cells {first}", *(f"{n} {what}" for what, n in others)]
        print(f"{', '.join(shown)}; the same command again draws only those.")
    if page is not None:
        print(f"report: {page}")
    return page


def what_next(run_dir: Path) -> str:
    """Say what the same command does after a sweep into this run folder was stopped."""
    _, failed = read_cells(cells_of(run_dir))
    what = "the cell that is" if failed or failures.is_single(run_dir) else "what is"
    if len(failed) > 1:
        what = f"the {len(failed)} cells that are"
    return f"the same command draws {what} not there"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--title")
    arguments = parser.parse_args(argv)
    try:
        if not arguments.run_dir.is_dir():
            raise InputError(f"there is no run folder {arguments.run_dir}; see outputs/runs/.")
        if gather(arguments.run_dir, arguments.title) is None:
            raise InputError(f"{arguments.run_dir} points at no cell: nothing was drawn there.")
        if failures.silent(arguments.run_dir):
            raise SystemExit(1)
    except (InputError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
