"""The state of one sampling under Prompt-to-Prompt: which step it is, which rows are whose, what was recorded.

Attention processors ask it what to do; the plug-in tells it the time. It never counts attention calls.

Shapes: r rows of one guidance half, ordered (prompt, image); p prompt (0 the source), i image, q pixels, t token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from likeness.prompt_to_prompt.blend import Blender
from likeness.prompt_to_prompt.edits import Coefficients, Compiled, edited_maps


@dataclass(frozen=True)
class Layer:
    """One attention layer: its place (down, mid or up), kind, and how often the picture was halved there."""

    name: str
    place: str
    is_cross: bool
    level: int


@dataclass
class Control:
    """What the processors need to know; `begin` resets it for a sampling, `at_step` moves it on."""

    edits: list[Compiled]
    blender: Blender | None = None
    store_maps: bool = False
    self_limit: int | None = None  # injected up to so many pixels; None: half the latent side, see `limit`
    step: int = 0
    images: int = 1
    guided: bool = True
    size: tuple[int, int] = (0, 0)
    maps: dict[str, Tensor] = field(default_factory=dict)  # layer name -> (p, i, q, t), summed over steps
    map_layers: frozenset[str] = frozenset()
    masks: list[Tensor] = field(default_factory=list)
    injected: list[int] = field(default_factory=list)  # prompts that take the source's self-attention at this step
    changed: list[tuple[int, Coefficients]] = field(default_factory=list)  # prompts with edited cross-attention
    attended: dict[int, Coefficients | None] = field(default_factory=dict)  # by target: what its recorded maps are
    calls: int = 0

    @property
    def prompts(self) -> int:
        return 1 + len(self.edits)

    @property
    def records(self) -> bool:
        return self.store_maps or self.blender is not None

    def begin(self, rows: int, guided: bool, size: tuple[int, int], map_layers: frozenset[str]) -> None:
        """Start a sampling of `rows` latents of `size` (h, w); rows = prompts x images."""
        self.images, self.guided, self.size = rows // self.prompts, guided, size
        self.maps, self.masks, self.map_layers = {}, [], map_layers
        self.at_step(0)

    def at_step(self, step: int) -> None:
        """Move to a step, counted from 0."""
        self.step, self.calls = step, 0
        self.injected = [1 + i for i, edit in enumerate(self.edits) if edit.injects_self(step)]
        parts = ((1 + i, edit.cross_at(step)) for i, edit in enumerate(self.edits))
        self.changed = [(prompt, part) for prompt, part in parts if part is not None]
        self.attended = {1 + i: edit.attended_at(step) for i, edit in enumerate(self.edits)}

    def limit(self) -> int:
        """Return the largest number of pixels at which self-attention is injected."""
        if self.self_limit is not None:
            return self.self_limit
        return math.ceil(self.size[0] / 2) * math.ceil(self.size[1] / 2)

    def acts_on(self, layer: Layer, pixels: int) -> bool:
        """Say whether a layer of so many pixels is edited or recorded at this step."""
        if layer.is_cross:
            return bool(self.changed) or layer.name in self.map_layers
        return bool(self.injected) and pixels <= self.limit()

    def rows(self, prompt: int) -> slice:
        """Return the rows of a prompt in the conditional half of a batch."""
        offset = self.prompts * self.images if self.guided else 0
        return slice(offset + prompt * self.images, offset + (prompt + 1) * self.images)

    def record(self, layer: str, source: Tensor, own: dict[int, Tensor]) -> None:
        """Add head-averaged maps: of the source (i, q, t), and each target's own where they matter.

        What is stored of a target are its edited maps, as in the reference; corrected, before words are re-weighted.
        """
        kept = [source]
        for prompt, part in self.attended.items():
            kept.append(edited_maps(source, own.get(prompt, source), part))
        stacked = torch.stack(kept)
        self.maps[layer] = self.maps[layer] + stacked if layer in self.maps else stacked

    def averaged(self) -> Tensor:
        """Return maps (p, i, y, x, t) averaged over layers (which share a resolution), summed over steps."""
        total = torch.stack([self.maps[name] for name in sorted(self.maps)]).mean(0)
        height, width = resolution(total.shape[2], self.size)
        return total.unflatten(2, (height, width))


def resolution(pixels: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of a map of `pixels` queries for latents of `size`; halved by each level."""
    height, width = size
    while height * width > pixels:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    if height * width != pixels:
        raise ValueError(f"attention maps of {pixels} pixels do not fit latents of {size[0]}x{size[1]}.")
    return height, width
