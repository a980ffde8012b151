"""What fine-tuning did beside teaching the subject: likeness, prompt fidelity, drift and diversity, bleeding.

Measured on the trainer's sample grid against the base model's pictures from the same noise (Ruiz et al. 2023,
sec. 3.3 and 4.3). `prior_*`: pictures of the subject's class; `other_*`: pictures of classes nobody trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from likeness import models
from likeness.config import Subject, Train
from likeness.dreambooth import Samples
from likeness.study.plan import phrase_pattern
from likeness.subjects import Photo, load_photos, to_tensor, write_png

if TYPE_CHECKING:
    import torch

SHOWN_SEEDS = 2  # columns before, and as many after, of the sheet
CELL = 160  # pixels of a picture on the sheet


@dataclass(frozen=True)
class Roles:
    """The prompts of the grid by what they tell about one subject."""

    subject: Subject
    photos: list[Photo]
    own: tuple[str, ...]
    prior: tuple[str, ...]
    other: tuple[str, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        return (*self.own, *self.prior, *self.other)


def roles_of(train: Train, subject: Subject, photos: list[Photo], class_words: list[str]) -> Roles:
    """Return a subject's prompts; classes that any subject of the run belongs to are no other classes."""
    own = train.sample_prompts or [subject.instance_prompt, subject.prompts["local"], subject.prompts["global"]]
    named = [p for p in own if _holds(p, subject.identifier)] or [subject.instance_prompt]
    other = [p for p in train.other_class_prompts if not any(_holds(p, word) for word in class_words)]
    prior = [f"photo of {subject.class_word}"]
    return Roles(subject, photos, tuple(dict.fromkeys(named)), tuple(prior), tuple(dict.fromkeys(other)))


class Health:
    """Measure sample grids; call it with each, and read `sheet` for the last one's pictures side by side."""

    def __init__(self, roles: list[Roles], suite: str, device: str) -> None:
        self.roles, self.suite, self.device = roles, suite, device
        self.seen: dict[str, object] = {}  # photos and base pictures, encoded once

    def __call__(self, samples: Samples) -> dict[str, float]:
        """Return numbers named health/NAME, or health/IDENTIFIER/NAME where there are several subjects."""
        from likeness import metrics

        judge = metrics.build_subject(self.suite, device=models.resolve_device(self.device))
        values = {}
        for roles in self.roles:
            prefix = "health/" if len(self.roles) == 1 else f"health/{roles.subject.identifier}/"
            values |= {prefix + name: value for name, value in self._measure(judge, roles, samples).items()}
        return values

    def _measure(self, judge, roles: Roles, samples: Samples) -> dict[str, float]:
        side = next(iter(samples.images.values()))[0].width
        photos = self._once(f"photos {roles.subject.identifier}", judge, lambda: load_photos(roles.photos, side))
        values = {}
        if roles.own:
            drawn = judge.see(_stack(samples.images, roles.own))
            values |= {f"subject_{n}": v for n, v in judge.measure(drawn, photos).items()}
            values |= _fidelity(judge, drawn, roles, samples)
        for role, prompts in (("prior", roles.prior), ("other", roles.other)):
            if not prompts:
                continue
            base = self._once(f"base {prompts}", judge, lambda prompts=prompts: _stack(samples.base, prompts))
            after = judge.see(_stack(samples.images, prompts))
            values |= {f"{role}_{n}": v for n, v in judge.drift(base, after).items()}
            values |= {f"{role}_{n}": v for n, v in judge.bleeding(after, photos, base).items()}
            values[f"{role}_diversity_lpips"] = _diversity(judge, after.pictures, len(prompts))
            if after.who is not None:
                values[f"{role}_class_read"] = _class_read(after.who, prompts, samples)
        means = {name: float(value.float().mean()) for name, value in values.items()}
        return {name: value for name, value in means.items() if math.isfinite(value)}

    def _once(self, key: str, judge, pictures):
        if key not in self.seen:
            self.seen[key] = judge.see(pictures())
        return self.seen[key]

    def sheet(self, samples: Samples) -> Image.Image:
        """Return every prompt's pictures before (base model) and after, from the same noise, with labels."""
        from likeness.report.grid import make_grid

        prompts = [p for p in dict.fromkeys(p for roles in self.roles for p in roles.prompts) if p in samples.images]
        rows = [[*samples.base[p][:SHOWN_SEEDS], *samples.images[p][:SHOWN_SEEDS]] for p in prompts]
        columns = len(rows[0]) // 2
        heads = ["base model"] * columns + [f"step {samples.step}"] * columns
        return make_grid(rows, prompts, heads, cell=CELL)


def save_sheet(sheet: Image.Image, folder: Path, step: int) -> Path:
    """Write a sheet beside the trainer's own grids."""
    path = folder / "samples" / f"before-after-{step:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(sheet, path)
    return path


def _fidelity(judge, drawn, roles: Roles, samples: Samples) -> dict[str, torch.Tensor]:
    """Return how well the subject's pictures show what else the prompt asks; the identifier means nothing to CLIP."""
    import torch

    count = len(samples.images[roles.own[0]])
    plain = [_without(p, roles.subject.identifier) for p in roles.own]
    texts = torch.stack([judge.clip.text(p) for p in plain]).repeat_interleave(count, 0)
    values = {"subject_clip_t": (drawn.clip * texts).sum(1)}
    if judge.probe is not None:
        from likeness.paperdoll.captions import asked
        from likeness.paperdoll.world import CATEGORICAL

        reading = judge.probe.read(drawn.pictures)
        wanted = [asked(p) for p in plain for _ in range(count)]
        shown = [
            reading.categorical[name] == torch.tensor([CATEGORICAL[name].index(w[name]) for w in wanted])
            for name in CATEGORICAL
        ]
        values["subject_asked_shown"] = torch.stack(shown).float().mean(0)
    return values


def _diversity(judge, pictures: torch.Tensor, prompts: int) -> torch.Tensor:
    """Return, for each prompt, how much its pictures differ from each other; before training it is step 0's."""
    import torch

    return torch.stack([judge.diversity(own)["diversity_lpips"] for own in pictures.chunk(prompts)])


def _class_read(who: torch.Tensor, prompts: tuple[str, ...], samples: Samples) -> torch.Tensor:
    """Return 1 for each picture whose class the probe reads as its prompt names it."""
    import torch

    from likeness.paperdoll.captions import asked
    from likeness.paperdoll.world import CLASSES

    wanted = [CLASSES.index(asked(p)["who"]) for p in prompts for _ in samples.images[p]]
    return (who == torch.tensor(wanted)).float()


def _stack(pictures: dict[str, list[Image.Image]], prompts: tuple[str, ...]) -> torch.Tensor:
    import torch

    return torch.stack([to_tensor(image) for prompt in prompts for image in pictures[prompt]])


def _holds(prompt: str, words: str) -> bool:
    return phrase_pattern(words).search(prompt) is not None


def _without(prompt: str, identifier: str) -> str:
    return " ".join(phrase_pattern(identifier).sub("", prompt).split())
