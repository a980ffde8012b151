"""Pictures drawn while training: class pictures of the prior, and the sample grid from fixed noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

from likeness import subjects
from likeness.dreambooth.settings import Concept, TrainSettings
from likeness.subjects import seeded

Pictures = dict[str, list[Image.Image]]  # prompt -> one picture per seed

SAMPLE = 79  # marks the random key of sample noise
ROWS_AT_ONCE = 8  # pictures per pipeline call
DECODED_AT_ONCE = 256  # px; the decoder takes 0.75 GiB for a picture of 512 px, so larger ones go one by one


def spare_memory(pipe, resolution: int) -> None:
    """Have the autoencoder take large pictures one by one from here on."""
    if resolution > DECODED_AT_ONCE:
        pipe.vae.enable_slicing()


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


def draw_all(
    pipe, wanted: Sequence[tuple[str, torch.Tensor]], steps: int, guidance_scale: float
) -> Iterator[Image.Image]:
    """Draw a picture for each (prompt, noise), a few at a time."""
    for start in range(0, len(wanted), ROWS_AT_ONCE):
        prompts, noise = zip(*wanted[start : start + ROWS_AT_ONCE], strict=True)
        yield from draw(pipe, list(prompts), torch.stack(noise), steps, guidance_scale)


def latent_shape(pipe, resolution: int) -> tuple[int, int, int]:
    """Return (channels, height, width) of the latents of a square picture."""
    side = resolution // pipe.vae_scale_factor
    return pipe.unet.config.in_channels, side, side


class SampleGrid:
    """The same prompts from the same few noises at every look, and what the untrained model made of them."""

    def __init__(self, pipe, concepts: list[Concept], settings: TrainSettings, resolution: int) -> None:
        self.pipe, self.settings, self.resolution = pipe, settings, resolution
        own = [p for c in concepts for p in (c.instance_prompt, *c.class_prompts[:1])]
        self.prompts = list(dict.fromkeys(settings.sample_prompts or own))
        self.seeds = settings.sample_seeds
        self.base: Pictures = {}

    def draw(self) -> Pictures:
        """Draw the grid with the model as it is now."""
        shape = latent_shape(self.pipe, self.resolution)
        noise = {seed: torch.randn(shape, generator=seeded(SAMPLE, seed)) for seed in self.seeds}
        wanted = [(prompt, noise[seed]) for prompt in self.prompts for seed in self.seeds]
        steps, guidance_scale = self.settings.sample_num_inference_steps, self.settings.sample_guidance_scale
        return self._by_prompt(list(draw_all(self.pipe, wanted, steps, guidance_scale)))

    def prepare_base(self, model_id: str, dtype: str, root: Path) -> None:
        """Draw the grid with the base model, or read it where an earlier run of the same grid left it."""
        key = [model_id, dtype, self.resolution, self.prompts, self.seeds]
        key += [self.settings.sample_num_inference_steps, self.settings.sample_guidance_scale]
        folder = root / f"base-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]}"
        files = [folder / f"base-{k:03d}.png" for k in range(len(self.prompts) * len(self.seeds))]
        if not all(map(subjects.is_readable, files)):
            subjects.make_folder(folder)
            drawn = [image for images in self.draw().values() for image in images]
            for image, file in zip(drawn, files, strict=True):
                subjects.write_png(image, file)
        self.base = self._by_prompt([subjects.open_photo(file) for file in files])

    def _by_prompt(self, pictures: list[Image.Image]) -> Pictures:
        n = len(self.seeds)
        return {prompt: pictures[k * n : (k + 1) * n] for k, prompt in enumerate(self.prompts)}

    def captions(self) -> list[str]:
        """Return a caption for each picture, prompt by prompt."""
        return [f"{prompt} (seed {seed})" for prompt in self.prompts for seed in self.seeds]


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
