"""Cells of several photos as one line: the same edit of each, its numbers pooled over the photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from likeness.report.records import CellResult, pooled


def grouped(cells: Sequence[CellResult]) -> list[list[CellResult]]:
    """Return cells that differ in nothing but their photo together, all others alone, in order of appearance."""
    groups: dict[object, list[CellResult]] = {}
    for cell in cells:
        alone = cell.axes.get("photo") is None or not cell.compares
        groups.setdefault(cell.folder if alone else _but_for_the_photo(cell), []).append(cell)
    return list(groups.values())


def together(cells: Sequence[CellResult]) -> list[CellResult]:
    """Return one cell for each group: of several photos with their number instead of a name, and pooled numbers."""
    return [members[0] if len(members) == 1 else _one(members) for members in grouped(cells)]


def _but_for_the_photo(cell: CellResult) -> tuple[object, ...]:
    asked = {axis: value for axis, value in cell.axes.items() if axis != "photo"}
    weights = cell.record.get("weights")
    return str(asked), cell.settings, weights, tuple(cell.conditions.values())


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
