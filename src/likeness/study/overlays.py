"""Pictures of where an edit acts: per-word attention maps and LocalBlend masks laid over the drawn picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from likeness.config import slug
from likeness.study.plan import EditPlan


def attention_overlays(p2p, plan: EditPlan, source: np.ndarray, target: np.ndarray) -> dict[str, Image.Image]:
    """Return attention/<side>-<word>.png overlays for the first seed, and attention.png with all of them.

    Maps are normalised per word.
    """
    from likeness.report.grid import make_grid, stack

    overlays, sheets = {}, []
    for side, prompt, picture in ((0, plan.source_prompt, source), (1, plan.target_prompt, target)):
        words = list(dict.fromkeys(prompt.split()))
        shown = [overlay(picture, p2p.attention_maps.word(word, prompt=side, image=0)) for word in words]
        name = ("source", "target")[side]
        for number, (word, image) in enumerate(zip(words, shown, strict=True)):
            overlays[f"attention/{name}-{number:02d}-{slug(word)}.png"] = image
        sheets.append(make_grid([shown], [f"where the {name}'s words act"], words, cell=96))
    overlays["attention.png"] = stack(sheets)
    return overlays


def mask_overlays(p2p, seeds: list[int], edited: list[np.ndarray]) -> dict[str, Image.Image]:
    """Return mask-seedNNNN.png: the last LocalBlend mask, kept part dimmed, over each seed's edited picture."""
    return {
        f"mask-seed{seed:04d}.png": overlay(edited[index], p2p.masks.last(prompt=1, image=index))
        for index, seed in enumerate(seeds)
    }


def overlay(picture: np.ndarray, heat) -> Image.Image:
    """Dim a uint8 (h, w, 3) picture where a map (rows, columns) is low; below 0, as of a negative weight, is 0."""
    values = np.asarray(heat, dtype=np.float32).clip(min=0)
    values = values / max(float(values.max()), 1e-12)
    size = picture.shape[1], picture.shape[0]
    mask = Image.fromarray((values * 255).astype(np.uint8)).resize(size, Image.BICUBIC)
    weight = 0.2 + 0.8 * np.asarray(mask, dtype=np.float32)[..., None] / 255
    return Image.fromarray((picture * weight).astype(np.uint8))
