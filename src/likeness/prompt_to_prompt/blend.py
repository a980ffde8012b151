"""LocalBlend: keep the source outside the region that chosen words attend to (Hertz et al. 2022, sec. 3.2, fig. 5).

It turns accumulated cross-attention maps into masks and mixes latents; it does not decide when.

Shapes: p prompt (row 0 the source), i image, y x map pixels, t token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from likeness.prompt_to_prompt.schedule import steps_of
from likeness.prompt_to_prompt.words import need, read_prompt, reference_positions

Words = str | Sequence[str]


@dataclass(frozen=True)
class LocalBlend:
    """Blend inside the union of source and target masks.

    `words`: for the source and each target, the words that the region follows; `substruct_words` likewise, a
    region never to be edited. `threshold`: of a map divided by its maximum; one number, or (words,
    substruct_words). `start`: share of the steps before blending begins; None takes the behaviour's own
    (0 in reference_stable, else 0.2).
    """

    words: Sequence[Words]
    substruct_words: Sequence[Words] | None = None
    threshold: float | tuple[float, float] = 0.3
    start: float | None = None

    def __post_init__(self) -> None:
        for value in self.thresholds():
            if not 0 <= value <= 1:
                raise ValueError(f"LocalBlend threshold={self.threshold!r}: expected numbers in [0, 1].")
        if self.start is not None and not 0 <= self.start < 1:
            raise ValueError(f"LocalBlend start={self.start!r}: expected 0 <= start < 1.")

    def thresholds(self) -> tuple[float, float]:
        """Return (for words, for substruct_words)."""
        if isinstance(self.threshold, (tuple, list)):
            if len(self.threshold) != 2:
                raise ValueError(f"LocalBlend threshold={self.threshold!r}: expected one number or two.")
            return float(self.threshold[0]), float(self.threshold[1])
        return float(self.threshold), float(self.threshold)


@dataclass(frozen=True)
class Blender:
    """A LocalBlend compiled for prompts: token selections (p, t) and the first step that blends."""

    selected: Tensor
    removed: Tensor | None
    thresholds: tuple[float, float]
    first_step: int

    def to(self, device: Any) -> Blender:
        removed = None if self.removed is None else self.removed.to(device)
        return replace(self, selected=self.selected.to(device), removed=removed)

    def masks(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Return booleans (p, i, 1, h, w) from accumulated maps (p, i, y, x, t): where each prompt may differ."""
        chosen = region(maps, self.selected, size, pool=True) > self.thresholds[0]
        chosen = chosen[:1] | chosen
        if self.removed is not None:
            gone = region(maps, self.removed, size, pool=False) > self.thresholds[1]
            chosen = chosen & ~(gone[:1] | gone)
        return chosen


def compile_blend(blend: LocalBlend, tokenizer: Any, prompts: Sequence[str], steps: int, behaviour: str) -> Blender:
    """Find the words in their prompts; corrected: an absent word raises ValueError."""
    if behaviour == "reference_stable" and len(prompts) != 2:
        raise ValueError(
            f"behaviour=reference_stable blends one target only, as its notebook does; got {len(prompts) - 1}. "
            "Use behaviour=corrected or reference_null."
        )
    if behaviour == "reference_stable" and (
        blend.start or blend.substruct_words is not None or not isinstance(blend.threshold, Real)
    ):
        raise ValueError(
            "behaviour=reference_stable blends from the first step, with one threshold and no substruct_words, as its "
            "notebook does. Set start=0 and one threshold, or use behaviour=corrected or reference_null."
        )
    start = blend.start
    if start is None:
        start = 0.0 if behaviour == "reference_stable" else 0.2
    removed = None
    if blend.substruct_words is not None:
        removed = select(tokenizer, prompts, blend.substruct_words, behaviour, "substruct_words")
    return Blender(
        select(tokenizer, prompts, blend.words, behaviour, "words"),
        removed,
        blend.thresholds(),
        steps_of((start, 1.0), steps, behaviour)[0],
    )


def select(tokenizer: Any, prompts: Sequence[str], words: Sequence[Words], behaviour: str, name: str) -> Tensor:
    """Return 1 at the tokens (p, t) of the words of each prompt."""
    if isinstance(words, str) or len(words) != len(prompts):
        raise ValueError(
            f"LocalBlend {name}={words!r}: expected one entry for the source and one for each target, "
            f"{len(prompts)} in all; each a word or a list of words."
        )
    chosen = torch.zeros(len(prompts), tokenizer.model_max_length)
    for row, (prompt, entry) in enumerate(zip(prompts, words, strict=True)):
        for word in [entry] if isinstance(entry, str) else entry:
            if behaviour == "corrected":
                tokens = need(read_prompt(tokenizer, prompt), word, f"LocalBlend {name}")
            else:
                tokens = reference_positions(tokenizer, prompt, word)
            chosen[row, tokens] = 1
    return chosen


def region(maps: Tensor, selected: Tensor, size: tuple[int, int], *, pool: bool) -> Tensor:
    """Return the summed maps of the selected tokens, scaled to latents of `size`, divided by their maximum."""
    heat = torch.einsum("piyxt,pt->piyx", maps, selected.to(maps))
    if pool:
        heat = F.max_pool2d(heat, 3, 1, 1)
    heat = F.interpolate(heat, size)
    return (heat / heat.amax((2, 3), keepdim=True)).unsqueeze(2)


def mix(latents: Tensor, masks: Tensor) -> Tensor:
    """Return source + mask * (latents - source) for rows (p i) of latents (p i, c, h, w)."""
    rows = latents.unflatten(0, masks.shape[:2])
    source = rows[:1]
    return (source + masks.to(rows) * (rows - source)).flatten(0, 1)
