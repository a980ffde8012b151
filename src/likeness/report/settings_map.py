"""How edit success and structure kept trade as settings move: every setting a point, the Pareto front, one chosen.

The chosen point is the one of the front nearest to the ideal corner, both axes scaled to the range of all points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from likeness.errors import InputError
from likeness.report.folders import cells_under
from likeness.report.records import CellResult, alike_but_training, by_backbones, pooled, read_cells
from likeness.report.varying import EDITING, NAMES, number_of, setting, varying

SUCCESS = ("edit_success", "clip_t")  # the first that was measured


@dataclass(frozen=True)
class Point:
    """A setting, pooled over the pictures of its cells: share of success (or clip_t), and LPIPS or the like."""

    values: tuple[str, ...]  # of the varying settings, in their order
    success: float
    lost: float  # lower means that more is kept
    n: int
    interval: tuple[float | None, float | None]  # of `lost`, with minus without


@dataclass(frozen=True)
class Map:
    """All points of a sweep measured alike."""

    settings: list[str]
    metrics: tuple[str, str]  # of success and of what is lost
    points: list[Point]
    plain: list[Point]  # re-prompting, for each combination of the settings it knows
    front: list[int]
    chosen: int
    backbones: str


def trade(cells: Sequence[CellResult], lost: str = "lpips") -> Map:
    """Return the map of cells measured with the same backbones.

    Raises InputError where nothing varies, nothing was measured, or numbers would be pooled that must not be.
    """
    if not all(cell.compares for cell in cells):
        raise InputError(
            "cells that re-weight a word of the source's own prompt cannot be traded against re-prompting."
        )
    settings = varying(cells)
    if not settings:
        raise InputError("these cells do not differ in any setting: sweep a window, a threshold or a schedule.")
    success = next((name for name in SUCCESS if all(cell.mean(name, "with") is not None for cell in cells)), None)
    if success is None or any(cell.mean(lost, "with") is None for cell in cells):
        raise InputError(f"not all of these cells were measured with {lost} and one of {', '.join(SUCCESS)}.")
    points = _points(cells, settings, "with", success, lost)
    shared = [path for path in settings if path not in EDITING]
    plain = _points(cells, shared, "without", success, lost)
    front = pareto([(point.lost, point.success) for point in points])
    return Map(settings, (success, lost), points, plain, front, chosen(points, front), cells[0].backbones)


def swept(cells: Sequence[CellResult]) -> list[CellResult]:
    """Return the cells that ask for the same edit as another with other windows or thresholds: what a map is for."""
    asked: dict[tuple[str, ...], list[CellResult]] = {}
    for cell in cells:
        if cell.compares:
            prompts = (cell.record["source_prompt"], cell.record["target_prompt"])
            asked.setdefault((cell.axes["subject"], cell.axes["edit"], *prompts), []).append(cell)
    return [cell for members in asked.values() if set(varying(members)) & set(EDITING) for cell in members]


def map_of(cells: Sequence[CellResult]) -> Map | None:
    """Return the map of cells measured alike, as far as they sweep settings; None where they do not, or cannot."""
    members = swept(cells)
    try:
        return trade(members) if members else None
    except InputError:
        return None


def maps_by_group(groups: dict[str, list[CellResult]]) -> dict[str, tuple[Map, int]]:
    """Return the map of each group of `measured_alike` that has one, and of how many trainings its cells are.

    Groups that differ in training alone share one map, which the first of them has: how training trades against the
    windows. They have maps of their own where their subjects were not all trained alike, or `trade` refuses.
    """
    found = {}
    for names in alike_but_training(groups):
        cells = [cell for name in names for cell in groups[name]]
        if len(names) > 1 and _crossed(cells) and (joint := map_of(cells)):
            found[names[0]] = (joint, len(names))
        else:
            found |= {name: (made, 1) for name in names if (made := map_of(groups[name]))}
    return found


def _crossed(cells: Sequence[CellResult]) -> bool:
    """Say whether every subject was drawn with every training, so that a point pools no two of them."""
    trained: dict[str, set[str]] = {}
    for cell in cells:
        trained.setdefault(cell.axes["subject"], set()).add(cell.conditions["training"])
    return len(set(map(frozenset, trained.values()))) == 1


def _points(cells: Sequence[CellResult], settings: list[str], arm: str, success: str, lost: str) -> list[Point]:
    groups: dict[tuple[str, ...], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault(tuple(setting(cell, path) for path in settings), []).append(cell)
    points = []
    for values, members in sorted(groups.items(), key=lambda item: [number_of(v) for v in item[0]]):
        try:
            happened, kept = pooled(members, success), pooled(members, lost)
        except ValueError as error:
            raise InputError(f"{error} Give the run folder of one sweep, or draw the older cells again.") from error
        if happened is None or kept is None:
            raise InputError(f"nothing to pool for {', '.join(values)}: draw its cells again.")
        difference = kept["difference"]
        interval = (difference["low"], difference["high"])
        points.append(Point(values, happened[arm], kept[arm], difference["n"], interval))
    return points


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of points (x: lower is better, y: higher is better) that no other beats, by x.

    Of equal points the first counts.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def chosen(points: Sequence[Point], front: Sequence[int]) -> int:
    """Return the point of the front nearest to the ideal corner."""

    def scaled(values: list[float], value: float) -> float:
        return (value - min(values)) / (max(values) - min(values) or 1.0)

    lost, success = [p.lost for p in points], [p.success for p in points]
    return min(front, key=lambda i: math.hypot(scaled(lost, points[i].lost), 1 - scaled(success, points[i].success)))


def markdown(made: Map) -> str:
    """Return every setting as a row, points of the front marked, the chosen one in bold."""
    heads = [NAMES[path] for path in made.settings]
    lines = [
        f"| {' | '.join(heads)} | n | {made.metrics[0]} | {made.metrics[1]} | with − without [95 %] | |",
        "|---" * (len(heads) + 5) + "|",
    ]
    for index, point in enumerate(made.points):
        mark = "**chosen**" if index == made.chosen else "front" if index in made.front else ""
        low, high = point.interval
        shown = "–" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"
        cells = [*point.values, str(point.n), f"{point.success:.2f}", f"{point.lost:.3f}", shown, mark]
        lines.append(f"| {' | '.join(cells)} |")
    for point in made.plain:
        names = [path for path in made.settings if path not in EDITING]
        known = dict(zip(names, point.values, strict=True))
        values = [known.get(path, "re-prompting") for path in made.settings]
        lines.append(f"| {' | '.join(values)} | {point.n} | {point.success:.2f} | {point.lost:.3f} | – | |")
    return "\n".join([*lines, "", f"Measured with {made.backbones}."])


def maps_of(places: Sequence[Path], lost: str) -> list[Map]:
    """Return one map for each set of backbones found under the places."""
    cells, _ = read_cells(cells_under(places))
    if not cells:
        raise InputError(f"no finished cell under {', '.join(map(str, places))}: run sweep.py first.")
    return [trade(members, lost) for members in by_backbones(cells).values()]
