"""The commands that draw a recorded picture again, ready to paste into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path


def seed_command(command: str, seed: int) -> str:
    """Return the command of a cell with its seeds replaced by one: what draws this seed's three pictures."""
    one = f"seeds=[{seed}]"
    try:
        words = shlex.split(command)
    except ValueError:  # not written by us: no page fails because of it
        return f"{command} {shlex.quote(one)}"
    return shlex.join([*(word for word in words if not word.lstrip("+").startswith("seeds=")), one])


def replay_command(folder: Path) -> str:
    """Return the command that draws a cell from its record and compares; its path is short where it can be."""
    here = Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return shlex.join(["python", "-m", "likeness.replay", str(shown)])
