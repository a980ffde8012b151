"""Where things live: the fine-tuned model of a configuration, and the trainer's arguments made from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from likeness import dreambooth, models
from likeness.config import TEXT_ENCODER_TARGETS, Model, PriorClass, Subject, Sweep, Train, slug
from likeness.dreambooth.settings import UNSAID
from likeness.subjects import Photo, class_dir_hash, find_photos, photos_hash

EMBEDDED_PHOTOS = "embedded:"
CONFIG = "train.json"  # in a fine-tuned model's folder: the configuration it was made with


def model_source(model: Model) -> models.ModelSource:
    """Return what models.py needs to find the base model."""
    return models.ModelSource(
        name=model.name,
        source=model.source,
        revision=model.revision,
        variant=model.variant,
        config=model.config,
        local_files_only=model.local_files_only,
    )


def photos_of(subject: Subject, resolution: int | None = None) -> list[Photo]:
    """Return the subject's photos; `embedded:NAME` means those shipped with the package."""
    folder = subject.photos
    if folder.startswith(EMBEDDED_PHOTOS):
        folder = Path(__file__).parents[1] / "paperdoll" / "photos" / folder.removeprefix(EMBEDDED_PHOTOS)
    return find_photos(folder, resolution=resolution)


def concept(subject: Subject, prior: PriorClass, resolution: int | None = None) -> dreambooth.Concept:
    """Return the trainer's view of a subject and its prior class."""
    return dreambooth.Concept(
        identifier=subject.identifier,
        class_word=subject.class_word,
        instance_prompt=subject.instance_prompt,
        photos=photos_of(subject, resolution),
        class_prompts=list(prior.prompts),
        class_dir=Path(prior.folder).expanduser() if prior.folder else None,
    )


def settings(config: Train | Sweep, **shown: Any) -> dreambooth.TrainSettings:
    """Return the trainer's settings; `shown` are those that only decide what is logged on the way."""
    schedule, method, prior = config.schedule, config.method, config.prior_class
    values = asdict(schedule) | asdict(method) | shown
    values.pop("name")
    return dreambooth.TrainSettings(
        **values,
        method=method.name,
        mixed_precision=precision(config),
        resolution=config.model.resolution,
        prior_loss_weight=prior.prior_loss_weight,
        num_class_images=prior.num_class_images,
        class_num_inference_steps=prior.num_inference_steps,
        class_guidance_scale=config.model.guidance_scale,
    )


def precision(config: Train | Sweep) -> str:
    """Return the precision that is trained in; `auto` is what the device is best at."""
    if config.model.mixed_precision != "auto":
        return config.model.mixed_precision
    device = models.resolve_device(config.device)
    dtype = models.resolve_dtype("auto", device)
    return {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[dtype]


# Of a model's configuration: how pictures are drawn, not what is trained; and the tables from which schedule, prior
# class and method hold their values.
SWEEPING = ("dtype", "seeds_per_call", "blend_threshold", "self_replace_resolution")  # of these, in cells alone
DRAWING = ("metrics", "guidance_scale", "local_files_only", *SWEEPING)
CHOSEN_FROM = (
    "num_train_steps", "learning_rate", "text_encoder_learning_rate", "lr_scheduler", "class_prompts",
    "train_text_encoder", "text_encoder_layers", "prior_loss_weight",
)  # fmt: skip


def model_folder(config: Train | Sweep, subjects: list[Subject] | None = None) -> Path:
    """Return where the fine-tuned model of this configuration lives, trained or not.

    The readable part names model, subject, prior class, method and schedule; the hash covers every value of
    those groups, the bytes of the photos, of a class folder of one's own and of a base model on this machine, so
    other settings never collide. A hub model is named by its id and revision.
    """
    chosen = subjects or [config.subject]
    model = asdict(config.model)
    for name in (*DRAWING, *CHOSEN_FROM):
        model.pop(name)
    model["mixed_precision"] = precision(config)  # "auto" trains other weights on another device
    method = asdict(config.method)
    if tuple(method["lora_text_encoder_targets"]) == TEXT_ENCODER_TARGETS:  # what it was before it could be chosen
        method.pop("lora_text_encoder_targets")
    for name, value in UNSAID.items():
        if method[name] == value:  # likewise
            method.pop(name)
    prior = asdict(config.prior_class)
    if len(chosen) == 1:  # the subject's own class and that class by name are the same training
        prior.pop("own")
    identity = {
        "subjects": [
            {
                "identifier": s.identifier,
                "class_word": s.class_word,
                "instance_prompt": s.instance_prompt,
                "photos": photos_hash(photos_of(s)),
            }
            for s in chosen
        ],
        "prior_class": prior,
        "class_guidance_scale": config.model.guidance_scale,
        "model": model,
        "method": method,
        "schedule": asdict(config.schedule),
    }
    if config.prior_class.folder:
        identity["class_pictures"] = class_dir_hash(config.prior_class.folder, config.prior_class.num_class_images)
    base = model_source(config.model)
    if models.locate(base)[0] != "hub":
        identity["weights"] = models.weights_id(base)
    who = "+".join(slug(s.name) for s in chosen)
    each_its_own = len(chosen) > 1 and config.prior_class.own
    parts = (
        who,
        "own" if each_its_own else slug(config.prior_class.name),
        slug(config.method.name),
        slug(config.schedule.name),
        short_hash(identity),
    )
    return Path(config.out) / "models" / slug(config.model.name) / "-".join(parts)


def short_hash(value: Any) -> str:
    """Return eight hex digits of the SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
