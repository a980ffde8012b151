"""Micro-batches of latents, noise, timesteps, captions: functions of (seed, micro-step, rank).

The VAE's posterior is cached, not a sample of it, so every step still draws a fresh latent. What produces the
text embeddings is cached only while it is not trained.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from likeness.dreambooth.settings import FRESH_CROPS, Concept, TrainSettings, has_prior
from likeness.dreambooth.stream import CROP, DROPOUT, NOISE, OFFSET, POSTERIOR, TIMESTEPS, Stream
from likeness.errors import InputError
from likeness.subjects import crop_photo, each_picture, open_photo, photos_hash, seeded, to_tensor

ENCODE_BATCH = 4  # pictures per VAE call, and held at once; fixed, so that cached posteriors do not depend on memory


@dataclass
class Batch:
    """One process's micro-batch: instance rows first, class rows after; latents at the UNet's scale.

    `captions` are numbers that `Batches.embed` takes.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: Tensor


@dataclass
class Posterior:
    """Mean and standard deviation of the VAE's latents, (n, c, h, w) each, unscaled."""

    mean: Tensor
    std: Tensor


class Batches:
    """Build micro-batches for a pipeline, a set of concepts and their class pictures."""

    def __init__(
        self,
        pipe,
        concepts: list[Concept],
        class_files: list[list[Path]],
        settings: TrainSettings,
        resolution: int,
        cache_file: Path | None,
        device: torch.device,
    ) -> None:
        self.pipe, self.settings, self.resolution, self.device = pipe, settings, resolution, device
        self.cached = settings.cache_latents and settings.crops != FRESH_CROPS
        self.photos = [photo for concept in concepts for photo in concept.photos]
        self.class_files = [file for files in class_files for file in files]
        variants = max(1, settings.crops) * (2 if settings.flip else 1)
        self.stream = Stream(
            [len(c.photos) for c in concepts],
            [len(files) for files in class_files] if self.class_files else [],
            variants,
            settings.train_batch_size,
            settings.seed,
        )
        self._list_captions(concepts, class_files, variants)
        self.embeds: Tensor | None = None
        self._load_pictures(cache_file)

    def _list_captions(self, concepts: list[Concept], class_files: list[list[Path]], variants: int) -> None:
        """Number the distinct captions; the last one is the empty prompt of caption dropout."""
        instance = [c.caption(photo) for c in concepts for photo in c.photos for _ in range(variants)]
        prior = [
            c.class_prompts[0] if c.class_dir else c.class_prompts[k % len(c.class_prompts)]
            for c, files in zip(concepts, class_files, strict=True)
            for k in range(len(files))
            if has_prior(c)
        ]
        self.captions = [*dict.fromkeys([*instance, *prior]), ""]
        number = {caption: k for k, caption in enumerate(self.captions)}
        self.caption_rows = torch.tensor([number[caption] for caption in [*instance, *prior]])
        self.first_class_row = len(instance)
        self.input_ids = tokenize(self.pipe.tokenizer, self.captions).to(self.device)

    def _load_pictures(self, cache_file: Path | None) -> None:
        if not self.cached:
            if self.settings.crops == FRESH_CROPS:
                self.originals = [open_photo(photo.path) for photo in self.photos]
            self.pixels = torch.stack([to_bytes(picture) for picture in self._pictures()])
            return
        stored = read_posterior(cache_file) if cache_file else None
        if stored is None:
            stored = encode(self.pipe.vae, self._pictures(), self.device)
            if cache_file:
                write_posterior(stored, cache_file)
        self.posterior = Posterior(stored.mean.to(self.device), stored.std.to(self.device))

    def _pictures(self) -> Iterator[Tensor]:
        """Yield the rows of the instance table, then those of the class table, each when it is asked for."""
        settings, crops = self.settings, max(0, self.settings.crops)
        yield from each_picture(self.photos, self.resolution, crops=crops, flip=settings.flip, seed=settings.seed)
        yield from each_picture(self.class_files, self.resolution)

    def cache_embeddings(self) -> None:
        """Embed every caption once; right as long as the text encoder is not trained any more."""
        with torch.no_grad():
            rows = [self.pipe.text_encoder(ids[None])[0] for ids in self.input_ids]
        self.embeds = torch.cat(rows)

    def batch(self, micro_step: int, rank: int, world: int) -> Batch:
        """Draw one micro-batch. Random numbers are drawn on the CPU: the same on every device."""
        seed, settings = self.settings.seed, self.settings
        positions = self.stream.positions(micro_step, rank, world)
        rows = self.stream.instance_rows(positions)
        if self.class_files:
            rows += [self.first_class_row + row for row in self.stream.class_rows(positions)]
        index = torch.tensor(rows)
        posterior = self._posterior(index, positions)
        shape = posterior.mean.shape
        fresh = torch.randn(shape, generator=seeded(seed, POSTERIOR, micro_step, rank))
        latents = scale_latents(self.pipe.vae, posterior.mean + posterior.std * self._send(fresh))
        noise = torch.randn(shape, generator=seeded(seed, NOISE, micro_step, rank))
        if settings.noise_offset:
            offset = torch.randn(*shape[:2], 1, 1, generator=seeded(seed, OFFSET, micro_step, rank))
            noise += settings.noise_offset * offset
        total = self.pipe.scheduler.config.num_train_timesteps
        timesteps = torch.randint(total, (len(rows),), generator=seeded(seed, TIMESTEPS, micro_step, rank))
        captions = self._captions(index, micro_step, rank)
        return Batch(latents, self._send(noise), self._send(timesteps), self._send(captions))

    def embed(self, captions: Tensor) -> Tensor:
        """Return the text embeddings (b, t, c) of a batch's captions: cached ones where there are any."""
        return self.pipe.text_encoder(self.input_ids[captions])[0] if self.embeds is None else self.embeds[captions]

    def _send(self, values: Tensor) -> Tensor:
        """Bring a batch's numbers to the device; a GPU fetches them itself, when it gets there."""
        if self.device.type != "cuda":
            return values.to(self.device)
        return values.pin_memory().to(self.device, non_blocking=True)

    def _posterior(self, index: Tensor, positions: range) -> Posterior:
        if self.cached:
            index = self._send(index)
            return Posterior(self.posterior.mean[index], self.posterior.std[index])
        fresh = self.settings.crops == FRESH_CROPS
        pixels = self._fresh_crops(index, positions) if fresh else to_unit(self.pixels[index])
        return encode(self.pipe.vae, pixels, self.device)

    def _fresh_crops(self, index: Tensor, positions: range) -> Tensor:
        pixels = to_unit(self.pixels[index])
        per_photo = 2 if self.settings.flip else 1
        for k, position in enumerate(positions):
            photo, mirrored = divmod(int(index[k]), per_photo)
            key = (self.settings.seed, CROP, position)
            pixels[k] = to_tensor(crop_photo(self.originals[photo], self.resolution, key, bool(mirrored)))
        return pixels

    def _captions(self, index: Tensor, micro_step: int, rank: int) -> Tensor:
        captions = self.caption_rows[index]
        if self.settings.caption_dropout:
            key = (self.settings.seed, DROPOUT, micro_step, rank)
            dropped = torch.rand(len(index), generator=seeded(*key)) < self.settings.caption_dropout
            captions = captions.masked_fill(dropped, len(self.captions) - 1)
        return captions


def tokenize(tokenizer, prompts: list[str]) -> Tensor:
    """Return (n, max_length) token ids, padded as for sampling; refuse a prompt that would be cut."""
    for prompt in prompts:
        length = len(tokenizer(prompt).input_ids)
        if length > tokenizer.model_max_length:
            raise InputError(
                f"the prompt {prompt[:60]!r} has {length} tokens, {tokenizer.model_max_length} fit; shorten it."
            )
    fixed = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
    return tokenizer(prompts, return_tensors="pt", **fixed).input_ids


@torch.no_grad()
def encode(vae, pictures: Iterable[Tensor], device: torch.device) -> Posterior:
    """Encode pictures (3, h, w) in [0, 1] in small fixed groups, in the VAE's precision, kept in float32.

    Whoever calls it under autocast gets the same, so that uncached latents equal cached ones.
    """
    means, stds, pictures = [], [], iter(pictures)
    while group := list(itertools.islice(pictures, ENCODE_BATCH)):
        with torch.autocast(device.type, enabled=False):
            posterior = vae.encode((torch.stack(group) * 2 - 1).to(device, vae.dtype)).latent_dist
        means.append(posterior.mean.float())
        stds.append(posterior.std.float())
    return Posterior(torch.cat(means), torch.cat(stds))


def to_bytes(pixels: Tensor) -> Tensor:
    """Hold [0, 1] as the bytes it was read from, a quarter of the memory; `to_unit` gives the same floats back."""
    return (pixels * 255).round().to(torch.uint8)


def to_unit(pixels: Tensor) -> Tensor:
    """Bring bytes to [0, 1]."""
    return pixels.float() / 255


def scale_latents(vae, latents: Tensor) -> Tensor:
    """Bring VAE latents to the scale the UNet works in."""
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return (latents - shift) * vae.config.scaling_factor


def posterior_key(
    model_id: str,
    concepts: list[Concept],
    class_files: list[list[Path]],
    settings: TrainSettings,
    resolution: int,
    device_type: str,
) -> str:
    """Hash what decides the cached posteriors."""
    digest = hashlib.sha256()
    options = [model_id, device_type, resolution, settings.crops, settings.flip, settings.crops and settings.seed]
    digest.update(json.dumps([*options, [photos_hash(c.photos) for c in concepts]]).encode())
    for file in (file for files in class_files for file in files):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def read_posterior(path: Path) -> Posterior | None:
    """Return the stored posteriors, or None if there are none or they are torn."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        return Posterior(tensors["mean"], tensors["std"])
    except (OSError, KeyError, SafetensorError):
        return None


def write_posterior(posterior: Posterior, path: Path) -> None:
    """Store posteriors atomically; a full disk only means computing them again."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"mean": posterior.mean.cpu().contiguous(), "std": posterior.std.cpu().contiguous()}, fresh)
        fresh.replace(path)
    except (OSError, SafetensorError):  # the latter is how safetensors reports a full disk
        fresh.unlink(missing_ok=True)
