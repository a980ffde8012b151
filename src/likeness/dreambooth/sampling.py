"""Pictures drawn while training: class pictures of the prior, and the sample grid from fixed noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from PIL import Image

from likeness.dreambooth.settings import TrainSettings
from likeness.subjects import seeded

SAMPLE = 79  # marks the random key of sample noise
ROWS_AT_ONCE = 8  # pictures per pipeline call


@torch.no_grad()
def draw(pipe, prompts: list[str], noise: torch.Tensor, steps: int, guidance_scale: float) -> list[Image.Image]:
    """Draw one picture per prompt with DDIM from the given noise, whatever sampler the pipeline has."""
    from diffusers import DDIMScheduler

    kept = pipe.scheduler
    pipe.scheduler = DDIMScheduler.from_config(kept.config, clip_sample=False)
    try:
        return pipe(
            prompts,
            latents=noise.to(pipe.unet.device, pipe.text_encoder.dtype),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
        ).images
    finally:
        pipe.scheduler = kept


def latent_shape(pipe, resolution: int) -> tuple[int, int, int]:
    """Return (channels, height, width) of the latents of a square picture."""
    side = resolution // pipe.vae_scale_factor
    return pipe.unet.config.in_channels, side, side


def sample_grid(
    pipe, prompts: list[str], settings: TrainSettings, resolution: int
) -> tuple[list[Image.Image], list[str]]:
    """Draw every prompt from the same few noises; return pictures, prompt by prompt, and their captions."""
    shape = latent_shape(pipe, resolution)
    noise = {seed: torch.randn(shape, generator=seeded(SAMPLE, seed)) for seed in settings.sample_seeds}
    wanted = [(prompt, seed) for prompt in prompts for seed in settings.sample_seeds]
    pictures: list[Image.Image] = []
    for start in range(0, len(wanted), ROWS_AT_ONCE):
        rows = wanted[start : start + ROWS_AT_ONCE]
        pictures += draw(
            pipe,
            [prompt for prompt, _ in rows],
            torch.stack([noise[seed] for _, seed in rows]),
            settings.sample_num_inference_steps,
            settings.sample_guidance_scale,
        )
    return pictures, [f"{prompt} (seed {seed})" for prompt, seed in wanted]


@contextmanager
def evaluating(pipe, trainable) -> Iterator[None]:
    """Put the averaged weights in place, in evaluation mode, without gradients; restore everything after."""
    modules = (pipe.unet, pipe.text_encoder)
    training = [module.training for module in modules]
    trainable.swap_ema()
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        trainable.swap_ema()
        for module, was in zip(modules, training, strict=True):
            module.train(was)
