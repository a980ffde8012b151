"""The autoencoder of the embedded model: diffusers' AutoencoderKL, 8x smaller latents, no attention.

Trained on L1, image gradients and a light KL (Rombach et al. 2022, sec. 3.1); no adversarial loss.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from likeness.paperdoll.checkpoints import Loop
from likeness.paperdoll.dataset import SIZE, Dataset, save_array
from likeness.paperdoll.presets import Preset

KL_WEIGHT = 2e-4  # per latent number; keeps latents smooth without costing detail (guess)
GRADIENT_WEIGHT = 0.5
CROPPED = 0.75  # share of the training on crops, which are as good and more varied per operation


def build_autoencoder(preset: Preset):
    from diffusers import AutoencoderKL

    levels = len(preset.vae_widths)
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, block_out_channels=preset.vae_widths,
        layers_per_block=1, latent_channels=preset.latent_channels, norm_num_groups=4, sample_size=SIZE,
        mid_block_add_attention=False, scaling_factor=1.0,
    )  # fmt: skip


def computes_in_bfloat16(device: str) -> bool:
    """Return whether bfloat16 is the faster way; on a CPU without its instructions it is much slower."""
    return device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference of horizontal and vertical neighbour differences."""
    across = (a.diff(dim=-1) - b.diff(dim=-1)).abs().mean()
    return across + (a.diff(dim=-2) - b.diff(dim=-2)).abs().mean()


def reconstruction_loss(images: Tensor, redrawn: Tensor) -> Tensor:
    """Return L1 at three scales plus gradients at full scale; images in [-1, 1]."""
    loss = (images - redrawn).abs().mean() + GRADIENT_WEIGHT * gradient_l1(images, redrawn)
    for factor in (2, 4):
        loss = loss + 0.5 * (F.avg_pool2d(images, factor) - F.avg_pool2d(redrawn, factor)).abs().mean()
    return loss


def crops(images: Tensor, size: int, centres: Tensor, rng: torch.Generator) -> Tensor:
    """Cut one square per picture; half of them near the head, where the detail is."""
    out, spread = [], images.shape[-1] - size
    near = torch.rand(len(images), generator=rng) < 0.5
    anywhere = torch.randint(spread + 1, (len(images), 2), generator=rng)
    jitter = torch.randint(-16, 17, (len(images), 2), generator=rng)
    for i, image in enumerate(images):
        middle = (centres[i] * images.shape[-1]).long() - size // 2 + jitter[i]
        x, y = (middle if near[i] else anywhere[i]).clamp(0, spread).tolist()
        out.append(image[:, y : y + size, x : x + size])
    return torch.stack(out)


def train_autoencoder(data: Dataset, preset: Preset, loop: Loop, device: str, *, decoder_only: bool = False):
    """Train (or continue) the autoencoder; `decoder_only` keeps the encoder, so that latents stay valid."""
    model = build_autoencoder(preset).to(device)
    if decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    centres = torch.stack([data.labels["head_x"], data.labels["head_y"]], 1)

    def loss_at(step: int, rng: torch.Generator):
        cropped = loop.progress() < CROPPED
        count = loop.batch if cropped else max(1, loop.batch * preset.crop**2 // SIZE**2)
        indices = data.choose(count, rng)
        images = data.images(indices) * 2 - 1
        if cropped:
            images = crops(images, preset.crop, centres[indices], rng)
        images = images.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=computes_in_bfloat16(device)):
            posterior = model.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=rng).to(device)
            redrawn = model.decode(posterior.mean + posterior.std * noise).sample
        redrawn = redrawn.float()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = reconstruction_loss(images, redrawn) + KL_WEIGHT * kl
        error = (images - redrawn).detach().pow(2).mean().item() / 4
        return loss, {"psnr": -10 * np.log10(error + 1e-12), "kl": kl.item()}

    loop.run(model, loss_at)
    return model.eval()


@torch.no_grad()
def centre_latents(model, images: Tensor) -> None:
    """Shift latents to mean zero per channel inside the weights, and set `scaling_factor` to 1 / std.

    Stable Diffusion's pipeline knows a scale only, so the shift is folded into the two 1x1 convolutions
    around the latents; what the autoencoder draws does not change.
    """
    latents = model.encode(images * 2 - 1).latent_dist.mean
    mean = latents.mean((0, 2, 3))
    channels = len(mean)
    model.quant_conv.bias[:channels] -= mean
    model.post_quant_conv.bias += model.post_quant_conv.weight[:, :, 0, 0] @ mean
    model.register_to_config(scaling_factor=float(1 / (latents - mean[:, None, None]).std()))


@torch.no_grad()
def redraw(model, images: Tensor, batch: int = 16) -> Tensor:
    """Return what the autoencoder makes of `images` (n, 3, h, w) in [0, 1]."""
    device = next(model.parameters()).device
    out = []
    for part in images.split(batch):
        latents = model.encode(part.to(device) * 2 - 1).latent_dist.mean
        out.append((model.decode(latents).sample / 2 + 0.5).clamp(0, 1).cpu())
    return torch.cat(out)


@torch.no_grad()
def cache_latents(model, data: Dataset, target: Path, device: str, count: int, batch: int = 32) -> None:
    """Write the scaled posterior means of the first `count` pictures to `target` (n, c, 16, 16) float16."""
    from tqdm import tqdm

    parts = []
    model = model.to(memory_format=torch.channels_last)  # measured: a third faster than channels first
    for indices in tqdm(torch.arange(min(count, len(data))).split(batch), desc="latents", mininterval=5.0):
        latents = model.encode(data.images(indices).to(device) * 2 - 1).latent_dist.mean
        parts.append((latents * model.config.scaling_factor).half().cpu())
    save_array(target, torch.cat(parts).numpy())


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the PSNR in dB of each picture in [0, 1]."""
    return -10 * torch.log10((a - b).pow(2).mean((1, 2, 3)).clamp_min(1e-10))
