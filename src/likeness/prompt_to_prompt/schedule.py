"""When maps are injected: windows as fractions of the sampling, for all tokens or word by word.

Source: Hertz et al. 2022, sec. 3.2 (tau); the reference's `cross_replace_steps` and `self_replace_steps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from likeness.prompt_to_prompt.words import need, read_prompt, reference_positions

DEFAULT = "default_"
Window = float | tuple[float, float]
Windows = Window | Mapping[str, Window]


def as_window(value: Window, name: str = "window", behaviour: str = "corrected") -> tuple[float, float]:
    """Return (start, end) in [0, 1]; a number f means (0, f). Raises ValueError outside 0 <= start <= end <= 1.

    In the reference behaviours an integer is an error too, and only windows that start before 0 are refused: one
    that ends before it starts is empty there, one that ends after 1 reaches to the end.
    """
    if behaviour != "corrected" and isinstance(value, Real) and type(value) is not float:
        raise ValueError(f"{name}={value!r}: the reference takes a float here; write {float(value)!r}.")
    if isinstance(value, Real) and not isinstance(value, bool):
        start, end = 0.0, float(value)
    elif isinstance(value, (tuple, list)) and len(value) == 2:
        start, end = (float(v) for v in value)
    else:
        raise ValueError(f"{name}={value!r}: expected a number or (start, end), as fractions of the steps.")
    if min(start, end) < 0 or (behaviour == "corrected" and not start <= end <= 1):
        raise ValueError(f"{name}={value!r}: expected 0 <= start <= end <= 1, as fractions of the steps.")
    return start, end


def steps_of(window: tuple[float, float], count: int, behaviour: str) -> tuple[int, int]:
    """Return the steps [first, last) of `count`.

    The reference truncates the float product, so 0.58 of 50 is 28 there; corrected it is 29.
    """
    slack = 1e-6 if behaviour == "corrected" else 0.0
    return int(window[0] * count + slack), int(window[1] * count + slack)


def self_window(value: Window, num_steps: int, behaviour: str = "corrected") -> tuple[int, int]:
    """Return the steps [first, last) in which self-attention maps are injected."""
    return steps_of(as_window(value, "self_replace_steps", behaviour), num_steps, behaviour)


def split_windows(
    value: Windows, behaviour: str = "corrected"
) -> tuple[tuple[float, float], dict[str, tuple[float, float]]]:
    """Return the default window and those of single words; a mapping without "default_" means (0, 1) there."""
    if not isinstance(value, Mapping):
        return as_window(value, "cross_replace_steps", behaviour), {}
    words = {word: as_window(window, f"cross_replace_steps[{word!r}]", behaviour) for word, window in value.items()}
    return words.pop(DEFAULT, (0.0, 1.0)), words


def cross_alphas(tokenizer: Any, target: str, value: Windows, num_steps: int, behaviour: str = "corrected") -> Tensor:
    """Return alpha (rows, 77) in {0, 1}: whether a target token's cross-attention is injected at a step.

    Corrected: one row per UNet evaluation, and a word that is not in the target prompt raises ValueError.
    The reference: num_steps + 1 rows (its PNDM evaluates the UNet once more), absent words are ignored.
    """
    default, words = split_windows(value, behaviour)
    rows = num_steps if behaviour == "corrected" else num_steps + 1
    alphas = torch.zeros(rows, tokenizer.model_max_length)
    first, last = steps_of(default, rows, behaviour)
    alphas[first:last] = 1
    for word, window in words.items():
        if behaviour == "corrected":
            tokens = need(read_prompt(tokenizer, target), word, "a word of cross_replace_steps")
        else:
            tokens = reference_positions(tokenizer, target, word)
        first, last = steps_of(window, rows, behaviour)
        alphas[:, tokens] = 0
        alphas[first:last, tokens] = 1
    return alphas
