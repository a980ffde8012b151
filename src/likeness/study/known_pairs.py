"""Rendered pairs, source and edited, of which it is known how much of the edit was done and how much was kept.

Every source gets every outcome of the edit together with every degree of structure kept, so that the two truths
are independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from likeness.paperdoll import world
from likeness.paperdoll.captions import caption

EDITS = (("style", "scene"), ("food", "scene"), ("style", "food"), ("sunglasses", "scene"), ("hat", "food"))
OUTCOMES = {"right": 1.0, "half": 0.5, "wrong": 0.0, "none": 0.0}  # -> share of the asked factors drawn as asked
SHIFTS = (2.0, 4.0, 8.0)  # pixels of 128 by which the person stands elsewhere
STRUCTURES = ("kept", *(f"shifted {px:g} px" for px in SHIFTS), "redrawn")  # from all kept to nothing kept
PLACES = tuple(scene for scene in world.SCENES if scene not in ("mirror", "blossom tree"))  # one pose, one amount


@dataclass(frozen=True)
class Pair:
    """An edited picture's factors and what is true of it; `kept` counts down from 4 (all) to 0 (redrawn)."""

    outcome: str
    structure: str
    factors: world.Factors

    @property
    def success(self) -> float:
        return OUTCOMES[self.outcome]

    @property
    def kept(self) -> int:
        return len(STRUCTURES) - 1 - STRUCTURES.index(self.structure)


@dataclass(frozen=True)
class Case:
    """A source, the two factors that the target prompt changes, and all pairs made of it."""

    edit: tuple[str, str]
    source: world.Factors
    source_prompt: str
    target_prompt: str
    pairs: list[Pair]


def cases(count: int, seed: int = 0) -> list[Case]:
    """Return `count` sources with 20 pairs each, the kinds of edit in turn."""
    return [case(EDITS[index % len(EDITS)], np.random.default_rng((seed, index))) for index in range(count)]


def case(edit: tuple[str, str], rng: np.random.Generator) -> Case:
    """Draw a source and build its pairs."""
    fixed: dict[str, object] = {"scene": _other(PLACES, (), rng)}
    if "food" in edit:
        fixed["food"] = _other(world.FOODS[1:], (), rng)
    fixed |= {name: False for name in ("sunglasses", "hat") if name in edit}
    source = world.sample_factors(rng, **fixed)
    asked = {name: _changed(name, (getattr(source, name),), rng) for name in edit}
    wrong = {name: _changed(name, (getattr(source, name), asked[name]), rng) for name in edit}
    done = edit[int(rng.integers(2))]
    drawn = {"right": asked, "half": {done: asked[done]}, "wrong": wrong, "none": {}}
    structures = {name: _moved(source, name, rng) for name in STRUCTURES}
    pairs = [
        Pair(outcome, structure, replace(moved, **drawn[outcome]))
        for outcome in OUTCOMES
        for structure, moved in structures.items()
    ]
    phrasing = int(rng.integers(2**31))
    prompts = [caption(factors, np.random.default_rng(phrasing)) for factors in (source, replace(source, **asked))]
    return Case(edit, source, *prompts, pairs)


def _changed(name: str, not_these: tuple[object, ...], rng: np.random.Generator) -> object:
    """Return another value of a factor; one that has two values goes back to the first that is taken."""
    if name in ("sunglasses", "hat"):
        return not not_these[-1]
    choices = {"style": world.STYLES, "scene": PLACES, "food": world.FOODS[1:]}[name]
    return _other(choices, not_these, rng)


def _other(choices: tuple[str, ...], not_these: tuple[object, ...], rng: np.random.Generator) -> str:
    left = [choice for choice in choices if choice not in not_these]
    return left[int(rng.integers(len(left)))]


def _moved(source: world.Factors, structure: str, rng: np.random.Generator) -> world.Factors:
    """Return the source's factors with its structure kept, shifted towards the middle, or drawn afresh."""
    if structure == "kept":
        return source
    if structure == "redrawn":
        asked = {name: getattr(source, name) for name in ("style", "scene", "food", "sunglasses", "hat", "who")}
        return world.sample_factors(rng, **asked)
    pixels = SHIFTS[STRUCTURES.index(structure) - 1]
    towards = -1 if source.head_x > 0.5 else 1
    return replace(source, head_x=source.head_x + towards * pixels / 128)
