"""What an output folder holds, how large it is, and what of it no run needs any more.

python -m likeness.disk [outputs] [--free checkpoints pictures]: without --free nothing is deleted. A finished training
needs its checkpoints no more; plain pictures are kept for further cells, which would draw them again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from likeness.dreambooth import is_finished, storage
from likeness.errors import InputError

CHECKPOINTS, PICTURES = "checkpoints", "pictures"  # what can be freed
SHARED = {  # folder of an output folder -> what it is, and by which word it can be freed
    "class_images": ("class pictures and caches of trainings, drawn once for all that ask for the same", None),
    "cells": ("cells: the results", None),
    "runs": ("reports, logs and pointers of commands", None),
    "wandb": ("W&B runs, uploaded or not", None),
    "pictures": ("plain pictures, drawn again where a further cell needs them", PICTURES),
}


@dataclass(frozen=True)
class Held:
    """Folders that belong together, their bytes, and by which word they can be freed (None: they are needed)."""

    what: str
    folders: tuple[Path, ...]
    size: int
    note: str
    free: str | None = None


def held(out: Path) -> list[Held]:
    """Return what lies in an output folder, the models first; InputError where nothing of this program does."""
    found = [part for folder in sorted(out.glob("models/*/[!.]*")) if folder.is_dir() for part in _model(folder)]
    for name, (note, free) in SHARED.items():
        if (out / name).is_dir():
            found.append(Held(name, (out / name,), size_of(out / name), note, free))
    if not found:
        raise InputError(f"{out} holds no models, cells or runs: give the folder that train.py and sweep.py write to.")
    return found


def _model(folder: Path) -> Iterator[Held]:
    checkpoints = tuple(storage.checkpoints(folder))
    size = sum(map(size_of, checkpoints))
    name = "/".join(folder.parts[-2:])
    if storage.is_locked(folder):
        state, free = "being trained now", None
    elif is_finished(folder):
        state, free = "finished", CHECKPOINTS
    else:
        state, free = "unfinished: its command goes on, or delete the folder", None
    yield Held(name, (folder,), size_of(folder) - size, state)
    if checkpoints:
        note = "no longer needed" if free else "to go on from"
        yield Held(f"  {len(checkpoints)} checkpoints", checkpoints, size, note, free)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder; one that another process deletes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += 0 if path.is_dir() or path.is_symlink() else path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def free(found: Sequence[Held], kinds: Sequence[str]) -> int:
    """Delete what can be freed of these kinds; return the bytes. What begins to be trained meanwhile is left alone."""
    freed = 0
    for part in found:
        if part.free is None or part.free not in kinds:
            continue
        if part.free == CHECKPOINTS:
            with storage.locked(part.folders[0].parent):
                _delete(part.folders)
        else:
            _delete(part.folders)
        freed += part.size
    return freed


def _delete(folders: Sequence[Path]) -> None:
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise InputError(f"cannot delete {folder}: {error.strerror or error}.") from error


def shown(size: int) -> str:
    """Return bytes as a text of eight characters: " 12.3 GB"."""
    return f"{size / 1e9:5.1f} GB" if size >= 1e9 else f"{size / 1e6:5.1f} MB"


def main(argv: list[str] | None = None) -> None:
    about, _, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="likeness.disk", description=about, epilog=more.partition(": ")[2])
    parser.add_argument("out", nargs="?", type=Path, default=Path("outputs"))
    parser.add_argument("--free", nargs="+", choices=(CHECKPOINTS, PICTURES), default=[], help="delete these")
    arguments = parser.parse_args(argv)
    try:
        found = held(arguments.out)
        for part in found:
            print(f"{shown(part.size)}  {part.what:<60}  {part.note}")
        print(f"{shown(sum(part.size for part in found))}  in all")
        if arguments.free:
            print(f"{shown(free(found, arguments.free))}  freed")
            return
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    for kind in (CHECKPOINTS, PICTURES):
        if size := sum(part.size for part in found if part.free == kind):
            print(f"{shown(size)}  can be freed: python -m likeness.disk {arguments.out} --free {kind}")


if __name__ == "__main__":
    main()
