"""A cell on disk: named by the hash of what decides its result, written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from likeness.config import Sweep, slug
from likeness.errors import InputError
from likeness.study.place import short_hash
from likeness.study.plan import EditPlan, label

FORMAT = 1
ARMS = ("source", "without", "with")


def cell_identity(sweep: Sweep, plan: EditPlan, weights: str, dtype: str, backbones: dict[str, str]) -> dict[str, Any]:
    """Return everything that decides the pictures and numbers of a cell, ready for JSON."""
    edit = asdict(sweep.edit)
    for name in ("name", "uses", "values", "phrases", "source"):
        edit.pop(name)  # how the prompts were made, not what they are
    return {
        "format": FORMAT,
        "weights": weights,
        "dtype": dtype,
        "resolution": sweep.model.resolution,
        "plan": asdict(plan) | {"axes": None, "swaps": None if sweep.edit.blend is None else plan.swaps},
        "edit": edit,
        "sampler": asdict(sweep.sampler),
        "seeds": sweep.seeds,
        "backbones": backbones,
        "show_attention": sweep.show_attention,
    }


def cell_name(sweep: Sweep, plan: EditPlan, identity: dict[str, Any]) -> str:
    """Return a readable name with the hash at its end; the same result has the same name."""
    parts = (slug(sweep.subject.name), slug(sweep.edit.name), slug(label(plan.axes)), sweep.method.name)
    return "-".join((*parts, sweep.schedule.name, short_hash(identity)))


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a cell, or None where there is none or it is torn."""
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def is_done(folder: Path) -> bool:
    """Say whether a finished cell with all its pictures lies here."""
    record = read_record(folder)
    if record is None or record.get("status") != "done" or not (folder / "grid.png").is_file():
        return False
    images = (f"seed{seed:04d}-{arm}.png" for seed in record["seeds"] for arm in ARMS)
    return (folder / "summary.json").is_file() and all((folder / "images" / name).is_file() for name in images)


class CellWriter:
    """Collect a cell's files beside its final place and move them there at once.

    Used as a context manager: without `commit` nothing appears under the final name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> CellWriter:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.part = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.parent))
        except OSError as error:
            raise InputError(
                f"cannot write into {self.folder.parent}: {error.strerror}. "
                "Choose another output folder with out=..., or free some space."
            ) from error
        self.part.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.part, ignore_errors=True)

    def image(self, name: str, image: Image.Image) -> str:
        path = self.part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return name

    def json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str)
        (self.part / name).write_text(text + "\n", encoding="utf-8")

    def csv(self, name: str, rows: list[dict[str, Any]]) -> None:
        with (self.part / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def commit(self) -> None:
        """Move everything to its final place; a finished cell that another process wrote first is kept."""
        for path in self.part.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if is_done(self.folder):
            return
        if self.folder.exists():
            shutil.rmtree(self.folder)
        try:
            self.part.rename(self.folder)
        except OSError:
            if not is_done(self.folder):
                raise


def write_failed(folder: Path, record: dict[str, Any]) -> None:
    """Leave a record of a failed cell, unless a finished one is there."""
    if is_done(folder):
        return
    with CellWriter(folder) as writer:
        writer.json("record.json", record)
        writer.commit()
