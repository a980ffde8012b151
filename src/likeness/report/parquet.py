"""The tidy table as parquet, numbers as numbers; needs the extra `parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from likeness.errors import InputError

TEXTS = ("cell", "subject", "prior_class", "model", "method", "schedule", "edit", "operator", "source_prompt",
         "target_prompt", "arm", "image", "backbones", "style", "scene", "target", "addition", "word", "photo",
         "behaviour", "word_windows", "weights", "scheduler")  # fmt: skip


def write_parquet(rows: Sequence[dict[str, str]], target: Path) -> Path:
    """Write rows of texts under the names of the first: the known TEXTS as they are, the seed as an integer, every
    other column as float, an empty text as a missing value.

    Raises InputError without pyarrow, and for a text where a number belongs.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError("--parquet needs pyarrow: uv pip install -e '.[parquet]'.") from error
    columns = {name: _column(name, [row[name] for row in rows]) for name in rows[0]}
    target.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), target)
    return target


def _column(name: str, values: list[str]) -> list[Any]:
    if name in TEXTS:
        return values
    kind = int if name == "seed" else float
    try:
        return [None if value == "" else kind(value) for value in values]
    except ValueError as error:
        raise InputError(f"column {name} holds something that is no number ({error}); write it with --csv.") from error
