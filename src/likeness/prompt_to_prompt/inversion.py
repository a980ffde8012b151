"""Photos to edit: the noise that a photo would have been drawn from, and the way from there to the photo.

DDIM inversion (Song et al. 2021, sec. 4.3) without guidance goes from a photo's latents to noise. Sampling from that
noise with guidance misses the photo; direct inversion (Ju et al. 2024, "PnP Inversion") puts the source back on its
recorded way after every step, so that targets take their attention maps from the photo itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from likeness.prompt_to_prompt.checks import check_alone, check_ddim, check_pipeline


@dataclass(frozen=True)
class Inversion:
    """The way of some photos: `latents` (steps + 1, images, c, h, w), from the noise to the photos themselves."""

    prompt: str
    latents: Tensor
    timesteps: tuple[int, ...]  # of the sampling that goes this way

    @property
    def noise(self) -> Tensor:
        """Return where to start from, (images, c, h, w)."""
        return self.latents[0]

    def images(self, source_prompt: str, images_per_prompt: int) -> int:
        """Return how many photos there are; ValueError where they are not what is asked for."""
        photos = len(self.noise)
        if source_prompt != self.prompt:
            raise ValueError(f"the photos were inverted as {self.prompt!r}, and the source is {source_prompt!r}.")
        if images_per_prompt not in (1, photos):
            raise ValueError(f"images_per_prompt={images_per_prompt}, for {photos} inverted photos: leave it out.")
        return photos

    def held(self, latents: Tensor, step: int) -> Tensor:
        """Return latents (prompts x images, c, h, w) after a step, counted from 0, with the source where it was."""
        source = self.latents[step + 1].to(latents)
        return torch.cat([source, latents[len(source) :]])

    def check(self, scheduler: Any, noise: Tensor) -> None:
        """Raise ValueError unless a sampling starts from this noise (images, c, h, w) and goes the same way."""
        check_ddim(scheduler)
        steps = tuple(scheduler.timesteps.tolist())
        if steps != self.timesteps:
            raise ValueError(
                f"the photos were inverted in {len(self.timesteps)} steps from timestep {self.timesteps[0]}, and are "
                f"drawn in {len(steps)} from {steps[0]}: give invert and the pipeline the same num_inference_steps."
            )
        if noise.shape != self.noise.shape or not torch.equal(noise, self.noise.to(noise)):
            raise ValueError("the photos' noise is not what is drawn from: pass latents=p2p.latents().")


def invert(pipe: Any, photos: Sequence[Any] | Tensor, prompt: str, *, num_inference_steps: int = 50) -> Inversion:
    """Return the way of photos that `prompt` describes, for `prompt_to_prompt(..., inversion=)`.

    `photos` are PIL images of one size, or a tensor (images, 3, h, w) in [0, 1]; sides are resized to whole latents.
    Costs one UNet evaluation of each photo per step. Works on what Prompt-to-Prompt works on, with a DDIMScheduler.

    Raises ValueError for another scheduler or pipeline, photos of several sizes, or no photo.
    """
    from diffusers import DDIMInverseScheduler

    check_pipeline(pipe)
    check_alone(pipe)
    check_ddim(pipe.scheduler)
    latents = encode(pipe, photos)
    way, scheduler = [latents], pipe.scheduler
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])

    def keep(_: Any, step: int, timestep: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
        way.append(given["latents"])
        return {}

    try:
        pipe.scheduler = DDIMInverseScheduler.from_config(scheduler.config)
        pipe(
            [prompt] * len(latents),
            latents=latents,
            height=height,
            width=width,
            guidance_scale=1.0,
            num_inference_steps=num_inference_steps,
            output_type="latent",
            callback_on_step_end=keep,
            callback_on_step_end_tensor_inputs=["latents"],
        )
        timesteps = tuple(pipe.scheduler.timesteps.flip(0).tolist())
    finally:
        pipe.scheduler = scheduler
    return Inversion(prompt, torch.stack(way[::-1]), timesteps)


@torch.no_grad()
def encode(pipe: Any, photos: Sequence[Any] | Tensor) -> Tensor:
    """Return the latents (images, c, h, w) of photos: the means of what the autoencoder makes of them."""
    if len(photos) == 0:
        raise ValueError("no photos to invert: give at least one.")
    sizes = {tuple(photo.shape[-2:]) if isinstance(photo, Tensor) else photo.size for photo in photos}
    if len(sizes) > 1:
        raise ValueError(f"photos of {len(sizes)} sizes, {sorted(sizes)}: crop them to one.")
    vae = pipe.vae
    pixels = pipe.image_processor.preprocess(photos if isinstance(photos, Tensor) else list(photos))
    overflows = vae.dtype == torch.float16 and vae.config.get("force_upcast")  # as SDXL's does
    device = getattr(pipe, "_execution_device", vae.device)
    try:
        if overflows:
            vae.to(dtype=torch.float32)
        means = [vae.encode(one.to(device, vae.dtype)).latent_dist.mode() for one in pixels.split(1)]
    finally:
        if overflows:
            vae.to(dtype=torch.float16)
    return (torch.cat(means) * vae.config.scaling_factor).to(pipe.unet.dtype)
