"""The attention layers of a UNet2DConditionModel: their names, places and resolutions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from likeness.prompt_to_prompt.control import Layer

NEAR = 256  # pixels of the maps that LocalBlend and the displays look at: 16x16, as in the paper
STORED = 32 * 32  # the reference keeps maps up to this many pixels


def attention_layers(unet: Any, names: Iterable[str]) -> list[Layer]:
    """Return every attention layer of these names, those of `attention_modules`, in the order it runs."""
    names = list(names)
    order = {"down": 0, "mid": 1, "up": 2}
    names.sort(key=lambda name: order[place_of(name)])  # stable: within a place the module order is kept
    return [
        Layer(name, place_of(name), ".attn2." in name, level_of(name, len(unet.config.block_out_channels)))
        for name in names
    ]


def attention_modules(unet: Any) -> dict[str, Any]:
    """Return every attention module by the name that `unet.attn_processors` gives its processor."""
    named = unet.named_modules()  # the class is asked: a module looks through its parameters for what it does not have
    return {f"{name}.processor": module for name, module in named if hasattr(type(module), "set_processor")}


def place_of(name: str) -> str:
    """Return "down", "mid" or "up" from a processor's name."""
    return name.split("_block", 1)[0]


def level_of(name: str, levels: int) -> int:
    """Return how often the picture was halved where a layer runs."""
    place = place_of(name)
    if place == "mid":
        return levels - 1
    index = int(name.split(".", 2)[1])
    return index if place == "down" else levels - 1 - index


def pixels(layer: Layer, size: tuple[int, int]) -> int:
    """Return the number of queries of a layer for latents of a size (h, w)."""
    height, width = size
    for _ in range(layer.level):
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return height * width


def recorded_layers(layers: list[Layer], size: tuple[int, int], behaviour: str) -> frozenset[str]:
    """Return the names of the cross-attention layers whose maps are kept for masks and displays.

    Corrected: all at the resolution nearest 256 pixels. The reference takes the third and fourth stored layer
    on the way down and the first three on the way up; ValueError where these are not 16x16, as it would
    silently read them as something else.
    """
    cross = [layer for layer in layers if layer.is_cross]
    if behaviour == "corrected":
        sizes = {pixels(layer, size) for layer in cross}
        nearest = min(sizes, key=lambda n: (abs(n - NEAR), n))
        return frozenset(layer.name for layer in cross if pixels(layer, size) == nearest)
    stored = [layer for layer in cross if pixels(layer, size) <= STORED]
    down = [layer for layer in stored if layer.place == "down"]
    up = [layer for layer in stored if layer.place == "up"]
    chosen = down[2:4] + up[:3]
    if len(chosen) != 5 or {pixels(layer, size) for layer in chosen} != {NEAR}:
        raise ValueError(
            f"behaviour={behaviour} reads 16x16 maps from fixed layers, which this model does not have at "
            f"{size[0]}x{size[1]} latents. Use behaviour=corrected."
        )
    return frozenset(layer.name for layer in chosen)
