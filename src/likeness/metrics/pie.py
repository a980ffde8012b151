"""PIE-Bench's metrics to the letter, peculiarities included, so that numbers can be held against published ones.

Ju et al. 2024 (PnP Inversion, ICLR), github.com/cure-lab/PnPInversion, evaluation/matrics_calculator.py and
evaluation/evaluate.py at f480116, with the torchvision 0.13 of its instructions. Only the definitions: the benchmark's
photos, masks and inversion are not here. Corrected definitions are in suite.py. Units are those of its table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from likeness.metrics.encoders import Clip, Dino, Lpips, imagenet
from likeness.metrics.structure import structure_distance


class PieBench:
    """CLIP ViT-L/14, LPIPS squeeze and DINO ViT-B/8, used as the benchmark uses them."""

    def __init__(self, clip: Clip, lpips: Lpips, dino: Dino) -> None:
        self.clip, self.lpips, self.dino = clip, lpips, dino

    @torch.no_grad()
    def measure(
        self, source: Tensor, edited: Tensor, prompt: str, masks: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Measure edited pictures against their sources, both (n, 3, h, w) in [0, 1]; every value is (n,).

        `masks` (n, h, w): their `*_edit_part` is named *_inside_MASK here, `*_unedit_part` *_outside_MASK; NaN
        where the part is empty.
        """
        a, b = (to_bytes(pictures) for pictures in (source, edited))
        values = self._compare(a, b)
        values["pie_clip"] = self.clip_score(b, prompt)
        for name, mask in (masks or {}).items():
            edit_part = with_border(mask)
            for side, part in (("inside", edit_part), ("outside", 1 - edit_part)):
                there = part.flatten(1).any(1)
                found = self._compare(a * part, b * part)
                if side == "inside":
                    found["pie_clip"] = self.clip_score(b * part, prompt)
                values |= {f"{key}_{side}_{name}": torch.where(there, v, torch.nan) for key, v in found.items()}
        return values

    def _compare(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Compare two batches of 0 to 255; what was multiplied by zero counts as equal."""
        structure = self.structure(a, b)
        a, b = a / 255, b / 255
        square = (a - b).square().mean((1, 2, 3))
        device = self.lpips.device
        similarity = structural_similarity_index_measure(b.to(device), a.to(device), data_range=1.0, reduction="none")
        return {
            "pie_structure_x1e3": 1e3 * structure,
            "pie_psnr": -10 * square.log10(),
            "pie_lpips_x1e3": 1e3 * self.lpips.distance(self.lpips.features(a), self.lpips.features(b)),
            "pie_mse_x1e4": 1e4 * square,
            "pie_ssim_x1e2": 1e2 * similarity.flatten().cpu(),
        }

    def structure(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the structure distance of pictures of 0 to 255 under a normalisation meant for 0 to 1."""
        return structure_distance(*(self.dino.keys_of(imagenet(shrunk(x, self.dino.size))) for x in (a, b)))

    def clip_score(self, pictures: Tensor, prompt: str) -> Tensor:
        """Return torchmetrics' CLIPScore of pictures of 0 to 255: 100 x cosine, at least 0."""
        return (100 * (self.clip.images(pictures / 255) @ self.clip.text(prompt))).clamp_min(0)


def to_bytes(pictures: Tensor) -> Tensor:
    """Return the 8-bit values of pictures in [0, 1], as float on the CPU."""
    return (pictures.clamp(0, 1) * 255).round().cpu()


def with_border(mask: Tensor) -> Tensor:
    """Return a mask (n, h, w) as (n, 1, h, w) of 0 and 1 whose outermost pixels are 1 ("annotation errors")."""
    bordered = mask.cpu().float().clone()
    bordered[:, [0, -1], :] = 1
    bordered[:, :, [0, -1]] = 1
    return bordered[:, None]


def shrunk(pictures: Tensor, side: int) -> Tensor:
    """Return pictures whose shorter side is `side`, bilinear without antialiasing."""
    height, width = pictures.shape[-2:]
    size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    return pictures if size == (height, width) else F.interpolate(pictures, size, mode="bilinear", align_corners=False)
