"""Which cells a person means by naming folders: outputs, run folders, or single cells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from likeness.errors import InputError

POINTER = "cell.txt"  # in a job's folder: where its cell is
FAILED = "failed.json"  # in a job's folder: it failed before there was a cell to put the error in


def cells_under(places: Iterable[Path]) -> list[Path]:
    """Return the cell folders in or under the given folders, and those that run folders point at; each once.

    Of a run folder also those of its jobs that failed before there was a cell. Cells that are pointed at and gone are
    among them: `read_cells` says so.
    """
    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            raise InputError(f"there is no folder {place}.")
        found += [record.parent for record in sorted(place.rglob("record.json")) if not _hidden(record, place)]
        found += [pointed_at(pointer) for pointer in sorted(place.rglob(POINTER))]
        found += [failed.parent for failed in (place / FAILED, *sorted(place.glob(f"*/{FAILED}"))) if failed.is_file()]
    unique = {folder.resolve(): folder for folder in found}
    return list(unique.values())


def pointed_at(pointer: Path) -> Path:
    """Return the cell that a job's pointer names, there or not; its path is absolute or from the job's folder."""
    return (pointer.parent / pointer.read_text(encoding="utf-8").strip()).resolve()


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
