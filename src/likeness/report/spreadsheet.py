"""CSV that survives any text and that a spreadsheet opens without running anything.

A text that a spreadsheet would take for a formula (`=`, `+`, `-`, `@`) gets an apostrophe in front, as does one that
begins with an apostrophe, so that `read_rows` gives back exactly what `write_rows` was given. Numbers are left alone.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows under the names of the first; raises OSError where the file cannot be written."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({name: shielded(value) for name, value in row.items()} for row in rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file written by `write_rows`, texts as they were."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: bared(value) for name, value in row.items()} for row in csv.DictReader(file)]


def shielded(value: Any) -> Any:
    """Return a value that no spreadsheet computes."""
    if not isinstance(value, str) or not value.startswith((*FORMULA, "'")) or is_number(value):
        return value
    return f"'{value}"


def bared(value: Any) -> Any:
    """Return what `shielded` was given."""
    return value[1:] if isinstance(value, str) and value.startswith("'") else value


def is_number(text: str) -> bool:
    """Say whether a text is a number and nothing else."""
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
