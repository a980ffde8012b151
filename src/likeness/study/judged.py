"""Finished cells as the judge reads them: it shares nothing with the metrics that the cells were measured with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from likeness.errors import InputError
from likeness.metrics.readings import compare
from likeness.report.records import CellResult, read_cells
from likeness.study.gather import cells_of

ARMS = ("without", "with")
Row = dict[str, Any]


def finished_cells(places: Iterable[Path]) -> list[CellResult]:
    """Return the finished cells of model=paperdoll in, under or pointed at by folders; InputError if there is none."""
    places = list(places)
    folders = [folder for place in places for folder in _folders(place)]
    cells, _ = read_cells({folder.resolve(): folder for folder in folders}.values())
    cells = [cell for cell in cells if cell.axes.get("model") == "paperdoll"]
    if not cells:
        raise InputError(
            f"no finished cell of model=paperdoll under {', '.join(map(str, places))}: run sweep.py first."
        )
    return cells


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        raise InputError(f"there is no folder {place}.")
    found = [record.parent for record in sorted(place.rglob("record.json"))]
    return [f for f in found if not any(part.startswith(".") for part in f.relative_to(place).parts)] + cells_of(place)


def pictures(cell: CellResult, arm: str) -> torch.Tensor:
    """Return an arm's pictures (n, 3, h, w) in [0, 1], one per seed in the record's order."""
    shown = []
    for seed in cell.record["seeds"]:
        with Image.open(cell.folder / "images" / f"seed{int(seed):04d}-{arm}.png") as image:
            shown.append(np.asarray(image.convert("RGB")))
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 255


def judged_rows(cells: Iterable[CellResult], judge) -> list[Row]:
    """Return one row per seed and arm: what the judge reads (`true_*`) beside what the cell measured.

    `true_edit_success`, `true_head_shift_px`, `true_other_changed`, `true_identity_shift` and `true_blossom` are
    those of `likeness.metrics.readings.compare`, from the judge's readings.
    """
    rows = []
    for cell in cells:
        source = judge.read(pictures(cell, "source"))
        prompts = cell.record["source_prompt"], cell.record["target_prompt"]
        measured = {(int(row["seed"]), row["arm"]): row for row in cell.rows}
        for arm in ARMS:
            values = compare(source, judge.read(pictures(cell, arm)), *prompts)
            for index, seed in enumerate(cell.record["seeds"]):
                true = {f"true_{name}": number(column[index]) for name, column in values.items()}
                about = {"cell": cell.folder.name, "subject": cell.axes["subject"], "asked": cell.label}
                weight = cell.axes.get("weight")
                stored = measured[int(seed), arm]
                own = {name: number(stored.get(name)) for name in ("lpips", "ssim", "psnr", "clip_t", "clip_dir")}
                rows.append(about | {"weight": weight, "seed": int(seed), "arm": arm} | own | true)
    return rows


def number(value: Any) -> float | None:
    """Return a finite float, else None."""
    if value in (None, ""):
        return None
    found = float(value)
    return found if math.isfinite(found) else None
