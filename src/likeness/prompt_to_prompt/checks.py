"""What is refused or said aloud before and after a sampling, so that no edit silently does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from likeness.prompt_to_prompt.control import Control
from likeness.prompt_to_prompt.edits import Compiled, Edit, Replace, Reweight
from likeness.prompt_to_prompt.solver import HISTORY

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


def check_pipeline(pipe: Any) -> None:
    """Raise ValueError unless this is a pipeline whose attention can be edited."""
    names = {cls.__name__ for cls in type(pipe).__mro__}
    if not names & set(PIPELINES):
        raise ValueError(f"{type(pipe).__name__} cannot be edited; use one of {', '.join(PIPELINES)}.")
    if type(pipe.scheduler).__name__ not in HISTORY:
        raise ValueError(
            f"{type(pipe.scheduler).__name__} is not supported; set pipe.scheduler to one of "
            f"{', '.join(HISTORY)} (SomeScheduler.from_config(pipe.scheduler.config))."
        )
    for module in pipe.unet.modules():
        if getattr(module, "fused_projections", False):
            raise ValueError("the UNet has fused QKV projections: call pipe.unfuse_qkv_projections() first.")


def check_edits(edits: Sequence[Compiled], steps: int) -> None:
    """Raise ValueError for an edit whose windows hold no step at all: it would draw the plain target."""
    for edit in edits:
        if edit.last_step() == 0:
            raise ValueError(
                f"the edit to {edit.target_prompt!r} injects nothing: in {steps} steps its cross_replace_steps and "
                "self_replace_steps hold no step. Widen one of them."
            )


def edit_notices(
    compiled: Sequence[Compiled],
    edits: Sequence[Edit],
    prompts: Sequence[str],
    tokenizer: Any,
    behaviour: str,
) -> list[str]:
    """Say which edits can hardly change anything, and which windows are empty."""
    notices = []
    for edit, spelled in zip(edits, compiled, strict=True):
        name = f"{type(edit).__name__} to {spelled.target_prompt!r}"
        first, end = spelled.self_steps
        crossing = any(part is not None for part in spelled.cross)
        if not crossing:
            notices.append(f"{name}: the cross-attention window holds no step; only self-attention is injected.")
        if first == end:
            notices.append(f"{name}: the self-attention window holds no step.")
        if isinstance(edit, Replace) and first == end:
            matrix, _ = edit.mapping(tokenizer, prompts[0], behaviour)
            if torch.equal(matrix, torch.eye(len(matrix))):
                notices.append(
                    f"{name}: every swapped word has as many tokens as the new one, so maps are handed over one to "
                    "one, and without self-attention injection little structure is kept."
                )
        if isinstance(edit, Reweight):
            if all((torch.as_tensor(w) == 1).all() for w in edit.weights.values()):
                notices.append(f"{name}: every weight is 1, so nothing is re-weighted.")
            elif not crossing:
                raise ValueError(f"{name}: weights act inside cross_replace_steps, which hold no step. Widen them.")
    return notices


def mask_notices(control: Control) -> list[str]:
    """Say which pictures LocalBlend's last mask erased or did not limit at all."""
    if not control.masks:
        return []
    notices = []
    shares = control.masks[-1].float().mean((2, 3, 4))
    for prompt in range(1, control.prompts):
        for image, share in enumerate(shares[prompt].tolist()):
            if share in (0.0, 1.0):
                what = "is empty: the source is returned" if share == 0 else "is full: nothing is kept"
                notices.append(f"LocalBlend's mask of target {prompt}, image {image} {what}.")
    return notices
