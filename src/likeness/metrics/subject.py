"""Is it still the subject, and what became of its class? Fidelity, drift, diversity, bleeding (Ruiz et al. 2023).

Pictures and photos are float (n, 3, h, w) in [0, 1] of any size; whatever is used twice can be encoded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from likeness.metrics import backbones, definitions
from likeness.metrics.encoders import Clip, Dino, Lpips

CHUNK = 8  # pictures encoded at a time


@dataclass(frozen=True)
class Seen:
    """Pictures as the encoders see them: CLIP and DINO embeddings (n, d), identity readings (n, traits)."""

    pictures: Tensor
    clip: Tensor
    dino: Tensor | None
    identity: Tensor | None
    who: Tensor | None


@dataclass(eq=False)
class SubjectMetrics:
    """Encoders of the subject metrics. DINO is None on the embedded model, the probe is None elsewhere."""

    clip: Clip
    lpips: Lpips
    dino: Dino | None
    probe: Any | None
    backbones: dict[str, str] = field(default_factory=dict)  # metric -> name@hash of what it was measured with

    @property
    def directions(self) -> dict[str, str]:
        return {name: definitions.direction(name) for name in self.backbones}

    def see(self, pictures: Tensor | Seen) -> Seen:
        """Encode pictures once, to be used in several measurements."""
        if isinstance(pictures, Seen):
            return pictures
        checked(pictures)
        clip = torch.cat([self.clip.images(part) for part in pictures.split(CHUNK)])
        dino = torch.cat([self.dino.images(part) for part in pictures.split(CHUNK)]) if self.dino else None
        reading = self.probe.read(pictures) if self.probe else None
        identity, who = (reading.identity, reading.who) if reading else (None, None)
        return Seen(pictures, clip, dino, identity, who)

    def measure(self, pictures: Tensor | Seen, photos: Tensor | Seen) -> dict[str, Tensor]:
        """Compare every picture with the photos of a subject; every value is (n,), its mean the published number.

        `clip_i` and `dino`: mean cosine to the photos. `identity_distance`: root mean square difference, over
        the traits in [-1, 1], of the picture's reading and the mean reading of the photos.
        """
        drawn, real = self.see(pictures), self.see(photos)
        values = {"clip_i": (drawn.clip @ real.clip.T).mean(1)}
        if drawn.dino is not None:
            values["dino"] = (drawn.dino @ real.dino.T).mean(1)
        if drawn.identity is not None:
            values["identity_distance"] = identity_distance(drawn.identity, real.identity)
        return values

    def diversity(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return `diversity_lpips`, the mean LPIPS over all pairs of pictures of one prompt (); NaN below two."""
        shown = checked(pictures)
        if len(shown) < 2:
            return {"diversity_lpips": torch.tensor(torch.nan)}
        features = [torch.cat(layer) for layer in zip(*map(self.lpips.features, shown.split(CHUNK)), strict=True)]
        firsts, seconds = torch.triu_indices(len(shown), len(shown), offset=1).split(1)
        pairs = zip(firsts[0].split(CHUNK), seconds[0].split(CHUNK), strict=True)
        distances = [self.lpips.distance([f[i] for f in features], [f[j] for f in features]) for i, j in pairs]
        return {"diversity_lpips": torch.cat(distances).mean()}

    def drift(self, before: Tensor | Seen, after: Tensor | Seen) -> dict[str, Tensor]:
        """Compare pictures of the same prompts and noise before and after fine-tuning; every value is (n,).

        `drift_lpips`, `drift_clip` (1 - cosine), and with a probe `drift_identity` (as `identity_distance`) and
        `drift_who` (1 where another class is read).
        """
        old, new = self.see(before), self.see(after)
        paired_pictures(old, new)
        parts = zip(old.pictures.split(CHUNK), new.pictures.split(CHUNK), strict=True)
        values = {
            "drift_lpips": torch.cat([self.lpips.distance(*map(self.lpips.features, part)) for part in parts]),
            "drift_clip": 1 - (old.clip * new.clip).sum(1),
        }
        if old.identity is not None:
            values["drift_identity"] = (new.identity - old.identity).square().mean(1).sqrt()
            values["drift_who"] = (new.who != old.who).float()
        return values

    def bleeding(
        self, class_pictures: Tensor | Seen, photos: Tensor | Seen, class_before: Tensor | Seen | None = None
    ) -> dict[str, Tensor]:
        """Return how much pictures of the bare class word look like the subject, each (n,).

        `pres_clip_i`, `pres_dino` (the paper's PRES) and `pres_identity_distance` compare with the photos; given
        the base model's pictures of the same prompts and noise, `bleed_*` says how much nearer they have come:
        the gain in cosine, and the share of the way to the subject's identity (0 none, 1 all of it).
        """
        after = self.see(class_pictures)
        real = self.see(photos)
        values = {f"pres_{name}": value for name, value in self.measure(after, real).items()}
        if class_before is None:
            return values
        before = self.see(class_before)
        paired_pictures(before, after)
        base = self.measure(before, real)
        for name in ("clip_i", "dino"):
            if name in base:
                values[f"bleed_{name}"] = values[f"pres_{name}"] - base[name]
        if "identity_distance" in base:
            values["bleed_identity"] = 1 - values["pres_identity_distance"] / base["identity_distance"]
        return values


class Fidelity:
    """One subject's photos, ready to be compared with pictures that a suite has already encoded.

    The photos are loaded and encoded when they are first needed.
    """

    def __init__(self, judge: SubjectMetrics, load_photos: Callable[[], Tensor]) -> None:
        self.judge, self._load = judge, load_photos

    @cached_property
    def photos(self) -> Seen:
        return self.judge.see(self._load())

    @property
    def backbones(self) -> dict[str, str]:
        """Return what `clip_i`, `dino` and `identity_distance` are measured with, where the suite has them."""
        names = ("clip_i", "dino", "identity_distance")
        return {name: self.judge.backbones[name] for name in names if name in self.judge.backbones}

    def measure(self, pictures: Tensor, clip: Tensor, reading: Any | None) -> dict[str, Tensor]:
        """Compare pictures (n, 3, h, w), given their CLIP embeddings and their reading by the probe."""
        dino = self.judge.dino.images(pictures) if self.judge.dino is not None else None
        identity, who = (reading.identity, reading.who) if reading is not None else (None, None)
        return self.judge.measure(Seen(pictures, clip, dino, identity, who), self.photos)


def checked(pictures: Tensor) -> Tensor:
    """Return pictures; raise ValueError unless they are (n, 3, h, w) and at least one."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or len(pictures) == 0:
        raise ValueError(f"expected pictures (n, 3, h, w) with n > 0, got {tuple(pictures.shape)}.")
    return pictures


def paired_pictures(before: Seen, after: Seen) -> None:
    """Raise ValueError unless there are as many pictures before as after."""
    shapes = [tuple(seen.pictures.shape) for seen in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"pictures before and after belong to the same prompts and noise, got {shapes[0]} before and "
            f"{shapes[1]} after."
        )


def identity_distance(drawn: Tensor, photos: Tensor) -> Tensor:
    """Return the root mean square difference (n,) of readings (n, traits) and the mean of other readings."""
    return F.mse_loss(drawn, photos.mean(0).expand_as(drawn), reduction="none").mean(1).sqrt()


MEASURED_WITH = {
    "clip": ("clip_i", "drift_clip", "pres_clip_i", "bleed_clip_i"),
    "lpips": ("diversity_lpips", "drift_lpips"),
    "dino": ("dino", "pres_dino", "bleed_dino"),
    "probe": ("identity_distance", "drift_identity", "drift_who", "pres_identity_distance", "bleed_identity"),
}


def subject_metrics(suite: Any, device: str) -> SubjectMetrics:
    """Return subject metrics that share a suite's encoders; the field's suites add DINO ViT-S/16."""
    names = {"clip": suite.backbones["clip_t"], "lpips": suite.backbones["lpips"]}
    dino = None
    if suite.dino is not None:
        dino = Dino.load(backbones.DINO_SUBJECT, device)
        names["dino"] = backbones.repository_name(backbones.DINO_SUBJECT)
    if suite.probe is not None:
        names["probe"] = suite.backbones["identity_shift"]
    found = {metric: name for encoder, name in names.items() for metric in MEASURED_WITH[encoder]}
    return SubjectMetrics(suite.clip, suite.lpips, dino, suite.probe, found)
