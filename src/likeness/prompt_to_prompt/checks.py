"""What is refused or said aloud before and after a sampling, so that no edit silently does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from likeness.prompt_to_prompt.control import Control, Layer
from likeness.prompt_to_prompt.edits import Compiled, Edit, Replace, Reweight
from likeness.prompt_to_prompt.layers import attention_modules, pixels
from likeness.prompt_to_prompt.schedule import DEFAULT
from likeness.prompt_to_prompt.solver import HISTORY
from likeness.prompt_to_prompt.words import encode, reference_positions

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
PLAIN_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor")
NO_STEP = "it injects nothing: in {steps} steps its windows for cross- and self-attention hold no step. Widen one."
IDENTITY = (
    "every swapped word has as many tokens as the new one, so maps are handed over one to one, and without "
    "self-attention injection little structure is kept."
)
UNUSED = "the windows of the {over} below it are not used; give them to Reweight itself."
NO_GUIDANCE = "negative_prompt does nothing without guidance: call the pipeline with a guidance_scale above 1."
NO_WEIGHT = "weights act inside cross_replace_steps, which hold no step for a re-weighted word. Widen them."


class PromptToPromptWarning(UserWarning):
    """What can hardly have had an effect; `p2p.notices` lists the same."""


def check_given(edits: Any, images_per_prompt: int) -> None:
    """Raise ValueError for what are no edits, or no images."""
    if not isinstance(edits, (list, tuple)) or not all(isinstance(edit, Edit) for edit in edits):
        raise ValueError(f"edits={edits!r}: expected a list of Replace(...), Refine(...) or Reweight(...).")
    if not edits:
        raise ValueError("no edits: give at least one of Replace(...), Refine(...), Reweight(...).")
    for edit in (*edits, *(edit.over for edit in edits if isinstance(edit, Reweight) and edit.over is not None)):
        if edit.target_prompt is None and not isinstance(edit, Reweight):
            raise ValueError(f"{type(edit).__name__}(None) has no target prompt: give the prompt to draw.")
    if images_per_prompt < 1:
        raise ValueError(f"images_per_prompt={images_per_prompt}: expected at least 1.")


def check_pipeline(pipe: Any) -> None:
    """Raise ValueError unless this is a pipeline whose attention can be edited."""
    names = {cls.__name__ for cls in type(pipe).__mro__}
    if not names & set(PIPELINES):
        raise ValueError(f"{type(pipe).__name__} cannot be edited; use one of {', '.join(PIPELINES)}.")
    check_scheduler(pipe.scheduler)
    if hasattr(pipe.unet, "_orig_mod"):
        raise ValueError(
            "the UNet is compiled, and its attention changes from step to step: set pipe.unet = pipe.unet._orig_mod "
            "while you edit."
        )
    if getattr(pipe.unet, "encoder_hid_proj", None) is not None:
        raise ValueError(
            "an IP-Adapter is loaded, whose attention is not text's: call pipe.unload_ip_adapter() first."
        )
    for name, module in attention_modules(pipe.unet).items():
        processor = type(module.processor).__name__
        if getattr(module, "fused_projections", False):
            raise ValueError("the UNet has fused QKV projections: call pipe.unfuse_qkv_projections() first.")
        if processor not in PLAIN_PROCESSORS:
            raise ValueError(
                f"{name} is a {processor}, which Prompt-to-Prompt cannot stand in for: call "
                "pipe.unet.set_attn_processor(AttnProcessor2_0()) first."
            )


def check_scheduler(scheduler: Any) -> None:
    """Raise ValueError unless it is known what LocalBlend and shared noise have to do with this sampler."""
    if type(scheduler).__name__ not in HISTORY:
        raise ValueError(
            f"{type(scheduler).__name__} is not supported; set pipe.scheduler to one of "
            f"{', '.join(HISTORY)} (SomeScheduler.from_config(pipe.scheduler.config))."
        )
    algorithm = getattr(scheduler.config, "algorithm_type", None) or ""
    if algorithm.startswith("sde"):
        raise ValueError(
            f"algorithm_type={algorithm!r} draws new noise at every step, another for source and targets, so nothing "
            f"can be kept: use {algorithm.removeprefix('sde-')!r}."
        )


def check_alone(pipe: Any) -> None:
    """Raise ValueError inside another context of this UNet: two would take each other's processors for its own."""
    hooks = pipe.unet._forward_pre_hooks.values()
    if any(type(getattr(hook, "__self__", None)).__name__ == "PromptToPrompt" for hook in hooks):
        raise ValueError(
            "Prompt-to-Prompt is active on this pipeline's UNet already: leave that context before entering another, "
            "or give all edits to one."
        )


def check_ddim(scheduler: Any) -> None:
    """Raise ValueError unless this sampler can be gone backwards: DDIM, with steps at equal distances."""
    if type(scheduler).__name__ != "DDIMScheduler":
        raise ValueError(
            f"{type(scheduler).__name__} cannot invert photos; set pipe.scheduler to a DDIMScheduler, with "
            "clip_sample=False (DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False))."
        )
    for name in ("clip_sample", "thresholding", "rescale_betas_zero_snr"):
        if scheduler.config[name]:
            raise ValueError(f"a DDIMScheduler with {name}={scheduler.config[name]} cannot invert photos: set False.")
    if scheduler.config.timestep_spacing != "leading":
        raise ValueError(
            f"a DDIMScheduler with timestep_spacing={scheduler.config.timestep_spacing!r} cannot invert photos: set "
            "'leading'."
        )


def check_prompts(pipe: Any, prompts: Sequence[str]) -> None:
    """Raise ValueError for a prompt that the pipeline rewrites: a textual inversion of several vectors."""
    for prompt in prompts:
        if pipe.maybe_convert_prompt(prompt, pipe.tokenizer) != prompt:
            raise ValueError(
                f"{prompt!r} holds a textual inversion of several vectors, which the pipeline turns into as many "
                "tokens; Prompt-to-Prompt cannot align these. Use one of a single vector."
            )


def check_edits(compiled: Sequence[Compiled], edits: Sequence[Edit], steps: int, behaviour: str) -> None:
    """Raise ValueError for an edit that does nothing: windows of no step, or weights outside of every window.

    The reference behaviours draw it all the same, and `edit_notices` says so.
    """
    if behaviour != "corrected":
        return
    for edit, spelled in zip(edits, compiled, strict=True):
        if spelled.last_step() == 0:
            raise ValueError(f"{name_of(edit, spelled)}: {NO_STEP.format(steps=steps)}")
        if isinstance(edit, Reweight) and edit.changes_weights() and spelled.idle_weights:
            raise ValueError(f"{name_of(edit, spelled)}: {NO_WEIGHT}")


def name_of(edit: Edit, compiled: Compiled) -> str:
    return f"{type(edit).__name__} to {compiled.target_prompt!r}"


def edit_notices(
    compiled: Sequence[Compiled], edits: Sequence[Edit], source: str, tokenizer: Any, behaviour: str
) -> list[str]:
    """Say which edits can hardly change anything, and which windows are empty."""
    notices = []
    for edit, spelled in zip(edits, compiled, strict=True):
        found = window_notices(spelled)
        if isinstance(edit, Reweight):
            if not edit.changes_weights():
                found.append("every weight is 1, so nothing is re-weighted.")
            elif spelled.idle_weights:
                found.append(NO_WEIGHT)
            if has_unused_windows(edit):
                found.append(UNUSED.format(over=type(edit.over).__name__))
        elif encode(tokenizer, source) == encode(tokenizer, spelled.target_prompt):
            found.append("source and target are the same prompt to the model, so nothing is edited.")
        elif isinstance(edit, Replace) and not spelled.injects_any_self():
            matrix, _ = edit.mapping(tokenizer, source, behaviour)
            if torch.equal(matrix, torch.eye(len(matrix))):
                found.append(IDENTITY)
        if behaviour != "corrected":
            absent = (
                word for word in words_of(edit) if not reference_positions(tokenizer, spelled.target_prompt, word)
            )
            found += [f"{word!r} is not in the target prompt, so it is ignored." for word in absent]
        notices += [f"{name_of(edit, spelled)}: {notice}" for notice in found]
    return notices


def words_of(edit: Edit) -> list[str]:
    """Return the words that an edit looks up in its target prompt."""
    windows, weights = edit.cross_replace_steps, edit.weights if isinstance(edit, Reweight) else {}
    named = [word for word in windows if word != DEFAULT] if isinstance(windows, Mapping) else []
    return list(dict.fromkeys([*named, *weights]))


def has_unused_windows(edit: Reweight) -> bool:
    """Say whether the edit below was given windows, and others than the ones that are used."""
    if edit.over is None:
        return False
    names = ("cross_replace_steps", "self_replace_steps")
    below, used = ([getattr(one, name) for name in names] for one in (edit.over, edit))
    return below != [getattr(Edit, name) for name in names] and below != used


def window_notices(compiled: Compiled) -> list[str]:
    """Say which windows hold no step."""
    if compiled.last_step() == 0:
        return [NO_STEP.format(steps=len(compiled.cross))]
    if not compiled.crosses():
        return ["the cross-attention window holds no step; only self-attention is injected."]
    return [] if compiled.injects_any_self() else ["the self-attention window holds no step."]


def limit_notices(control: Control, layers: Sequence[Layer]) -> list[str]:
    """Say that no attention layer is small enough for self-attention to be injected."""
    smallest = min(pixels(layer, control.size) for layer in layers if not layer.is_cross)
    if smallest <= control.limit() or not any(edit.injects_any_self() for edit in control.edits):
        return []
    return [
        f"no self-attention is injected: the smallest maps have {smallest} pixels, the limit is {control.limit()}. "
        "Raise self_replace_resolution."
    ]


def mask_notices(control: Control) -> list[str]:
    """Say in which pictures LocalBlend's mask erased the edit or did not limit it at all, and at how many steps."""
    if not control.masks:
        return []
    notices, steps = [], len(control.masks)
    shares = torch.stack([mask.float().mean((2, 3, 4)) for mask in control.masks]).tolist()
    for prompt in range(1, control.prompts):
        for image in range(control.images):
            of_steps = [share[prompt][image] for share in shares]
            for share, what in ((0.0, "is empty: the source is returned"), (1.0, "is full: nothing is kept")):
                if share in of_steps:
                    where = f"at {of_steps.count(share)} of {steps} blended steps"
                    notices.append(f"LocalBlend's mask of target {prompt}, image {image} {what} {where}.")
    return notices
