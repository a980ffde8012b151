"""Where an edit was meant to act, as the drawing itself knows it: LocalBlend's masks and the words' attention maps."""

from __future__ import annotations

import numpy as np

from likeness.config import Edit
from likeness.study.edits import swapped_words
from likeness.study.plan import EditPlan

THRESHOLD = 0.3  # of a map's maximum, LocalBlend's own (Hertz et al. 2022, released code)


def edited_regions(p2p, plan: EditPlan, edit: Edit, images: int, *, attention: bool) -> dict[str, list[np.ndarray]]:
    """Return boolean masks (y, x) of every image, by what they are: "local_blend", "attention".

    Attention maps must have been stored. What was neither blended nor stored is not there.
    """
    found: dict[str, list[np.ndarray]] = {}
    if edit.blend is not None:
        found["local_blend"] = [p2p.masks.last(prompt=1, image=i).cpu().numpy() for i in range(images)]
    words = _words(plan)
    if attention and any(words):
        found["attention"] = [_attended(p2p, words, image) for image in range(images)]
    return found


def _words(plan: EditPlan) -> tuple[list[str], list[str]]:
    if plan.operator == "reweight":
        return [word for word, _ in plan.weights], []
    return swapped_words(plan, 0), swapped_words(plan, 1)


def _attended(p2p, words: tuple[list[str], list[str]], image: int) -> np.ndarray:
    """Return where any word of either prompt gets more than THRESHOLD of its strongest attention."""
    maps = [
        p2p.attention_maps.word(word, prompt=side, image=image).float().cpu().numpy()
        for side, own in enumerate(words)
        for word in own
    ]
    return np.any([heat > THRESHOLD * heat.max() for heat in maps], axis=0)
