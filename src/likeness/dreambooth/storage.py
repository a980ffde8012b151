"""Files of a run: atomic writes, locks, space, identity, history. Free of torch, so that asking is cheap."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from likeness.dreambooth.settings import Concept, TrainSettings
from likeness.errors import InputError
from likeness.subjects import class_dir_hash, make_folder, photos_hash

FORMAT = 1
SETTINGS = "settings.json"
STATE = "state.json"  # of a checkpoint
CHECKPOINT = re.compile(r"checkpoint-\d+")
RUNGS = "rungs"
RESULTS = {"full": "model/model_index.json", "lora": "lora/pytorch_lora_weights.safetensors"}


def is_finished(folder: str | Path) -> bool:
    """Say whether a fine-tuned model lies there, whole; cheap."""
    record = read_json(Path(folder) / SETTINGS)
    if not record or not record.get("finished"):
        return False
    return (Path(folder) / RESULTS[record["identity"]["settings"]["method"]]).is_file()


def identity(model_id: str, concepts: list[Concept], settings: TrainSettings) -> dict[str, Any]:
    """Return everything that decides the trained weights, as JSON.

    Device and process count are not in it: a finished model is taken as it is; a checkpoint holds them itself.
    """
    return {
        "format": FORMAT,
        "model": model_id,
        "settings": settings.deciding(),
        "subjects": [
            {
                "identifier": c.identifier,
                "class_word": c.class_word,
                "instance_prompt": c.instance_prompt,
                "class_prompts": list(c.class_prompts),
                "class_pictures": class_dir_hash(c.class_dir, settings.num_class_images) if c.class_dir else None,
                "photos": photos_hash(c.photos),
                "captions": [c.caption(photo) for photo in c.photos],
            }
            for c in concepts
        ],
    }


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """List where two identities differ, as "settings.seed: 0 -> 1"."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [d for n in names for d in differences(old.get(n), new.get(n), f"{place}.{n}" if place else n)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and any(map(_is_dict, old)):
        return [d for k, pair in enumerate(zip(old, new, strict=True)) for d in differences(*pair, f"{place}[{k}]")]
    return [] if old == new else [f"{place}: {old} -> {new}"]


def refuse_changed(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """Refuse to go on with a run whose settings, photos or model have changed; say which."""
    changed = differences(old, new)
    if changed:
        raise InputError(
            f"{out} holds a run with other settings ({listed(changed)}). Restore them to go on with it, choose "
            "another output folder, or delete this one to start anew."
        )


def listed(changed: list[str]) -> str:
    """Return differences as a line; no more than six of them."""
    return f"{'; '.join(changed[:6])}{' and more' if len(changed) > 6 else ''}; then -> now"


def checkpoints(folder: Path) -> list[Path]:
    """List the checkpoint folders of a run, newest first, whole or not."""
    return sorted((f for f in folder.glob("checkpoint-*") if CHECKPOINT.fullmatch(f.name)), key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written, from its name."""
    return int(checkpoint.name.split("-")[1])


def left_unfinished(folder: Path) -> dict[str, Any] | None:
    """Return the identity of a run that was killed after a checkpoint and that nobody goes on with now, or None."""
    if is_finished(folder):
        return None
    states = (read_json(checkpoint / STATE) or {} for checkpoint in checkpoints(folder))
    identity = next((state["identity"] for state in states if "identity" in state), None)
    return None if identity is None or is_locked(folder) else identity


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint whose files have the sizes they were saved with, and its run's identity.

    Cheap: whether they hold what was saved, `checkpoint.find` tells.
    """
    for checkpoint in checkpoints(folder):
        state = read_json(checkpoint / STATE) or {}
        sizes = {checkpoint / name: size for name, (size, _) in state.get("files", {}).items()}
        if "identity" in state and sizes and all(f.is_file() and f.stat().st_size == n for f, n in sizes.items()):
            return checkpoint, state["identity"]
    return None


def is_locked(out: Path) -> bool:
    """Say whether a training is running in a folder; writes nothing."""
    try:
        with (out / ".lock").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, so nobody who held it
        return False
    return False


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the output folder; a killed process lets go of it by itself."""
    make_folder(out)
    with (out / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another training is running in {out}; wait for it or stop it.") from error
        yield


def need_space(folder: Path, size: int, what: str) -> None:
    """Refuse to write `size` bytes where they do not fit; the folder may be one still to be made."""
    free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
    if free < size * 1.02 + 2**20:
        raise InputError(
            f"not enough disk for {what} in {folder}: {size / 2**20:.0f} MB needed, "
            f"{free / 2**20:.0f} MB free. "
            "What was saved before is kept; free some space and start the same command again."
        )


def write_folder(target: Path, fill: Callable[[Path], None], what: str) -> None:
    """Write a folder so that it is either there and whole, or not there; an older one is replaced."""
    fresh = target.with_name(f".{target.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        fill(fresh)
        for file in fresh.rglob("*"):
            _sync(file)
        _sync(fresh)
        _replace_folder(fresh, target)
        _sync(target.parent)
    except Exception as error:  # safetensors reports a full disk as its own kind of exception
        shutil.rmtree(fresh, ignore_errors=True)
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise InputError(
                f"the disk is full: {what} could not be written to {target.parent}. What was saved before is "
                "kept; free some space and start the same command again."
            ) from error
        raise


def swap(fresh: Path, target: Path, old: Path) -> None:
    """Move a folder to its place, and what is there to `old`; whatever comes between, Ctrl-C too, that goes back."""
    try:
        if target.exists():
            target.rename(old)
        fresh.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise


def remove_leftovers(out: Path, finished: bool) -> None:
    """Delete what a killed run could not: half-written and replaced files; of a finished one also the ladder."""
    for place in (*([out / RUNGS] if finished else []), *out.glob(".*.old"), *out.glob(".*.partial")):
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    fresh = path.with_name(f".{path.name}.partial")
    with fresh.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None when there is none or it is torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


class History:
    """history.csv: one row per step that reported something; rewritten whole, so it is never torn."""

    def __init__(self, path: Path, upto: int) -> None:
        self.path, self.rows = path, {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as stream:
                for row in csv.DictReader(stream):
                    if int(row["step"]) <= upto:
                        self.rows[int(row["step"])] = {k: v for k, v in row.items() if k != "step" and v != ""}

    def numbers(self) -> dict[int, dict[str, float]]:
        """Return every row as numbers, by step."""
        return {step: {name: float(v) for name, v in row.items()} for step, row in sorted(self.rows.items())}

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add values to the row of a step and store the file."""
        self.rows.setdefault(step, {}).update({name: repr(float(value)) for name, value in values.items()})
        names = sorted({name for row in self.rows.values() for name in row})
        lines = [",".join(["step", *names])]
        lines += [",".join([str(s), *(row.get(n, "") for n in names)]) for s, row in sorted(self.rows.items())]
        write_text(self.path, "\n".join(lines) + "\n")


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _replace_folder(fresh: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    swap(fresh, target, old)
    shutil.rmtree(old, ignore_errors=True)  # also one that a kill between the two left


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
