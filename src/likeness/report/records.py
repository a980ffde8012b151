"""Read the records of cells, and pool them: only numbers measured with the same backbones are put together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from likeness.metrics.statistics import paired
from likeness.report.spreadsheet import read_rows

AXES = ("style", "scene", "target", "addition", "word", "weight")
FAILED = "failed.json"  # in a job's folder: it failed before there was a cell to put the error in


@dataclass(frozen=True)
class CellResult:
    """A finished cell: its record, its summary and one row per picture."""

    folder: Path
    record: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, str]]
    settings: str = ""  # what sets it apart from other cells beside what was asked; see varying.told_apart

    @property
    def axes(self) -> dict[str, Any]:
        return self.record["axes"]

    @property
    def label(self) -> str:
        """Return what the cell asked for, short: "cake", "watercolor", "blossom 4"."""
        values = [self.axes.get(axis) for axis in AXES]
        shown = [f"{v:g}" if isinstance(v, float) else str(v) for v in values if v is not None]
        asked = " ".join(shown) or self.record["target_prompt"]
        return f"{asked}, {self.settings}" if self.settings else asked

    @property
    def name(self) -> str:
        return f"{self.axes['subject']} · {self.axes['edit']} · {self.label}"

    @property
    def backbones(self) -> str:
        """Return the weights the numbers were measured with, as one line."""
        return ", ".join(dict.fromkeys(self.record["backbones"].values()))

    def difference(self, metric: str) -> dict[str, Any] | None:
        """Return the paired difference with minus without, None where it was not measured."""
        entry = self.summary["metrics"].get(metric)
        return entry["difference"] if entry else None

    def mean(self, metric: str, arm: str) -> float | None:
        """Return the mean of an arm ("with" or "without")."""
        entry = self.summary["metrics"].get(metric)
        return entry[arm] if entry else None


@dataclass(frozen=True)
class Failed:
    """A cell that did not finish, or a folder that is none."""

    folder: Path
    error: str
    command: str | None = None


def read_cells(folders: Iterable[Path]) -> tuple[list[CellResult], list[Failed]]:
    """Read cell folders; what is unreadable or failed comes back in the second list."""
    cells, failed = [], []
    for folder in folders:
        try:
            name = "record.json" if (folder / "record.json").is_file() else FAILED
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            if record.get("status") != "done":
                failed.append(Failed(folder, str(record.get("error")), record.get("command")))
                continue
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            cells.append(CellResult(folder, record, summary, read_rows(folder / "results.csv")))
        except (OSError, ValueError, AttributeError) as error:
            failed.append(Failed(folder, f"unreadable: {error}"))
    return cells, failed


def values(cells: Sequence[CellResult], metric: str, arm: str) -> list[float | None]:
    """Return one value per picture of an arm, in the order of cells and seeds; None where not measured."""
    return [
        float(row[metric]) if row.get(metric) not in (None, "") else None
        for cell in cells
        for row in cell.rows
        if row["arm"] == arm
    ]


def pooled(cells: Sequence[CellResult], metric: str) -> dict[str, Any] | None:
    """Return means and the paired difference over all pictures of cells measured alike; None without pairs.

    Raises ValueError if the cells' backbones differ for this metric.
    """
    if len({cell.record["backbones"].get(metric) for cell in cells}) > 1:
        raise ValueError(f"{metric} was measured with different backbones; such numbers are not pooled.")
    both = zip(values(cells, metric, "with"), values(cells, metric, "without"), strict=True)
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    if not pairs:
        return None
    with_, without = zip(*pairs, strict=True)
    return {
        "with": sum(with_) / len(pairs),
        "without": sum(without) / len(pairs),
        "difference": paired(with_, without),
    }


def by_backbones(cells: Sequence[CellResult]) -> dict[str, list[CellResult]]:
    """Group cells by the weights they were measured with, in order of appearance."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        groups.setdefault(cell.backbones, []).append(cell)
    return groups
