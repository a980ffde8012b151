"""Structure distance: how differently the parts of two pictures resemble each other (Tumanyan et al. 2022).

Shapes: n pictures, t tokens (the class token first), d dimensions of the keys of a vision transformer's last layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-8  # product of two lengths


def self_similarity(keys: Tensor) -> Tensor:
    """Return the cosines (n, t, t) between the keys (n, t, d) of one picture's tokens."""
    length = keys.norm(dim=-1, keepdim=True)
    return keys @ keys.transpose(1, 2) / (length @ length.transpose(1, 2)).clamp_min(SMALLEST)


def structure_distance(a: Tensor, b: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Return the mean squared difference (n,) of two self-similarities, the class token included.

    The paper takes the Frobenius norm; its released code, and all who quote it, the mean square.
    `tokens` (n, t) keeps only pairs of chosen tokens; NaN where fewer than two are chosen.
    """
    difference = (self_similarity(a.float()) - self_similarity(b.float())).square()
    if tokens is None:
        return difference.mean((1, 2))
    pairs = (tokens[:, :, None] & tokens[:, None, :]).float()
    mean = (difference * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)
    return torch.where(tokens.sum(1) >= 2, mean, torch.nan)


def tokens_within(region: Tensor, count: int) -> Tensor:
    """Return which of `count` tokens lie wholly within a region (n, h, w); the class token lies nowhere.

    The tokens cover the picture in the nearest thing to squares: exact for square pictures.
    """
    height, width = region.shape[-2:]
    rows = round(((count - 1) * height / width) ** 0.5)
    if rows * round((count - 1) / rows) != count - 1:
        raise ValueError(f"{count - 1} patches do not tile a picture of {width}x{height}.")
    grid = F.adaptive_avg_pool2d(region.float()[:, None], (rows, (count - 1) // rows)).flatten(1) > 0.999
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], 1)
