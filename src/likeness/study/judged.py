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
from likeness.report.by_photo import grouped
from likeness.report.folders import cells_under
from likeness.report.records import CellResult, read_cells, refuse_mixtures, source_of
from likeness.study.measure import to_tensor

ARMS = ("without", "with")
METRICS = ("lpips", "ssim", "psnr", "clip_structure", "clip_t", "clip_dir")  # of a cell, kept beside the truth
Row = dict[str, Any]


def finished_cells(places: Iterable[Path]) -> list[CellResult]:
    """Return the finished cells of model=paperdoll in, under or pointed at by folders.

    InputError if there is none, or if they were measured with different backbones or drawn by different versions.
    """
    places = list(places)
    cells, _ = read_cells(cells_under(places))
    cells = [cell for cell in cells if cell.axes.get("model") == "paperdoll"]
    if not cells:
        raise InputError(
            f"no finished cell of model=paperdoll under {', '.join(map(str, places))}: run sweep.py first."
        )
    try:
        refuse_mixtures(cells, *METRICS)
    except ValueError as error:
        raise InputError(
            f"{error} Name cells that were drawn and measured alike, or draw the older ones again."
        ) from error
    return cells


def pictures(cell: CellResult, arm: str) -> torch.Tensor:
    """Return an arm's pictures (n, 3, h, w) in [0, 1], one per seed in the record's order."""
    shown = []
    for seed in cell.record["seeds"]:
        with Image.open(cell.folder / "images" / f"seed{int(seed):04d}-{arm}.png") as image:
            shown.append(np.asarray(image.convert("RGB")))
    return to_tensor(shown)


def judged_rows(cells: Iterable[CellResult], judge) -> list[Row]:
    """Return one row per seed and arm: what the judge reads (`true_*`) beside what the cell measured.

    `true_edit_success`, `true_head_shift_px`, `true_other_changed`, `true_identity_shift` and `true_blossom` are
    those of `likeness.metrics.readings.compare`, from the judge's readings. Rows of one `source` and seed edit the
    same source picture; rows of one `edit`, named after its first cell, are the same edit of several
    photos.
    """
    rows, cells = [], list(cells)
    edits = {cell.folder: members[0].folder.name for members in grouped(cells) for cell in members}
    for cell in cells:
        source = judge.read(pictures(cell, "source"))
        prompts = cell.record["source_prompt"], cell.record["target_prompt"]
        measured = {(int(row["seed"]), row["arm"]): row for row in cell.rows}
        for arm in ARMS:
            values = compare(source, judge.read(pictures(cell, arm)), *prompts)
            for index, seed in enumerate(cell.record["seeds"]):
                true = {f"true_{name}": number(column[index]) for name, column in values.items()}
                about = {"cell": cell.folder.name, "subject": cell.axes["subject"], "asked": cell.label}
                about["edit"] = edits[cell.folder]
                about |= {
                    "source": " ".join(source_of(cell)),
                    "source_prompt": prompts[0],
                    "target_prompt": prompts[1],
                }
                about |= {axis: cell.axes.get(axis) for axis in ("word", "weight")}
                stored = measured[int(seed), arm]
                own = {name: number(stored.get(name)) for name in METRICS}
                rows.append(about | {"seed": int(seed), "arm": arm} | own | true)
    return rows


def number(value: Any) -> float | None:
    """Return a finite float, else None."""
    if value in (None, ""):
        return None
    found = float(value)
    return found if math.isfinite(found) else None
