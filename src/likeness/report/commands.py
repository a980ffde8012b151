"""The commands that draw a recorded picture again, ready to paste into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path


def seed_commands(command: str, seeds: Iterable[int]) -> list[str]:
    """Return the command of a cell with its seeds replaced by each one: what draws this seed's three pictures."""
    try:
        words = shlex.split(command)
    except ValueError:  # not written by us: no page fails because of it
        kept = command
    else:
        kept = shlex.join(word for word in words if not word.lstrip("+").startswith("seeds="))
    return [f"{kept} {shlex.quote(f'seeds=[{seed}]')}" for seed in seeds]


def replay_command(folder: Path) -> str:
    """Return the command that draws a cell from its record and compares; its path is short where it can be."""
    here = Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return shlex.join(["python", "-m", "likeness.replay", str(shown)])
