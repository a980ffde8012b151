"""From an edit plan and its settings to the objects of likeness.prompt_to_prompt."""

from __future__ import annotations

from typing import Any

from likeness.config import Edit
from likeness.errors import InputError
from likeness.study.extensions import is_extension, load
from likeness.study.plan import EditPlan


def build_edit(plan: EditPlan, edit: Edit) -> Any:
    """Return the Replace, Refine or Reweight that a plan and its windows describe."""
    from likeness.prompt_to_prompt import Refine, Replace, Reweight

    classes = {"replace": Replace, "refine": Refine}
    if is_extension(plan.operator):
        classes[plan.operator] = load(plan.operator)
    windows = {
        "cross_replace_steps": _cross(edit),
        "self_replace_steps": tuple(edit.self_replace_steps),
    }
    if plan.operator == "reweight":
        return Reweight(None, dict(plan.weights), **windows)
    swap = classes[plan.operator](plan.target_prompt, **windows)
    return Reweight(plan.target_prompt, dict(plan.weights), over=swap, **windows) if plan.weights else swap


def _cross(edit: Edit) -> Any:
    window = tuple(edit.cross_replace_steps)
    if not edit.word_windows:
        return window
    return {"default_": window, **{word: tuple(w) for word, w in edit.word_windows.items()}}


def local_blend(plan: EditPlan, edit: Edit) -> Any:
    """Return the LocalBlend of an edit, by default on the swapped words, or None where none is asked for."""
    if edit.blend is None:
        return None
    from likeness.prompt_to_prompt import LocalBlend

    words = edit.blend.words or [swapped_words(plan, 0), swapped_words(plan, 1)]
    if not all(words):
        raise InputError(
            "LocalBlend does not know which words to follow in this edit: give "
            "edit.blend.words=[word of the source,word of the target]."
        )
    return LocalBlend(
        words,
        substruct_words=edit.blend.substruct_words or None,
        threshold=edit.blend.threshold,
        start=edit.blend.start,
    )


def swapped_words(plan: EditPlan, side: int) -> list[str]:
    """Return the words that only the source (side 0) or only the target (side 1) has where phrases were swapped."""
    other = [set(phrases[1 - side].split()) for phrases in plan.swaps]
    return [
        word
        for phrases, shared in zip(plan.swaps, other, strict=True)
        for word in phrases[side].split()
        if word not in shared and word not in ("a", "an", "the")
    ]
