"""Train the probe on drawn pictures, lightly blurred, noised, and as the autoencoder redraws them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from likeness.paperdoll.checkpoints import Loop
from likeness.paperdoll.dataset import Dataset
from likeness.paperdoll.presets import Preset
from likeness.paperdoll.probe import NAMES, Probe, folded

CONTINUOUS_WEIGHT, IDENTITY_WEIGHT = 12.0, 5.0
FACTOR_WEIGHTS = {"food": 2.0}  # small in the picture, learnt last
REDRAWN = 0.35  # share of a batch shown as redrawn by the autoencoder, once it exists


def roughened(images: Tensor, rng: torch.Generator) -> Tensor:
    """Blur a third of the pictures slightly, add faint noise and change brightness a little."""
    n = len(images)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blend = torch.rand(n, 1, 1, 1, generator=rng)
    blurred = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < 0.35, blend, 0.0)
    images = images + blurred * (soft - images)
    noise = torch.randn(images.shape, generator=rng)
    images = images + 0.02 * torch.rand(n, 1, 1, 1, generator=rng) * noise
    return (images * (0.95 + 0.1 * torch.rand(n, 1, 1, 1, generator=rng))).clamp(0, 1)


def train_probe(data: Dataset, preset: Preset, loop: Loop, device: str, redrawn: Path | None = None) -> Probe:
    """Train (or continue) the probe and return it with batch normalisation folded."""
    model = Probe(preset.probe_widths, normalised=True).to(device)
    copies = np.load(redrawn, mmap_mode="r") if redrawn and redrawn.is_file() else None

    def loss_at(step: int, rng: torch.Generator):
        indices = data.choose(loop.batch, rng)
        images = data.images(indices)
        if copies is not None:
            count = int(len(indices) * REDRAWN)
            indices[:count] = torch.randint(len(copies), (count,), generator=rng)
            chosen = np.stack([copies[i] for i in indices[:count].tolist()])
            images[:count] = torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 255
        out = model(roughened(images, rng).to(device))
        values, loss = {}, 0.0
        for name in NAMES:
            labels = data.labels[name][indices].to(device)
            loss = loss + FACTOR_WEIGHTS.get(name, 1.0) * F.cross_entropy(out[name], labels)
            values[name] = (out[name].argmax(1) == labels).float().mean().item()
        continuous = F.smooth_l1_loss(out["continuous"], data.scaled(indices).to(device), beta=0.1)
        identity = F.mse_loss(out["identity"], data.identity[indices].to(device))  # squared: see the judge's loss
        values |= {"continuous": continuous.item(), "identity": identity.item()}
        return loss + CONTINUOUS_WEIGHT * continuous + IDENTITY_WEIGHT * identity, values

    loop.run(model, loss_at)
    return folded(model.cpu()).to(device)
