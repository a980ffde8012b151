"""Measure a cell's pictures, pair the arms by seed, and lay the cell out in files."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from likeness.config import Sweep
from likeness.study import place
from likeness.study.cells import ARMS, CellWriter, picture_file
from likeness.study.extensions import ExtendedSuite
from likeness.study.plan import EditPlan
from likeness.subjects import load_photos

SIDE = 512  # of photos, where the model's resolution is its own
Measured = dict[str, dict[str, list[float | None]]]  # arm -> metric -> one value per seed


def to_tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    """Return uint8 (h, w, 3) pictures as float (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def suite_for(sweep: Sweep, device: str):
    """Return the suite that measures a cell, the likeness to the subject's photos included."""
    from likeness import metrics

    options = {"device": device, "lpips_net": sweep.metrics.lpips_net}
    judge = metrics.build_subject(sweep.metrics.name, **options)
    photos = tuple(photo.path for photo in place.photos_of(sweep.subject))
    fidelity = _fidelity(judge, photos, sweep.model.resolution or SIDE)
    suite = metrics.build(sweep.metrics.name, **options).with_subject(fidelity)
    return ExtendedSuite(suite, sweep.metrics.extra) if sweep.metrics.extra else suite


@functools.lru_cache(maxsize=8)
def _fidelity(judge, photos: tuple[Path, ...], side: int):
    from likeness.metrics.subject import Fidelity

    return Fidelity(judge, lambda: load_photos(photos, side))


def measure(
    suite, pictures: dict[str, list[np.ndarray]], plan: EditPlan, masks: dict[str, list[np.ndarray]] | None = None
) -> Measured:
    """Return every metric of every arm against the source of the same seed.

    `masks`: boolean (y, x) per seed, by what they are, for metrics inside and outside of them. The source arm is
    measured against itself and its own prompt, so that its `clip_t` and probe readings are in the table; where a
    metric compares with the source it says what no change at all would give.
    """
    arms = {arm: to_tensor(pictures[arm]) for arm in ARMS}
    regions = {name: torch.from_numpy(np.stack(per_seed)) for name, per_seed in (masks or {}).items()}
    measured = suite.measure_arms(arms, plan.source_prompt, plan.target_prompt, regions)
    return {
        arm: {name: [_number(v) for v in values.tolist()] for name, values in metrics.items()}
        for arm, metrics in measured.items()
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def summarise(measured: Measured, seeds: list[int]) -> dict[str, Any]:
    """Return means and the paired difference with minus without over seeds, per metric."""
    from likeness.metrics.statistics import paired

    metrics: dict[str, Any] = {}
    for name in measured["with"]:
        pairs = [
            (a, b)
            for a, b in zip(measured["with"][name], measured["without"].get(name, []), strict=False)
            if a is not None and b is not None
        ]
        if not pairs:
            continue
        with_, without = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
        metrics[name] = {
            "with": float(with_.mean()),
            "without": float(without.mean()),
            "difference": paired(with_, without),
        }
    success = metrics.get("edit_success")
    return {
        "n": len(seeds),
        "metrics": metrics,
        "success": {arm: success[arm] for arm in ("with", "without")} if success else None,
    }


def write_cell(writer: CellWriter, record: dict[str, Any], drawn, measured: Measured) -> list[dict[str, Any]]:
    """Write pictures, grid, results.csv, summary.json and the record; return the rows of results.csv."""
    from likeness.report.grid import make_grid, stack

    seeds, axes = record["seeds"], record["axes"]
    images = {arm: [Image.fromarray(p) for p in drawn.pictures[arm]] for arm in ARMS}
    names = list(dict.fromkeys(name for arm in ARMS for name in measured[arm]))
    rows = []
    for index, seed in enumerate(seeds):
        for arm in ARMS:
            file = writer.image(picture_file(seed, arm), images[arm][index])
            about = {k: axes[k] for k in ("subject", "prior_class", "model", "method", "schedule", "edit", "operator")}
            prompts = {k: record[k] for k in ("source_prompt", "target_prompt")}
            values = {name: measured[arm].get(name, [None] * len(seeds))[index] for name in names}
            rows.append({**about, **prompts, "seed": seed, "arm": arm, **values, "image": file})
    for name, image in (*drawn.attention.items(), *drawn.masks.items()):
        writer.image(name, image)
    shown = {
        f"source: {record['source_prompt']}": images["source"],
        f"without P2P: {record['target_prompt']}": images["without"],
        f"with P2P: {record['target_prompt']}": images["with"],
    }
    if drawn.masks:
        shown["where LocalBlend let the edit through"] = list(drawn.masks.values())
    columns = [f"photo {axes['photo']}"] if axes.get("photo") else [f"seed {seed}" for seed in seeds]
    grid = make_grid(list(shown.values()), list(shown), columns)
    if "attention.png" in drawn.attention:
        grid = stack([grid, drawn.attention["attention.png"]])
    writer.image("grid.png", grid)
    writer.csv("results.csv", rows)
    writer.json("summary.json", summarise(measured, seeds))
    writer.json("record.json", record)
    return rows
