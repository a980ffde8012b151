"""What a sampler holds beside the latents: a memory of earlier steps, and noise that it draws.

LocalBlend has to blend the memory too, or the kept region of a target would be pulled by its own past; the reference
blends the latents only. The noise has to be one image's, the same for source and targets, as their first one is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from likeness.prompt_to_prompt.blend import mix

# Tensors, or lists of tensors, one row per picture, that a scheduler carries from step to step.
HISTORY: dict[str, tuple[str, ...]] = {
    "DDIMScheduler": (),
    "EulerDiscreteScheduler": (),
    "PNDMScheduler": ("ets", "cur_sample", "cur_model_output"),
    "DPMSolverMultistepScheduler": ("model_outputs",),
    "UniPCMultistepScheduler": ("model_outputs", "last_sample"),
    "LMSDiscreteScheduler": ("derivatives",),
}


def mix_history(scheduler: Any, masks: Tensor) -> None:
    """Give the kept region of every target the source's history; masks are (p, i, 1, h, w)."""
    for name in HISTORY[type(scheduler).__name__]:
        setattr(scheduler, name, _mixed(getattr(scheduler, name), masks))


def _mixed(value: Any, masks: Tensor) -> Any:
    if isinstance(value, (list, tuple)):
        return [_mixed(item, masks) for item in value]
    if isinstance(value, Tensor) and value.ndim == 4 and len(value) == masks.shape[0] * masks.shape[1]:
        return mix(value, masks)
    return value


def draws_noise(scheduler: Any) -> bool:
    """Say whether a pipeline's `eta` makes this scheduler draw noise at every step."""
    return "eta" in inspect.signature(scheduler.step).parameters


def with_shared_noise(step: Callable[..., Any], prompts: int, drawn: bool = True) -> Callable[..., Any]:
    """Return DDIM's `step` drawing one noise per image, not one per row (prompt, image), where eta > 0.

    The noise is that of a plain sampling of the images with the same generator; of a list of generators, one per
    row, those of the source draw. A source that is not `drawn` but a photo has no such noise: ValueError.
    """

    @wraps(step)  # pipelines look at its parameters
    def shared(model_output: Tensor, timestep: Any, sample: Tensor, eta: float = 0.0, **options: Any) -> Any:
        if eta > 0 and not drawn:
            raise ValueError(f"eta={eta:g} draws noise, which an inverted photo does not hold: leave it out.")
        if eta > 0 and options.get("variance_noise") is None:
            images = len(model_output) // prompts
            generator = options.pop("generator", None)
            generator = generator[:images] if isinstance(generator, list) else generator
            noise = randn_tensor((images, *model_output.shape[1:]), generator, model_output.device, model_output.dtype)
            options["variance_noise"] = noise.repeat(prompts, 1, 1, 1)
        return step(model_output, timestep, sample, eta, **options)

    return shared
