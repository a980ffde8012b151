"""The edits of Prompt-to-Prompt as functions of attention maps (Hertz et al. 2022, sec. 3.2, algorithm 1).

Every cross-attention edit is linear over tokens: edited = P_source @ A + P_target * d. An edit compiles to the
A and d of every step; who applies them, and to what, is not decided here.

Shapes: s source token, t target token, both 77.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from likeness.prompt_to_prompt.alignment import refine_mapper, replace_mapper
from likeness.prompt_to_prompt.schedule import Window, Windows, cross_alphas, self_window
from likeness.prompt_to_prompt.words import encode, need, read_prompt, reference_positions


@dataclass(frozen=True)
class Edit:
    """A target prompt and the windows in which the source's attention is injected, as fractions of the steps.

    `cross_replace_steps`: a number f for (0, f), (start, end), or {"word": window, "default_": window}.
    `self_replace_steps`: a number or (start, end).
    """

    target_prompt: str | None
    cross_replace_steps: Windows = field(default=0.8, kw_only=True)
    self_replace_steps: Window = field(default=0.4, kw_only=True)

    def mapping(self, tokenizer: Any, source: str, behaviour: str) -> tuple[Tensor, Tensor]:
        """Return (M (s, t), own (t,)): inside its window the edit is P_source @ M + P_target * own."""
        raise NotImplementedError

    def attention(self, tokenizer: Any, source: str, behaviour: str) -> tuple[Tensor, Tensor]:
        """Return the mapping of the maps that LocalBlend and the displays see: where words attend."""
        return self.mapping(tokenizer, source, behaviour)


@dataclass(frozen=True)
class Replace(Edit):
    """Swap words; source and target prompt have equally many ("Word Swap").

    A target token that takes no map of the source, such as a new comma, keeps its own, as in Refine.
    """

    def mapping(self, tokenizer: Any, source: str, behaviour: str) -> tuple[Tensor, Tensor]:
        mapper = replace_mapper(tokenizer, source, self.target_prompt, behaviour)
        return mapper, (mapper.sum(0) == 0).float() if behaviour == "corrected" else torch.zeros(len(mapper))


@dataclass(frozen=True)
class Refine(Edit):
    """Add or reword: tokens that both prompts share take the source's maps ("Adding a New Phrase")."""

    def mapping(self, tokenizer: Any, source: str, behaviour: str) -> tuple[Tensor, Tensor]:
        mapper, alphas = refine_mapper(tokenizer, source, self.target_prompt, behaviour)
        if mapper.max() >= len(mapper):
            raise ValueError(
                f"the prompt {source!r} has {int(mapper.max()) + 1} tokens; the model reads {len(mapper)}. Shorten it."
            )
        matrix = torch.zeros(len(mapper), len(mapper))
        shared = alphas > 0
        matrix[mapper[shared], shared.nonzero()[:, 0]] = 1
        return matrix, 1 - alphas


@dataclass(frozen=True)
class Reweight(Edit):
    """Scale the maps of words ("Attention Re-weighting"), of the source's own prompt or on top of `over`.

    `weights` maps words or phrases of the target prompt to a factor, or to one for each of their tokens; 0 and
    negative ones are allowed. It acts inside its own windows; those of `over` are not used, as in the reference.
    """

    weights: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    over: Edit | None = field(default=None, kw_only=True)

    def changes_weights(self) -> bool:
        return any((torch.as_tensor(weight) != 1).any() for weight in self.weights.values())

    def mapping(self, tokenizer: Any, source: str, behaviour: str) -> tuple[Tensor, Tensor]:
        target = target_of(self, source)
        if behaviour == "corrected":
            self._check_target(tokenizer, source, target)
        if self.over is not None:
            matrix, own = self.over.mapping(tokenizer, source, behaviour)
        else:
            matrix, own = as_source(tokenizer)
        factors = equalizer(tokenizer, target, self.weights, behaviour)
        return matrix * factors, own * factors

    def attention(self, tokenizer: Any, source: str, behaviour: str) -> tuple[Tensor, Tensor]:
        """Corrected: without the weights, which do not move a word, but may be 0 or negative."""
        if behaviour != "corrected":
            return self.mapping(tokenizer, source, behaviour)
        return as_source(tokenizer) if self.over is None else self.over.attention(tokenizer, source, behaviour)

    def _check_target(self, tokenizer: Any, source: str, target: str) -> None:
        """Raise ValueError for a target prompt that is aligned with nothing: maps would go to words by position."""
        aligned = source if self.over is None else target_of(self.over, source)
        if encode(tokenizer, target) != encode(tokenizer, aligned):
            with_what = "the source prompt" if self.over is None else f"{type(self.over).__name__}'s target prompt"
            raise ValueError(
                f"Reweight of {target!r} takes its maps from {with_what} {aligned!r}, which reads otherwise: leave "
                "target_prompt out (None), or say how the prompts match with over=Replace(...) or over=Refine(...)."
            )


def as_source(tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Return the mapping (M, own) under which every token takes the source's map at its place."""
    positions = tokenizer.model_max_length
    return torch.eye(positions), torch.zeros(positions)


def equalizer(tokenizer: Any, prompt: str, weights: Mapping[str, Any], behaviour: str = "corrected") -> Tensor:
    """Return the factor (t,) of every token. Corrected: an absent word raises ValueError, else it is ignored.

    Factors for each token of a word are the first notebook's; in its behaviour a single one in a list stands for
    all of them. The second one takes one number for a word.
    """
    factors = torch.ones(tokenizer.model_max_length)
    for word, weight in weights.items():
        if behaviour == "corrected":
            tokens = need(read_prompt(tokenizer, prompt), word, "a word to re-weight")
        else:
            tokens = reference_positions(tokenizer, prompt, word)
        factor = torch.as_tensor(weight, dtype=torch.float32)
        if not factor.isfinite().all():
            raise ValueError(f"the weight of {word!r} is {weight!r}: expected finite numbers.")
        if behaviour == "reference_stable" and factor.shape == (1,):
            factor = factor[0]
        if behaviour == "reference_null" and factor.ndim:
            raise ValueError(f"behaviour=reference_null takes one number for {word!r}, not {weight!r}.")
        if factor.ndim and len(factor) != len(tokens):
            raise ValueError(
                f"the weight of {word!r} holds {len(factor)} factors, but the word has {len(tokens)} tokens in "
                f"{prompt!r}: give one number, or one for each token."
            )
        factors[tokens] = factor
    return factors


def target_of(edit: Edit, source: str) -> str:
    """Return the target prompt; a Reweight without one re-weights the source prompt itself."""
    if edit.target_prompt is not None:
        return edit.target_prompt
    over = getattr(edit, "over", None)
    return target_of(over, source) if over is not None else source


@dataclass(frozen=True)
class Coefficients:
    """What one edit does at one step. None stands for the identity (`matrix`) and for zero (`own`)."""

    matrix: Tensor | None  # A (s, t)
    own: Tensor | None  # d (t,)

    def to(self, device: Any) -> Coefficients:
        return Coefficients(*(None if part is None else part.to(device) for part in (self.matrix, self.own)))


@dataclass(frozen=True)
class Compiled:
    """An edit spelled out for a number of steps; `cross[step]` is None where cross-attention is left alone.

    `attended` holds the same for the maps that masks and displays see.
    """

    target_prompt: str
    cross: list[Coefficients | None]
    attended: list[Coefficients | None]
    self_steps: tuple[int, int]
    idle_weights: bool = False  # a re-weighted token is outside of its window at every step

    def cross_at(self, step: int) -> Coefficients | None:
        return self.cross[step] if step < len(self.cross) else None

    def attended_at(self, step: int) -> Coefficients | None:
        return self.attended[step] if step < len(self.attended) else None

    def injects_self(self, step: int) -> bool:
        return self.self_steps[0] <= step < self.self_steps[1]

    def injects_any_self(self) -> bool:
        return self.self_steps[1] > self.self_steps[0]

    def crosses(self) -> bool:
        return any(part is not None for part in self.cross)

    def last_step(self) -> int:
        """Return the first step from which on the edit does nothing."""
        active = [step + 1 for step, part in enumerate(self.cross) if part is not None]
        return max([0, *active, self.self_steps[1] if self.injects_any_self() else 0])


def compile_edit(
    edit: Edit,
    tokenizer: Any,
    source: str,
    num_inference_steps: int,
    evaluations: int,
    behaviour: str,
    device: Any = "cpu",
) -> Compiled:
    """Turn an edit into its coefficients at each of `evaluations` UNet evaluations, on the UNet's device.

    The two counts differ for PNDM only (51 and 50); corrected windows are fractions of the evaluations.
    """
    target = target_of(edit, source)
    count = evaluations if behaviour == "corrected" else num_inference_steps
    alphas = cross_alphas(tokenizer, target, edit.cross_replace_steps, count, behaviour)
    cross = step_by_step(edit.mapping(tokenizer, source, behaviour), alphas[:evaluations], device)
    attended, idle = cross, False
    if isinstance(edit, Reweight):
        attended = step_by_step(edit.attention(tokenizer, source, behaviour), alphas[:evaluations], device)
        weighted = equalizer(tokenizer, target, edit.weights, behaviour) != 1
        idle = bool((alphas[:evaluations, weighted] == 0).all(0).any())
    return Compiled(target, cross, attended, self_window(edit.self_replace_steps, count, behaviour), idle)


def step_by_step(mapping: tuple[Tensor, Tensor], alphas: Tensor, device: Any) -> list[Coefficients | None]:
    """Return the coefficients of a mapping at every step of alphas (steps, t); equal ones share their tensors."""
    by_row: dict[bytes, Coefficients | None] = {}
    keys = [alpha.tobytes() for alpha in alphas.numpy()]
    for step, key in enumerate(keys):
        if key not in by_row:
            found = coefficients(*mapping, alphas[step])
            by_row[key] = None if found is None else found.to(device)
    return [by_row[key] for key in keys]


def coefficients(matrix: Tensor, own: Tensor, alpha: Tensor) -> Coefficients | None:
    """Return A = M * alpha and d = own * alpha + (1 - alpha), or None where the target keeps its own maps."""
    if not alpha.any():
        return None
    blended = matrix * alpha
    kept = own * alpha + (1 - alpha)
    if not blended.any() and (kept == 1).all():  # every token inside the window is one that the prompts do not share
        return None
    identity = torch.equal(blended, torch.eye(len(blended)))
    return Coefficients(None if identity else blended, kept if kept.any() else None)


def edited_maps(source: Tensor, target: Tensor, part: Coefficients | None) -> Tensor:
    """Return the edited cross-attention maps (..., pixels, t) of a target; definition, used for maps and masks."""
    if part is None:
        return target
    edited = source if part.matrix is None else source @ part.matrix.to(source)
    return edited if part.own is None else edited + target * part.own.to(target)
