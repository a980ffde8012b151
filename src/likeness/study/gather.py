"""Bring the cells of a sweep together: a table in the terminal and the report page. Can be run again at any time.

python -m likeness.study.gather outputs/runs/2026-01-01_10-00-00_sweep
"""

from __future__ import annotations

import argparse
from pathlib import Path

from likeness.errors import InputError
from likeness.study.cells import read_record


def cells_of(run_dir: Path) -> list[Path]:
    """Return the cell folders a run folder points at, each once, in the order of its jobs."""
    pointers = [run_dir / "cell.txt", *sorted(run_dir.glob("*/cell.txt"), key=_job_number)]
    folders = [Path(p.read_text(encoding="utf-8").strip()) for p in pointers if p.is_file()]
    return list(dict.fromkeys(f for f in folders if f.is_dir()))


def _job_number(pointer: Path) -> tuple[int, str]:
    name = pointer.parent.name
    return (int(name), name) if name.isdigit() else (1 << 30, name)


def gather(run_dir: Path, title: str | None = None) -> Path | None:
    """Print the table and write report.html into the run folder; None where no cell was drawn."""
    folders = cells_of(run_dir)
    if not folders:
        return None
    from likeness.report.page import write_report
    from likeness.report.table import print_table

    done = [f for f in folders if (read_record(f) or {}).get("status") == "done"]
    failed = [f for f in folders if f not in done]
    if done:
        print_table(done)
    page = write_report(folders, run_dir / "report.html", title or run_dir.name)
    for folder in failed:
        print(f"failed: {folder.name}: {(read_record(folder) or {}).get('error')}")
    print(f"report: {page}")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--title")
    arguments = parser.parse_args()
    try:
        if not arguments.run_dir.is_dir():
            raise InputError(f"there is no run folder {arguments.run_dir}; see outputs/runs/.")
        if gather(arguments.run_dir, arguments.title) is None:
            raise InputError(f"{arguments.run_dir} points at no cell: nothing was drawn there.")
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
