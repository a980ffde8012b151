"""The denoiser of the embedded model: a UNet2DConditionModel on 16x16 latents, trained with its text encoder.

v-prediction (Salimans & Ho 2022) on Stable Diffusion's noise schedule, min-SNR weights (Hang et al. 2023),
captions dropped for classifier-free guidance.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from likeness.paperdoll import world
from likeness.paperdoll.captions import STRIKING
from likeness.paperdoll.checkpoints import Loop
from likeness.paperdoll.dataset import Dataset
from likeness.paperdoll.presets import Preset
from likeness.paperdoll.tokenizer import encode

CAPTION_DROPOUT = 0.1
SNR_CAP = 5.0
# Shares of a batch taken from the pictures that show what is learnt last: how much of a word to draw, and marks.
BLOSSOM, MARKED = 0.2, 0.25


def build_unet(preset: Preset):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=preset.latent_channels, out_channels=preset.latent_channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=preset.unet_widths, layers_per_block=1, cross_attention_dim=preset.clip_width,
        attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def noise_schedule():
    """Return Stable Diffusion's schedule, set up for DDIM sampling."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction",
    )  # fmt: skip


def denoising_loss(unet, scheduler, latents: Tensor, prompt_embeds: Tensor, rng: torch.Generator) -> Tensor:
    """Return the min-SNR weighted v-prediction loss; timesteps are stratified over the batch."""
    n, device = len(latents), latents.device
    spread = (torch.arange(n) + torch.rand(n, generator=rng)) / n
    timesteps = (spread * scheduler.config.num_train_timesteps).long().to(device)
    noise = torch.randn(latents.shape, generator=rng).to(device)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    predicted = unet(noisy, timesteps, prompt_embeds).sample
    alphas = scheduler.alphas_cumprod.to(device)[timesteps]
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=SNR_CAP) / (snr + 1)
    return (weight * (predicted - target).pow(2).mean((1, 2, 3))).mean() / weight.mean()


def train_unet(data: Dataset, latents: np.ndarray, preset: Preset, loop: Loop, device: str, text_encoder, tokenizer):
    """Train (or continue) UNet and text encoder together on cached latents; return both for evaluation."""
    scheduler = noise_schedule()
    model = nn.ModuleDict({"unet": build_unet(preset), "text_encoder": text_encoder}).to(device)
    empty = encode(tokenizer, [""])
    cached = torch.from_numpy(latents)
    striking = [world.TRAITS.index(trait) for trait in STRIKING]
    sought = (
        (BLOSSOM, (data.labels["blossom"][: len(cached)] > 0).nonzero().flatten()),
        (MARKED, (data.identity[: len(cached), striking] > 0).any(1).nonzero().flatten()),
    )
    precise = device == "cpu"
    text_rate = preset.text_rate
    model["text_encoder"].requires_grad_(text_rate > 0)

    def loss_at(step: int, rng: torch.Generator):
        indices = torch.randint(len(cached), (loop.batch,), generator=rng)
        for share, found in sought:
            if len(found):
                others = found[torch.randint(len(found), (loop.batch,), generator=rng)]
                indices = torch.where(torch.rand(loop.batch, generator=rng) < share, others, indices)
        tokens = data.caption_tokens(indices, rng)
        dropped = torch.rand(len(tokens), 1, generator=rng) < CAPTION_DROPOUT
        tokens = torch.where(dropped, empty, tokens).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=not precise):
            with torch.set_grad_enabled(text_rate > 0):
                prompt_embeds = model["text_encoder"](tokens).last_hidden_state
            loss = denoising_loss(model["unet"], scheduler, cached[indices].float().to(device), prompt_embeds, rng)
        return loss, {}

    groups = [{"params": list(model["unet"].parameters()), "scale": 1.0}]
    if text_rate > 0:
        groups.append({"params": list(model["text_encoder"].parameters()), "scale": text_rate})
    loop.run(model, loss_at, groups=groups)
    return model["unet"].eval(), model["text_encoder"].eval()


def assemble(vae, text_encoder, tokenizer, unet):
    """Return the StableDiffusionPipeline of these parts."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=noise_schedule(),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip
