"""A training spelled out: concepts, settings, base model, folder, from the composed configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from likeness import dreambooth, models
from likeness.config import PriorClass, Subject, Train
from likeness.errors import InputError
from likeness.study import place, progress
from likeness.study.health import Roles, roles_of
from likeness.study.world import refuse_known_identifiers


@dataclass(frozen=True)
class Job:
    """A training spelled out and checked, before anything heavy is loaded.

    In a dry run `missing` says what of the base model is not here, and `folder` is None where its name needs that.
    """

    train: Train
    subjects: list[Subject]
    concepts: list[dreambooth.Concept]
    roles: list[Roles]
    settings: dreambooth.TrainSettings
    base: models.ModelSource
    folder: Path | None
    missing: str = ""

    @property
    def who(self) -> str:
        return "+".join(s.name for s in self.subjects)


def spell_out(train: Train, subjects: list[Subject]) -> Job:
    """Return the checked training of a configuration: of one subject, or of `subjects` in one model."""
    chosen = subjects or [train.subject]
    refuse_known_identifiers(train, chosen)
    concepts = [place.concept(s, prior_of(train, s), train.model.resolution) for s in chosen]
    words = [s.class_word for s in chosen]
    roles = [roles_of(train, s, c.photos, words) for s, c in zip(chosen, concepts, strict=True)]
    settings = place.settings(
        train,
        sample_every=train.sample_every,
        validation_every=train.validation_every,
        checkpoint_every=train.checkpoint_every,
        sample_prompts=[*train.sample_prompts, *(prompt for r in roles for prompt in r.prompts)],
        sample_num_inference_steps=train.sample_num_inference_steps,
        sample_guidance_scale=train.model.guidance_scale,
        progress_bars=not progress.shown(),
    )
    models.resolve_dtype(settings.mixed_precision, models.resolve_device(train.device))  # refuses one that is not here
    base = place.model_source(train.model)
    dreambooth.check_concepts(concepts, settings)
    dreambooth.check_class_folders(concepts, settings)
    missing = missing_base(base) if train.dry_run else ""
    if not train.dry_run:
        models.check_available(base)
    nameless = missing and models.locate(base)[0] != "hub"  # a hub model is named by its id
    folder = None if nameless else place.model_folder(train, subjects or None)
    return Job(train, chosen, concepts, roles, settings, base, folder, missing)


def prior_of(train: Train, subject: Subject) -> PriorClass:
    """Return the prior class with its prompts spelled out; `own` follows the class word of each subject of a run."""
    prior = train.prior_class
    word = subject.class_word if prior.own else prior.class_word
    return replace(prior, prompts=[prompt.replace("{class_word}", word) for prompt in prior.prompts])


def missing_base(base: models.ModelSource) -> str:
    """Return what of a base model is not on this machine and what comes of that; "" where all is there."""
    models.locate(base)  # refuses a path that leads nowhere
    try:
        models.check_available(base)
    except InputError as error:
        return str(error)
    command = models.to_download(base)
    return f"will be downloaded before training, if the hub can be reached; now: {command}" if command else ""
