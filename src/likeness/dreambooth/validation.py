"""Deterministic numbers about a checkpoint: loss at fixed noise and timesteps, and attention health."""

from __future__ import annotations

import torch
from torch import Tensor

from likeness.dreambooth import health
from likeness.dreambooth.batches import Batches, encode, scale_latents
from likeness.dreambooth.losses import training_target
from likeness.dreambooth.settings import Concept
from likeness.subjects import load_photos, seeded

FIXED = 80  # marks the random key of the fixed noise; the run's seed is not in it, so runs compare
ROWS = 8  # pictures per half, each at its own timestep
HEALTH_ROWS = 4  # photos per subject, each at its own timestep
Fixed = tuple[Tensor, Tensor, Tensor, Tensor]  # rows, latents, noise, timesteps


class Validation:
    """Fixed pictures, noise and timesteps, and what the base model's attention looked like on them."""

    def __init__(self, batches: Batches, concepts: list[Concept], noise_scheduler, autocast) -> None:
        self.batches, self.concepts = batches, concepts
        self.noise_scheduler, self.autocast = noise_scheduler, autocast
        photo_rows = [k * batches.stream.variants for k in range(len(batches.photos))]
        halves = {"instance": photo_rows}
        if batches.class_files:
            first = batches.first_class_row
            halves["class"] = list(range(first, first + len(batches.class_files)))
        self.fixed = {half: self._fix(_spread(rows, ROWS)) for half, rows in halves.items()}
        subjects_of = [s for s, c in enumerate(concepts) for _ in c.photos]
        self.watched = []  # per subject, what its attention is read on
        for subject in range(len(concepts)):
            own = [row for row, s in zip(photo_rows, subjects_of, strict=True) if s == subject]
            self.watched.append(self._fix(_spread(own, HEALTH_ROWS)))
        self.base_health: dict[str, float] = {}

    def _fix(self, rows: list[int]) -> Fixed:
        """Give pictures noise, and timesteps spread evenly over the whole range, the same for any pictures."""
        latents = self._latents(rows)
        noise = torch.stack([torch.randn(latents.shape[1:], generator=seeded(FIXED, k)) for k in range(len(rows))])
        total = self.noise_scheduler.config.num_train_timesteps
        timesteps = ((torch.arange(len(rows)) + 0.5) / len(rows) * total).long()
        return torch.tensor(rows), latents, noise.to(latents.device), timesteps.to(latents.device)

    def _latents(self, rows: list[int]) -> Tensor:
        batches = self.batches
        if batches.cached:
            mean = batches.posterior.mean[torch.tensor(rows).to(batches.device)]
        else:
            first = batches.first_class_row
            files = [
                batches.class_files[row - first] if row >= first else batches.photos[row // batches.stream.variants]
                for row in rows
            ]
            mean = encode(batches.pipe.vae, load_photos(files, batches.resolution), batches.device).mean
        return scale_latents(batches.pipe.vae, mean)

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Return the mean squared error of each half, without weights."""
        values, batches = {}, self.batches
        for half, (rows, latents, noise, timesteps) in self.fixed.items():
            captions = batches.caption_rows[rows].to(batches.device)
            with self.autocast():
                embeds = batches.pipe.text_encoder(batches.input_ids[captions])[0]
                noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
                pred = batches.pipe.unet(noisy, timesteps, embeds.to(_dtype(batches.pipe.unet, embeds))).sample
            target = training_target(self.noise_scheduler, latents, noise, timesteps)
            values[f"validation/loss_{half}"] = float((pred.float() - target).square().mean())
        return values

    @torch.no_grad()
    def health(self) -> dict[str, float]:
        """Return attention health per subject and its change against the base model, once that is known."""
        values = {}
        for concept, (_, latents, noise, timesteps) in zip(self.concepts, self.watched, strict=True):
            prefix = "health/" if len(self.concepts) == 1 else f"health/{concept.identifier}/"
            with self.autocast():
                found = health.measure(self.batches.pipe, concept, latents, noise, timesteps, self.noise_scheduler)
            values |= {prefix + name: value for name, value in found.items()}
        change = {f"{n}_change": v - self.base_health[n] for n, v in values.items() if n in self.base_health}
        return values | change


def _spread(rows: list[int], count: int) -> list[int]:
    """Pick `count` rows evenly; fewer are repeated, so that every timestep is always measured."""
    return [rows[k * len(rows) // count] for k in range(count)]


def _dtype(unet, embeds: Tensor) -> torch.dtype:
    return embeds.dtype if torch.is_autocast_enabled(embeds.device.type) else unet.dtype
