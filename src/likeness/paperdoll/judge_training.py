"""Train the judge on pictures of its own, damaged as printing, sending and generating damage pictures.

It never sees what the autoencoder or any other trained model makes, so it owes them nothing.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from likeness.paperdoll import world
from likeness.paperdoll.autoencoder import computes_in_bfloat16
from likeness.paperdoll.checkpoints import Loop
from likeness.paperdoll.dataset import Dataset
from likeness.paperdoll.identity import MARGIN, TRAITS
from likeness.paperdoll.judge import Judge
from likeness.paperdoll.presets import Preset
from likeness.paperdoll.probe import NAMES

WEIGHTS = {"food": 1.5, "continuous": 15.0, "identity": 10.0}  # every other factor 1
SMOOTHING = 0.02  # labels are smoothed: the pictures judged later are not drawn ones
FOOD, ANYONE = 0.3, 0.5  # shares of pictures drawn with a food, and with an identity from the whole space
ABSENT = {"streak": 0.5, "freckles": 0.5, "scar": 0.5, "beard": 0.4}  # how often anyone lacks a mark


def anyone(rng: np.random.Generator) -> world.Identity:
    """Draw from the whole space of identities, not a class's part of it; never one near a subject."""
    while True:
        traits = dict(zip(TRAITS, rng.uniform(-1, 1, len(TRAITS)).tolist(), strict=True))
        traits |= {mark: -1.0 for mark, share in ABSENT.items() if rng.random() < share}
        identity = world.Identity(**traits)
        if all(identity.distance(subject) >= MARGIN for subject in world.SUBJECTS.values()):
            return identity


def judge_factors(rng: np.random.Generator) -> world.Factors:
    """Sample what a picture of the judge's data shows: wider in identity than the world's distribution."""
    fixed: dict[str, object] = {}
    if rng.random() < FOOD:
        fixed["food"] = world.FOODS[1 + int(rng.integers(len(world.FOODS) - 1))]
    if rng.random() < ANYONE:
        fixed |= {"who": "person", "identity": anyone(rng)}
    return world.sample_factors(rng, **fixed)


def damaged(images: Tensor, rng: torch.Generator) -> Tensor:
    """Soften, compress, blotch, grain and tint pictures (n, 3, h, w) in [0, 1], each by an amount of its own."""
    n, _, h, w = images.shape

    def amount(share: float) -> Tensor:
        """Return (n, 1, 1, 1): uniform in [0, 1] for a share of the pictures, 0 for the others."""
        hit = torch.rand(n, 1, 1, 1, generator=rng) < share
        return torch.where(hit, torch.rand(n, 1, 1, 1, generator=rng), 0.0)

    small = F.interpolate(images, scale_factor=0.5, mode="area")
    soft = F.interpolate(small, (h, w), mode="bilinear", align_corners=False)
    images = images + amount(0.35) * (soft - images)
    quality = torch.randint(40, 95, (n,), generator=rng)
    chosen = torch.rand(n, generator=rng) < 0.15
    for index in chosen.nonzero().flatten().tolist():
        images[index] = compressed(images[index], int(quality[index]))
    field = torch.randn(n, 3, h // 8, w // 8, generator=rng)
    blotches = F.interpolate(field, (h, w), mode="bicubic", align_corners=False)
    images = images + 0.04 * amount(0.3) * blotches
    images = images + 0.03 * amount(0.3) * torch.randn(images.shape, generator=rng)
    gain, shift = torch.rand(n, 3, 1, 1, generator=rng), torch.rand(n, 1, 1, 1, generator=rng)
    return (images * (0.97 + 0.06 * gain) + 0.04 * (shift - 0.5)).clamp(0, 1)


def compressed(image: Tensor, quality: int) -> Tensor:
    """Return a picture (3, h, w) in [0, 1] as JPEG of this quality gives it back."""
    pixels = (image.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_COLOR)).permute(2, 0, 1).float() / 255


def judged_loss(out: dict[str, Tensor], data: Dataset, indices: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return the loss and, for the log, each factor's accuracy and the two mean absolute errors."""
    values, loss = {}, 0.0
    for name in NAMES:
        labels = data.labels[name][indices].to(out[name].device)
        entropy = F.cross_entropy(out[name], labels, label_smoothing=SMOOTHING)
        loss = loss + WEIGHTS.get(name, 1.0) * entropy
        values[name] = (out[name].argmax(1) == labels).float().mean().item()
    places = out["continuous"] - data.scaled(indices).to(out["continuous"].device)
    looks = out["identity"] - data.identity[indices].to(out["identity"].device)
    loss = loss + WEIGHTS["continuous"] * (torch.sqrt(places.pow(2) + 1e-4) - 1e-2).mean()  # Charbonnier
    # Squared: most people lack a mark, and the median, which an absolute error teaches, is then that nobody has it.
    loss = loss + WEIGHTS["identity"] * looks.pow(2).mean()
    values |= {"continuous": places.abs().mean().item(), "identity": looks.abs().mean().item()}
    return loss, values


def train_judge(data: Dataset, preset: Preset, loop: Loop, device: str) -> Judge:
    """Train (or continue) the judge and return it in evaluation mode."""
    judge = Judge(preset.judge_widths, preset.judge_blocks).to(device, memory_format=torch.channels_last)
    kind = device.split(":")[0]

    def loss_at(step: int, rng: torch.Generator):
        indices = data.choose(loop.batch, rng)
        images = damaged(data.images(indices).contiguous(), rng).to(device)
        with torch.autocast(kind, torch.bfloat16, enabled=computes_in_bfloat16(device)):
            out = judge(images)
        return judged_loss(out, data, indices)

    loop.run(judge, loss_at)
    return judge.eval()
