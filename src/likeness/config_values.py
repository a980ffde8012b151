"""Single configured values: how they are read, with an error that says what would be right."""

from __future__ import annotations

import re
from typing import Any

from likeness.errors import InputError


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of those allowed."""
    if value not in allowed:
        raise InputError(f"{name}={value} is unknown; choose one of {', '.join(allowed)}.")


def share(name: str, value: Any) -> float:
    """Return true, false or a share of the steps as a number."""
    if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
        raise InputError(f"{name}={value} must be true, false, or a share of the steps between 0 and 1.")
    return float(value)


def numbers(values: list[Any]) -> list[float] | None:
    """Return numbers as floats; None where one is none."""
    every = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return [float(value) for value in values] if every else None


def window(name: str, value: Any) -> list[float]:
    """Return a window as [start, end]; a number f stands for [0, f]."""
    found = numbers(value if isinstance(value, list) else [0, value])
    if found is None or len(found) != 2 or not 0 <= found[0] <= found[1] <= 1:
        raise InputError(f"{name}={value} must be [start, end] with 0 <= start <= end <= 1, or the end alone.")
    return found


def literal(values: Any) -> Any:
    """Return resolved values such that OmegaConf leaves a "${" in them as the text it is."""
    if isinstance(values, dict):
        return {name: literal(value) for name, value in values.items()}
    if isinstance(values, list):
        return [literal(value) for value in values]
    if isinstance(values, str):  # backslashes before "${" are the only ones that OmegaConf reads
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", values)
    return values
