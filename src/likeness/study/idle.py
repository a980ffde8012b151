"""Options of a fine-tuning that were typed and would decide nothing beside the others: an error each, never silence.

Only what stands on the command line counts; values that configuration files hold for other choices are no mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from likeness import models
from likeness.config import Subject, Sweep, Train
from likeness.errors import InputError
from likeness.study.edited import BASE, LOCATING, is_whole
from likeness.study.environment import option_name
from likeness.study.place import CHOSEN_FROM, SWEEPING, model_source


class Idle(NamedTuple):
    """Options, when they do nothing, beside which others that is, and what to do instead."""

    names: tuple[str, ...]
    when: Callable[[Train | Sweep], bool]
    beside: str
    instead: str


def _lora(config: Train | Sweep) -> bool:
    return config.method.name == "lora"


def _text_encoder_is_frozen(config: Train | Sweep) -> bool:
    method = config.method
    return not (method.lora_text_encoder if _lora(config) else method.train_text_encoder)


def _no_prior(config: Train | Sweep) -> bool:
    return not config.prior_class.prompts


def _no_word_to_fill_in(config: Train | Sweep) -> bool:
    return not any("{class_word}" in prompt for prompt in config.prior_class.prompts)


def _nothing_is_sampled(config: Train | Sweep) -> bool:
    return isinstance(config, Train) and not (config.sample_every or config.schedule.ladder)


def _trains_elsewhere(config: Train | Sweep) -> bool:
    """Say whether this very command trains without a GPU; a sweep may name a model that was trained on one."""
    trains = isinstance(config, Train) and not config.dry_run
    return trains and not models.resolve_device(config.device).startswith("cuda")


def _of_a_photo(config: Train | Sweep) -> bool:
    return isinstance(config, Sweep) and config.photo is not None


def _kind_of_model(config: Train | Sweep) -> str:
    return models.locate(model_source(config.model))[0]


LEAVE = "leave it out"
IDLE = (
    Idle(
        ("method.lora_rank", "method.lora_alpha", "method.lora_targets", "method.lora_text_encoder_targets"),
        lambda c: not _lora(c),
        "method=full",
        "leave it out, or use method=lora",
    ),
    Idle(
        ("method.lora_text_encoder",), lambda c: not _lora(c), "method=full", "use method.train_text_encoder"
    ),
    Idle(
        ("method.lora_text_encoder_targets",),
        _text_encoder_is_frozen,
        "a text encoder that is not trained",
        "leave it out, or train it with method.lora_text_encoder=true",
    ),
    Idle(("method.train_text_encoder",), _lora, "method=lora", "use method.lora_text_encoder"),
    Idle(
        ("method.unet_layers", "method.text_encoder_layers", "model.text_encoder_layers"),
        _lora,
        "method=lora",
        "use method.lora_targets or method.lora_text_encoder_targets",
    ),
    Idle(
        ("method.text_encoder_layers", "model.text_encoder_layers"),
        _text_encoder_is_frozen,
        "a text encoder that is not trained",
        "leave it out, or train it with model.train_text_encoder=true",
    ),
    Idle(
        ("schedule.text_encoder_learning_rate",),
        _text_encoder_is_frozen,
        "a text encoder that is not trained",
        "leave it out, or train it with model.train_text_encoder=true",
    ),
    Idle(
        (
            "prior_class.num_class_images", "prior_class.prior_loss_weight", "prior_class.num_inference_steps",
            "prior_class.class_word", "model.num_class_images", "model.class_prompts",
            "model.prior_loss_weight",
        ),
        _no_prior,
        "a prior class without prompts, such as prior_class=none",
        LEAVE,
    ),
    Idle(
        ("prior_class.num_inference_steps",),
        lambda c: c.prior_class.folder is not None,
        "prior_class.folder, whose pictures are not drawn",
        LEAVE,
    ),
    Idle(
        ("prior_class.prompts",),
        lambda c: c.prior_class.folder is not None and len(c.prior_class.prompts) > 1,
        "prior_class.folder beyond its first prompt, which describes all of its pictures",
        "give one prompt",
    ),
    Idle(
        ("prior_class.class_word",),
        lambda c: c.prior_class.own,
        "prior_class=own, which follows subject.class_word",
        "add prior_class.own=false, or write the word into prior_class.prompts",
    ),
    Idle(
        ("prior_class.class_word",),
        _no_word_to_fill_in,
        'class prompts without "{class_word}"',
        "leave it out, or write {class_word} into them",
    ),
    Idle(
        ("schedule.cache_latents",),
        lambda c: c.schedule.cache_latents and c.schedule.crops < 0,
        "schedule.crops=-1, which draws a fresh crop at every step",
        "leave it out, or give a number of crops",
    ),
    Idle(
        ("sample_prompts", "sample_num_inference_steps", "other_class_prompts"),
        _nothing_is_sampled,
        "sample_every=0 and no ladder",
        "leave it out, or give sample_every a number of steps",
    ),
    Idle(("model.seeds_per_call",), _of_a_photo, "photo, which is one", LEAVE),
    Idle(("seeds",), lambda c: _of_a_photo(c) and c.seeds != [0], "photo, which is one", LEAVE),
    Idle(
        ("edit.source", *(f"subject.prompts.{name}" for name in Subject().prompts)),
        _of_a_photo,
        "photo, whose caption is the source prompt",
        "use edit=custom with a source_prompt",
    ),
    Idle(
        ("logger.project", "logger.entity"),
        lambda c: c.logger.mode in ("none", "disabled"),
        "a logger that is off",
        LEAVE,
    ),
    Idle(("method.cuda_graph",), _trains_elsewhere, "a device that is no CUDA GPU", LEAVE),
    Idle(
        tuple(f"model.{name}" for name in SWEEPING),
        lambda c: isinstance(c, Train),
        "train.py, which trains in model.mixed_precision and edits nothing",
        "give it to sweep.py",
    ),
    Idle(
        ("model.revision",), lambda c: _kind_of_model(c) != "hub", "a model that is on this machine", LEAVE
    ),
    Idle(("model.variant",), lambda c: _kind_of_model(c) == "file", "a model in one file", LEAVE),
    Idle(("model.config",), lambda c: _kind_of_model(c) != "file", "a model that is not one file", LEAVE),
)  # fmt: skip


def refuse_idle(config: Train | Sweep, overrides: Sequence[str]) -> None:
    """Refuse options on the command line (Hydra's overrides) that do nothing with this configuration."""
    told = {option_name(override): override for override in overrides}
    if isinstance(config, Train) and config.subjects:
        _refuse_another_subject(config, told)
    if isinstance(config, Sweep) and config.finetuned is not None:
        _refuse_training(config, told)
    for idle in IDLE:
        for name in idle.names:
            if name in told and idle.when(config):
                raise InputError(f"{told[name]} does nothing with {idle.beside}; {idle.instead}.")


def decides_training(name: str, finetuned: str) -> bool:
    """Say whether an option decides what is trained alone, and nothing about editing the model that is there."""
    fixed = [*CHOSEN_FROM, "train_batch_size", "num_class_images", "mixed_precision"]
    if finetuned != BASE:
        fixed += ["resolution", *(LOCATING if is_whole(finetuned) else ())]
    names = {"train_missing", "subject.instance_prompt", *(f"model.{option}" for option in fixed)}
    groups = ("prior_class", "method", "schedule")
    return name.partition(".")[0] in groups or ".".join(name.split(".")[:2]) in names


def _refuse_training(sweep: Sweep, told: dict[str, str]) -> None:
    for name, override in told.items():
        if name == "subject.instance_prompt" and sweep.photo is not None:  # what photos without a caption show
            continue
        if decides_training(name, sweep.finetuned):
            raise InputError(
                f"{override} does nothing with finetuned={sweep.finetuned}, which is not trained here; {LEAVE}."
            )


def _refuse_another_subject(train: Train, told: dict[str, str]) -> None:
    several = f"subjects=[{','.join(train.subjects)}]"
    for name, override in told.items():
        if name == "subject" or name.startswith("subject."):
            raise InputError(
                f"{override} does nothing with {several}, whose subjects are read from conf/subject/; remove "
                f"{override} to train those, or {several} to train the one."
            )
