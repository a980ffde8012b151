"""Draw the three arms of a cell from the same noise: source, target without, target with Prompt-to-Prompt."""

from __future__ import annotations

import functools
import sys
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from likeness.config import Sampler, Sweep
from likeness.errors import InputError
from likeness.study import photo, progress
from likeness.study.edited import Edited
from likeness.study.edits import build_edit, local_blend
from likeness.study.place import short_hash
from likeness.study.plan import EditPlan
from likeness.subjects import load_photos

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {  # of config.SCHEDULERS
    "ddim": ("DDIMScheduler", {"clip_sample": False}),  # clips latents where the model's own solver does not say
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),  # as Stable Diffusion ships it
    "dpm": ("DPMSolverMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
}


@dataclass
class Drawn:
    """What a cell drew: uint8 pictures (h, w, 3) by arm, one per seed, and what came along."""

    pictures: dict[str, list[np.ndarray]]
    timing: dict[str, float]
    count: int = 0  # pictures drawn rather than found in the cache
    notices: list[str] = field(default_factory=list)
    attention: dict[str, Image.Image] = field(default_factory=dict)
    masks: dict[str, Image.Image] = field(default_factory=dict)
    regions: dict[str, list[np.ndarray]] = field(default_factory=dict)  # where the edit acted, one mask per seed


@functools.lru_cache(maxsize=1)
def load_cached(model: Edited, weights: str, dtype: str, device: str):
    """Load a pipeline once per process; `weights` is part of the key so that new files are seen."""
    pipe = model.load(dtype, device)
    pipe.set_progress_bar_config(disable=progress.shown() or not sys.stderr.isatty(), leave=False)
    pipe.vae.to(memory_format=torch.channels_last)  # measured: decodes 40 % faster on a CPU
    return pipe


def set_scheduler(pipe, sampler: Sampler) -> None:
    """Give the pipeline the scheduler of conf/sampler, keeping the model's noise schedule."""
    import diffusers

    name, settings = SAMPLERS[sampler.scheduler]
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **settings)


class PictureCache:
    """Pictures already drawn plainly, by what decides them; PNGs, written atomically, shared by all cells.

    With `fresh` none is taken from there, and what is drawn replaces what is there.
    """

    def __init__(self, root: Path, key: dict[str, Any], fresh: bool = False) -> None:
        self.root, self.key, self.fresh = root, key, fresh

    def path(self, prompt: str, seed: int) -> Path:
        return self.root / short_hash({**self.key, "prompt": prompt}) / f"seed{seed:04d}.png"

    def read(self, prompt: str, seed: int) -> np.ndarray | None:
        if self.fresh:
            return None
        try:
            with Image.open(self.path(prompt, seed)) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError):  # not there, or not a picture: drawn again
            return None

    def write(self, prompt: str, seed: int, picture: np.ndarray) -> None:
        path = self.path(prompt, seed)
        part = path.with_suffix(f".{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(part, format="PNG")
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise InputError(
                f"cannot keep the picture of {prompt!r}, seed {seed}, in {self.root}: {error.strerror or error}. "
                "Free some space, or choose another folder with out=..., then run the same command again."
            ) from error


class Start(NamedTuple):
    """What the arms of some seeds are drawn from: noise (seeds, c, h, w); of a photo also its way from there."""

    seeds: list[int]
    noise: torch.Tensor
    inversion: Any = None


def draw_cell(pipe, sweep: Sweep, plan: EditPlan, cache: PictureCache) -> Drawn:
    """Draw every seed's source, without and with; plain pictures found in the cache are not drawn again."""
    set_scheduler(pipe, sweep.sampler)
    drawn = Drawn({"source": [], "without": [], "with": []}, {"draw": 0.0, "decode": 0.0})
    for start in _starts(pipe, sweep, plan, drawn):
        source, edited = _edited(pipe, sweep, plan, start, drawn)
        drawn.pictures["source"] += source
        drawn.pictures["with"] += edited
        if start.inversion is None:  # or it is the photo, which is not what its noise and prompt alone would draw
            for seed, picture in zip(start.seeds, source, strict=True):
                cache.write(plan.source_prompt, seed, picture)
        drawn.pictures["without"] += _plain(pipe, sweep, plan.target_prompt, start, cache, drawn)
    return drawn


def _starts(pipe, sweep: Sweep, plan: EditPlan, drawn: Drawn) -> Iterator[Start]:
    """Yield what is drawn in one call each: as many seeds as the model takes at once, or the inverted photo."""
    from likeness.prompt_to_prompt import invert, seeded_latents

    shape = latent_shape(pipe, sweep.model.resolution)
    if sweep.photo is not None:
        started = time.perf_counter()
        pixels = load_photos([photo.find(sweep)], shape[1] * pipe.vae_scale_factor)
        inversion = invert(pipe, pixels, plan.source_prompt, num_inference_steps=sweep.sampler.num_inference_steps)
        drawn.timing["draw"] += time.perf_counter() - started
        yield Start(sweep.seeds, inversion.noise, inversion)
        return
    per_call = max(1, sweep.model.seeds_per_call)
    for first in range(0, len(sweep.seeds), per_call):
        seeds = sweep.seeds[first : first + per_call]
        yield Start(seeds, seeded_latents(seeds, shape))


def _edited(pipe, sweep: Sweep, plan: EditPlan, start: Start, drawn: Drawn):
    from likeness.prompt_to_prompt import PromptToPromptWarning, prompt_to_prompt

    started = time.perf_counter()
    with (
        warnings.catch_warnings(action="ignore", category=PromptToPromptWarning),
        prompt_to_prompt(
            pipe,
            plan.source_prompt,
            [build_edit(plan, sweep.edit)],
            behaviour=sweep.edit.behaviour,
            local_blend=local_blend(plan, sweep.edit),
            store_attention=sweep.show_attention,
            images_per_prompt=len(start.seeds),
            negative_prompt=sweep.sampler.negative_prompt,
            self_replace_resolution=sweep.edit.self_replace_resolution,
            num_inference_steps=sweep.sampler.num_inference_steps,
            inversion=start.inversion,
        ) as p2p,
    ):
        latents = pipe(
            **p2p.inputs,
            latents=p2p.latents(start.noise),
            num_inference_steps=sweep.sampler.num_inference_steps,
            guidance_scale=sweep.sampler.guidance_scale,
            output_type="latent",
        ).images
    drawn.timing["draw"] += time.perf_counter() - started
    drawn.count += 2 * len(start.seeds)
    drawn.notices += [n for n in p2p.notices if n not in drawn.notices]
    source, edited = p2p.split(_decode(pipe, latents, drawn))
    _keep_extras(p2p, sweep, plan, start.seeds, source, edited, drawn)
    return source, edited


def _plain(pipe, sweep: Sweep, prompt: str, start: Start, cache: PictureCache, drawn: Drawn):
    found = {seed: cache.read(prompt, seed) for seed in start.seeds}
    missing = [seed for seed in start.seeds if found[seed] is None]
    if missing:
        started = time.perf_counter()
        latents = start.noise[[seed in missing for seed in start.seeds]]
        negative = sweep.sampler.negative_prompt
        latents = pipe(
            [prompt] * len(missing),
            negative_prompt=None if negative is None else [negative] * len(missing),
            latents=latents.to(pipe.device, pipe.unet.dtype),
            num_inference_steps=sweep.sampler.num_inference_steps,
            guidance_scale=sweep.sampler.guidance_scale,
            output_type="latent",
        ).images
        drawn.timing["draw"] += time.perf_counter() - started
        drawn.count += len(missing)
        for seed, picture in zip(missing, _decode(pipe, latents, drawn), strict=True):
            found[seed] = picture
            cache.write(prompt, seed, picture)
    return [found[seed] for seed in start.seeds]


def latent_shape(pipe, resolution: int | None) -> tuple[int, int, int]:
    """Return (channels, height, width) of the latents for a picture side in pixels (None: the model's own)."""
    side = resolution // pipe.vae_scale_factor if resolution else pipe.unet.config.sample_size
    return pipe.unet.config.in_channels, side, side


@torch.no_grad()
def _decode(pipe, latents: torch.Tensor, drawn: Drawn) -> list[np.ndarray]:
    started = time.perf_counter()
    pictures = []
    for chunk in latents.split(4):
        images = pipe.vae.decode(chunk.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor).sample
        images = pipe.image_processor.postprocess(images, output_type="np")
        pictures += list((images * 255).round().astype(np.uint8))
    drawn.timing["decode"] += time.perf_counter() - started
    return pictures


def _keep_extras(p2p, sweep: Sweep, plan: EditPlan, seeds, source, edited, drawn: Drawn) -> None:
    from likeness.study.overlays import attention_overlays, mask_overlays
    from likeness.study.regions import edited_regions

    if sweep.show_attention and not drawn.attention:
        drawn.attention.update(attention_overlays(p2p, plan, source[0], edited[0]))
    if sweep.edit.blend is not None:
        drawn.masks.update(mask_overlays(p2p, seeds, edited))
    acted = edited_regions(p2p, plan, sweep.edit, len(seeds), attention=sweep.show_attention)
    for name, masks in acted.items():
        drawn.regions.setdefault(name, []).extend(masks)
