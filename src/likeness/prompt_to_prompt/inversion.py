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
from PIL import Image, ImageOps
from torch import Tensor

from likeness.prompt_to_prompt.checks import check_alone, check_ddim, check_pipeline


@dataclass(frozen=True)
class Inversion:
    """The way of some photos: `latents` (steps + 1, images, c, h, w), from the noise to the photos themselves."""

    prompt: str
    latents: Tensor
    timesteps: tuple[int, ...]  # of the sampling that goes this way
    levels: tuple[float, ...]  # the scheduler's alpha-bar there, and after the last step

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
                f"drawn in {len(steps)} from {steps[0]}: give invert and the pipeline the same steps."
            )
        if levels(scheduler, steps) != self.levels:
            raise ValueError("the scheduler's noise levels are not those the photos were inverted with: invert anew.")
        if noise.shape != self.noise.shape or not torch.equal(noise, self.noise.to(noise)):
            raise ValueError("the photos' noise is not what is drawn from: pass latents=p2p.latents().")


def levels(scheduler: Any, timesteps: Sequence[int]) -> tuple[float, ...]:
    """Return a DDIMScheduler's alpha-bar at timesteps, and that of what it ends with."""
    return (*scheduler.alphas_cumprod[list(timesteps)].tolist(), float(scheduler.final_alpha_cumprod))


def invert(pipe: Any, photos: Sequence[Any] | Tensor, prompt: str, *, num_inference_steps: int = 50) -> Inversion:
    """Return the way of photos that `prompt` describes, for `prompt_to_prompt(..., inversion=)`.

    `photos` are PIL images of one size, or a tensor (images, 3, h, w) in [0, 1]; sides are resized to whole latents.
    Costs one UNet evaluation of each photo per step. Works on what Prompt-to-Prompt works on, with a DDIMScheduler.

    Raises ValueError for another scheduler or pipeline, no steps, and what are no photos or photos of several sizes.
    """
    from diffusers import DDIMInverseScheduler

    check_pipeline(pipe)
    check_alone(pipe)
    check_ddim(pipe.scheduler)
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps={num_inference_steps}: expected at least 1.")
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
    return Inversion(prompt, torch.stack(way[::-1]), timesteps, levels(scheduler, timesteps))


@torch.no_grad()
def encode(pipe: Any, photos: Sequence[Any] | Tensor) -> Tensor:
    """Return the latents (images, c, h, w) of photos: the means of what the autoencoder makes of them."""
    vae, pixels = pipe.vae, pipe.image_processor.preprocess(_checked(photos))
    overflows = vae.dtype == torch.float16 and vae.config.get("force_upcast")
    device = getattr(pipe, "_execution_device", vae.device)
    to = torch.nn.Module.to  # the model's own warns of modules that stay in float32, of which there are none
    try:
        if overflows:
            to(vae, torch.float32)
        means = [vae.encode(one.to(device, vae.dtype)).latent_dist.mode() for one in pixels.split(1)]
    finally:
        if overflows:
            to(vae, torch.float16)
    return (torch.cat(means) * vae.config.scaling_factor).to(pipe.unet.dtype)


def _checked(photos: Any) -> Any:
    """Return photos as upright RGB images, or as the tensor they are; ValueError where they are neither."""
    if isinstance(photos, Tensor):
        if photos.ndim != 4 or photos.shape[1] != 3 or not len(photos):
            raise ValueError(f"photos of shape {tuple(photos.shape)}: expected (images, 3, h, w), at least one image.")
        if not photos.is_floating_point() or photos.min() < 0 or photos.max() > 1:
            raise ValueError("photos in a tensor have to be floating-point numbers from 0 to 1.")
        return photos
    if not isinstance(photos, (list, tuple)) or not all(isinstance(photo, Image.Image) for photo in photos):
        raise ValueError("photos: expected a list of PIL images, or a tensor (images, 3, h, w) in [0, 1].")
    if not photos:
        raise ValueError("no photos to invert: give at least one.")
    upright = [ImageOps.exif_transpose(photo).convert("RGB") for photo in photos]
    if len(sizes := {photo.size for photo in upright}) > 1:
        raise ValueError(f"photos of {len(sizes)} sizes, {sorted(sizes)}: crop them to one.")
    return upright
