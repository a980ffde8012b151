"""Multistep samplers remember earlier steps; LocalBlend has to blend that memory too.

Without it the kept region of a target would be pulled by its own past. The reference blends the latents only.
"""

from __future__ import annotations

from typing import Any

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
