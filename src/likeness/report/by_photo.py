"""Cells of several photos as one line: the same edit of each, its numbers pooled over the photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from likeness.report.records import AXES, CellResult, pooled
from likeness.report.varying import NAMES, setting


def grouped(cells: Sequence[CellResult]) -> list[list[CellResult]]:
    """Return cells that differ in nothing but their photo together, all others alone, in order of appearance.

    A photo that was edited so twice, as with another display, is in a second group.
    """
    groups: dict[object, list[CellResult]] = {}
    for cell in cells:
        photo = cell.record.get("photo")
        alone = photo is None or not cell.compares
        key, seen = (cell.folder if alone else _but_for_the_photo(cell)), 0
        while any(other.record.get("photo") == photo for other in groups.get((key, seen), ())):
            seen += 1
        groups.setdefault((key, seen), []).append(cell)
    return list(groups.values())


def together(cells: Sequence[CellResult]) -> list[CellResult]:
    """Return one cell for each group: of several photos with their number instead of a name, and pooled numbers."""
    return [members[0] if len(members) == 1 else _one(members) for members in grouped(cells)]


def _but_for_the_photo(cell: CellResult) -> tuple[object, ...]:
    asked = tuple(str(cell.axes.get(axis)) for axis in AXES if axis != "photo" and cell.axes.get(axis) is not None)
    about = (cell.axes["subject"], cell.axes["edit"], *(asked or [cell.record["target_prompt"]]))
    drawn = (cell.record.get("weights"), *cell.conditions.values())
    return about, drawn, tuple(setting(cell, path) for path in NAMES)


def _one(members: list[CellResult]) -> CellResult:
    first = members[0]
    names = [name for name in first.summary["metrics"] if all(name in cell.summary["metrics"] for cell in members)]
    metrics = {name: entry for name in names if (entry := pooled(members, name)) is not None}
    success = metrics.get("edit_success")
    return replace(
        first,
        record=first.record | {"axes": first.axes | {"photo": f"{len(members)} photos"}},
        rows=[row for cell in members for row in cell.rows],
        summary={
            "n": sum(cell.summary["n"] for cell in members),
            "metrics": metrics,
            "success": success and {arm: success[arm] for arm in ("with", "without")},
        },
    )
