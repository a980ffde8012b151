"""Redraw a recorded cell and say whether it is the same: python -m likeness.replay outputs/cells/NAME [--keep DIR].

The record alone decides what is drawn; the fine-tuned model is looked for in the output folder that the cell lies in,
else in the recorded one. What differs in versions, weights or device is named if pictures differ.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from likeness.config import from_plain
from likeness.errors import InputError
from likeness.study import cells, edited
from likeness.study.cell import redraw

ARMS = cells.ARMS
DECIDING = ("weights", "data", "photo", "dtype", "device", "hardware", "environment")  # parts of a record


def replay(folder: Path, keep: Path | None = None) -> dict[str, Any]:
    """Redraw a cell from its record; return the largest difference of each picture in grey levels, and what changed.

    Raises InputError for a folder that holds no finished cell, or not all of its pictures.
    """
    record = finished_record(folder)
    recorded = {
        (seed, arm): picture(folder / cells.picture_file(seed, arm)) for seed in record["seeds"] for arm in ARMS
    }
    with tempfile.TemporaryDirectory() as scratch:
        sweep = from_plain(record["config"])
        sweep.out = out_of(folder) or sweep.out
        sweep.finetuned = edited.moved(sweep)
        drawn, now = redraw(sweep, Path(scratch), overrides_of(record))
    differences = {}
    for index, seed in enumerate(record["seeds"]):
        for arm in ARMS:
            name = Path(cells.picture_file(seed, arm)).name
            old, new = recorded[seed, arm], drawn.pictures[arm][index]
            differences[name] = int(np.abs(old - new).max()) if old.shape == new.shape else 255
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                Image.fromarray(new).save(keep / name)
    return {"pictures": differences, "changed": changed(record, now)}


def finished_record(folder: Path) -> dict[str, Any]:
    """Return the record of a finished cell, with the parts that say what was drawn; InputError where it is none."""
    record = cells.read_record(folder) or {}
    parts = isinstance(record.get("config"), dict) and isinstance(record.get("seeds"), list) and record["seeds"]
    if record.get("status") != "done" or not parts:
        raise InputError(f"{folder} holds no finished cell: give a folder under outputs/cells/.")
    return record


def out_of(folder: Path) -> str | None:
    """Return the output folder that a cell lies in with its models; None where it lies elsewhere, as a copy may."""
    tree = folder.resolve().parent
    return str(tree.parent) if tree.name == "cells" and (tree.parent / "models").is_dir() else None


def picture(path: Path) -> np.ndarray:
    """Return a recorded picture as integers (h, w, 3); InputError where it is missing or broken."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB")).astype(int)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"{path} is missing or no picture, so there is nothing to compare with; the command in record.json "
            "draws the cell again."
        ) from error


def overrides_of(record: dict[str, Any]) -> list[str]:
    """Return the overrides of the command in a record, which is "python sweep.py override ..."."""
    return shlex.split(str(record.get("command") or ""))[2:]


def changed(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what decides a picture and is not as it was: "environment.packages.torch: 2.9.0 -> 2.10.0"."""
    old, new = (flat({name: record.get(name) for name in DECIDING}) for record in (then, now))
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in old | new if old.get(name) != new.get(name)]


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Return nested dicts as one, under dotted names."""
    if not isinstance(value, dict):
        return {place: value}
    return {k: v for name, inner in value.items() for k, v in flat(inner, f"{place}.{name}".lstrip(".")).items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.replay", description=__doc__)
    parser.add_argument("cell", type=Path, help="a folder under outputs/cells, or its record.json")
    parser.add_argument("--keep", type=Path, help="save the redrawn pictures here")
    arguments = parser.parse_args(argv)
    folder = arguments.cell.parent if arguments.cell.name == "record.json" else arguments.cell
    try:
        result = replay(folder, arguments.keep)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    worst = max(result["pictures"].values())
    if worst == 0:
        print(f"identical: {len(result['pictures'])} pictures")
        return
    print(f"different: up to {worst} of 255 grey levels")
    for name, difference in result["pictures"].items():
        if difference:
            print(f"  {name}: {difference}")
    for line in result["changed"] or ["nothing recorded has changed"]:
        print(f"  {line}")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
