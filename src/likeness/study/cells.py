"""A cell on disk: named by the hash of what decides its result, written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from likeness.config import Sweep, slug
from likeness.dreambooth.storage import read_json, swap
from likeness.errors import InputError
from likeness.report.spreadsheet import write_rows
from likeness.study.extensions import code_id, is_extension
from likeness.study.place import short_hash
from likeness.study.plan import EditPlan, label

FORMAT = 1
ARMS = ("source", "without", "with")


def cell_identity(
    sweep: Sweep, plan: EditPlan, weights: str, dtype: str, backbones: dict[str, str], photo: str | None = None
) -> dict[str, Any]:
    """Return everything that decides the pictures and numbers of a cell, ready for JSON (`photo`: its hash)."""
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
        **({} if photo is None else {"photo": photo}),
        **({"operator": code_id(plan.operator)} if is_extension(plan.operator) else {}),
    }


def cell_name(sweep: Sweep, plan: EditPlan, identity: dict[str, Any]) -> str:
    """Return a readable name with the hash at its end; the same result has the same name."""
    names = (sweep.subject.name, sweep.edit.name, label(plan.axes), sweep.method.name, sweep.schedule.name)
    return "-".join((*map(slug, names), short_hash(identity)))


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a cell, or None where there is none or it is torn."""
    record = read_json(folder / "record.json")
    return record if record is not None and record.get("format") == FORMAT else None


def picture_file(seed: int, arm: str) -> str:
    """Return where a cell keeps a picture, relative to its folder."""
    return f"images/seed{seed:04d}-{arm}.png"


def is_done(folder: Path) -> bool:
    """Say whether a finished cell with all its pictures lies here."""
    record = read_record(folder)
    if record is None or record.get("status") != "done" or read_json(folder / "summary.json") is None:
        return False
    seeds = record.get("seeds")
    if not isinstance(seeds, list) or not seeds:
        return False
    images = (picture_file(seed, arm) for seed in seeds for arm in ARMS)
    return all((folder / name).is_file() for name in ("grid.png", "results.csv", *images))


def is_torn(folder: Path) -> bool:
    """Say whether something lies here that is neither a finished cell nor the record of a failed one."""
    return folder.exists() and not is_done(folder) and (read_record(folder) or {}).get("status") != "failed"


@contextlib.contextmanager
def _alone(cells: Path) -> Iterator[None]:
    """Let one process at a time move cells to their places; a killed one lets go by itself."""
    with cells.with_name(f".{cells.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class CellWriter:
    """Collect a cell's files beside its final place and move them there at once.

    Used as a context manager: without `commit` nothing appears under the final name. A finished cell that is there
    already is kept, unless `replace`.
    """

    def __init__(self, folder: Path, replace: bool = False) -> None:
        self.folder, self.replace = folder, replace

    def __enter__(self) -> CellWriter:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.part = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.parent))
        except OSError as error:
            raise self._unwritable(error) from error
        self.part.chmod(0o755)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.part, ignore_errors=True)
        if isinstance(error, OSError):
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"cannot write the cell {self.folder.name} into {self.folder.parent}: {error.strerror or error}. "
            "Cells that are there already are kept. Free some space, or choose another folder with out=..., "
            "then run the same command again."
        )

    def image(self, name: str, image: Image.Image) -> str:
        path = self.part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        return name

    def json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str)
        (self.part / name).write_text(text + "\n", encoding="utf-8")

    def csv(self, name: str, rows: list[dict[str, Any]]) -> None:
        write_rows(self.part / name, rows)

    def commit(self) -> None:
        """Move everything to its final place; a finished cell that another process wrote first is kept."""
        for path in self.part.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        with _alone(self.folder.parent):
            if is_done(self.folder) and not self.replace:
                return
            old = self.part.with_name(f"{self.part.name}.old")
            swap(self.part, self.folder, old)
        shutil.rmtree(old, ignore_errors=True)


def sweep_up(cells: Path, older_than: float) -> None:
    """Remove what killed processes left half-written: hidden folders untouched since `older_than` (seconds, epoch)."""
    for part in cells.glob(".*-????????.*"):
        with contextlib.suppress(OSError):
            if part.is_dir() and max(p.stat().st_mtime for p in (part, *part.rglob("*"))) < older_than:
                shutil.rmtree(part, ignore_errors=True)


def write_failed(folder: Path, record: dict[str, Any]) -> None:
    """Leave a record of a failed cell, unless a finished one is there."""
    if is_done(folder):
        return
    with CellWriter(folder) as writer:
        writer.json("record.json", record)
        writer.commit()
