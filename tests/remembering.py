"""A reader that makes no mistake: it remembers what every picture was drawn from."""

import numpy as np
import torch

from likeness.paperdoll import world
from likeness.paperdoll.probe import Reading


def reading_of(factors: list[world.Factors]) -> Reading:
    """Return what a reader that makes no mistake sees."""
    labels = [f.labels() for f in factors]
    categorical = {name: torch.tensor([int(one[name]) for one in labels]) for name in world.CATEGORICAL}
    continuous = {name: torch.tensor([float(one[name]) for one in labels]) for name in world.CONTINUOUS}
    identity = torch.tensor(np.stack([f.identity.vector() for f in factors]))
    return Reading(categorical, {}, continuous, identity, torch.tensor([world.CLASSES.index(f.who) for f in factors]))


class Remembering:
    """Reads exactly the pictures that its `draw` has drawn."""

    def __init__(self) -> None:
        self.known: dict[bytes, world.Factors] = {}

    def draw(self, factors: world.Factors) -> np.ndarray:
        """Render a picture, uint8 (128, 128, 3)."""
        picture = world.render(factors)
        self.known[picture.tobytes()] = factors
        return picture

    def read(self, images: torch.Tensor) -> Reading:
        pixels = (images.permute(0, 2, 3, 1) * 255).round().byte().contiguous().numpy()
        return reading_of([self.known[picture.tobytes()] for picture in pixels])
