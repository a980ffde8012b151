"""From the configuration of an edit to two prompts and what was swapped between them. Loads nothing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from likeness.config import AXES, Edit, Sweep
from likeness.errors import InputError

PROMPT_AXES = ("source_prompt", "target_prompt")


@dataclass(frozen=True)
class EditPlan:
    """One edit, spelled out: prompts, operator, the axes as asked, and the (old, new) phrases swapped."""

    operator: str
    source_prompt: str
    target_prompt: str
    axes: dict[str, Any]
    swaps: tuple[tuple[str, str], ...] = ()
    weights: tuple[tuple[str, float], ...] = ()


def plan_edit(sweep: Sweep) -> EditPlan:
    """Return the prompts an edit means for this subject; InputError where it means nothing or changes nothing."""
    edit = sweep.edit
    given = {axis: getattr(sweep, axis) for axis in (*AXES, *PROMPT_AXES) if getattr(sweep, axis) is not None}
    unused = sorted(set(given) - set(edit.uses))
    if unused:
        raise InputError(
            f"{unused[0]}={given[unused[0]]!r} does nothing with edit={edit.name}, which reads "
            f"{', '.join(edit.uses) or 'no such option'}. Leave it out, or choose another edit."
        )
    axes = given or dict(edit.values)
    if "word" in edit.uses or "weight" in edit.uses:
        axes = {**edit.values, **given}
    source = " ".join((axes.pop("source_prompt", None) or edit.source).split())
    target = axes.pop("target_prompt", None)
    if not source:
        raise InputError(f'edit={edit.name} needs a source prompt: source_prompt="...".')
    if "target_prompt" in edit.uses:
        if not target:
            raise InputError(f'edit={edit.name} needs a target prompt: target_prompt="...".')
        plan = EditPlan(edit.operator, source, " ".join(target.split()), axes, weights=tuple(edit.weights.items()))
    elif "word" in axes:
        plan = _reweighted(edit, source, axes)
    else:
        plan = _swapped(edit, source, axes)
    _check(plan, sweep)
    return plan if sweep.photo is None else replace(plan, axes=plan.axes | {"photo": Path(sweep.photo).name})


def _reweighted(edit: Edit, source: str, axes: dict[str, Any]) -> EditPlan:
    from likeness.prompt_to_prompt.words import holds

    word = str(axes["word"])
    if not holds(source, word):
        raise InputError(
            f"the word to re-weight, {word!r}, is not in the source prompt {source!r}; choose one that is."
        )
    if edit.operator != "reweight":
        raise InputError(
            f"edit.operator={edit.operator} does nothing with edit={edit.name}, which re-weights a word. "
            "Leave it out, or choose another edit and add +edit.weights.word=factor."
        )
    axes["weight"] = float(axes["weight"])
    weights = {**edit.weights, word: axes["weight"]}
    return EditPlan("reweight", source, source, axes, weights=tuple(weights.items()))


def _swapped(edit: Edit, source: str, axes: dict[str, Any]) -> EditPlan:
    target, swaps = source, []
    for axis, value in axes.items():
        table = edit.phrases.get(axis)
        if table is None:  # words added rather than swapped
            target, swaps = f"{target} {value}", [*swaps, ("", str(value))]
            continue
        old = max((p for p in table.values() if phrase_pattern(p).search(source)), key=len, default=None)
        if old is None:
            raise InputError(
                f"{axis}={value!r}: the source prompt {source!r} holds none of the phrases it could replace "
                f"({', '.join(table.values())}). Add its phrase to edit.phrases.{axis}, or use edit=custom."
            )
        new = table.get(str(value), str(value))
        target, swaps = phrase_pattern(old).sub(lambda _, new=new: new, target, count=1), [*swaps, (old, new)]
    return EditPlan(edit.operator, source, target, axes, tuple(swaps), tuple(edit.weights.items()))


def _check(plan: EditPlan, sweep: Sweep) -> None:
    for prompt in (plan.source_prompt, plan.target_prompt):
        if not prompt.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise InputError(f"the prompt {prompt!r} is not valid text: give it in UTF-8.")
    if plan.operator != "reweight" and plan.source_prompt.lower() == plan.target_prompt.lower():
        raise InputError(
            f"source and target prompt are the same, {plan.source_prompt!r}: this edit changes nothing. "
            "Ask for something else than the source shows."
        )
    if plan.operator == "reweight" and plan.source_prompt != plan.target_prompt:
        raise InputError(
            f"edit.operator=reweight draws the source prompt with words re-weighted, not {plan.target_prompt!r}. Use "
            "edit.operator=replace or edit.operator=refine, with +edit.weights.word=factor on top."
        )
    from likeness.prompt_to_prompt.words import holds

    for word, weight in plan.weights:
        if not math.isfinite(weight):
            raise InputError(f"the weight of {word!r} is {weight}; give a finite number, for example 2 or -1.")
        if not holds(plan.target_prompt, word):
            raise InputError(
                f"edit.weights: {word!r} is not in the target prompt {plan.target_prompt!r}; choose a word that is."
            )
    counts = [len(p.split()) for p in (plan.source_prompt, plan.target_prompt)]
    if plan.operator == "replace" and counts[0] != counts[1]:
        raise InputError(
            f"Replace needs prompts with the same number of words: source has {counts[0]} "
            f"({plan.source_prompt!r}), target has {counts[1]} ({plan.target_prompt!r}). "
            "Use edit.operator=refine."
        )


def phrase_pattern(phrase: str) -> re.Pattern[str]:
    """Return a pattern for the phrase as whole words, whatever its case and spacing."""
    words = r"\s+".join(map(re.escape, phrase.split()))
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)


def label(axes: dict[str, Any]) -> str:
    """Return the axes as a short readable text, for names and table rows."""
    return " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in axes.values()) or "custom"
