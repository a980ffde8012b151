"""What a training would do: base model, photos, class pictures, steps, where it begins. Trains and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from likeness import dreambooth, models
from likeness.dreambooth import storage
from likeness.dreambooth.settings import class_request, has_prior
from likeness.errors import InputError
from likeness.study.job import Job
from likeness.subjects import drawn_class_images


def dry_run(job: Job) -> None:
    """Print what `finetune` would do, line by line."""
    train = job.train
    print(" · ".join([job.who, train.model.name, train.method.name, train.schedule.name]))
    if job.missing:
        print(f"  MISSING base model {job.base.source}\n          {job.missing}")
    else:
        print(f"  base    {job.base.source}: there")
    for concept in job.concepts:
        print(f"  photos  {_photos(concept)}")
    if job.folder is not None and dreambooth.is_finished(job.folder):
        print(f"nothing to train: {job.folder} is finished")
        return
    for line in dict.fromkeys(_class_pictures(job)):  # subjects of one class share its pictures
        print(f"  class   {line}")
    print(f"  steps   {_steps(job.settings)}")
    print(f"  starts  {_start(job)}")
    into = "a folder named by the hash of the base model" if job.folder is None else job.folder
    print(f"would train {job.who} for {job.settings.num_train_steps} steps into {into}", flush=True)


def _photos(concept: dreambooth.Concept) -> str:
    count, captioned = len(concept.photos), sum(photo.caption is not None for photo in concept.photos)
    of = f"{count} of {concept.identifier} {concept.class_word}"
    if captioned == count:
        return f"{of}, all with captions of their own"
    return f"{of}, {captioned or 'none'} with captions of their own; else: {concept.instance_prompt}"


def _class_pictures(job: Job) -> Iterator[str]:
    settings, count = job.settings, job.settings.num_class_images
    for concept in job.concepts:
        if not has_prior(concept) or not settings.prior_loss_weight:
            yield "no pictures, no prior preservation"
        elif concept.class_dir is not None:
            yield f"{count} pictures of your own in {concept.class_dir}, none to draw"
        elif job.missing or settings.resolution is None:
            yield f"{count} pictures, drawn by the base model where they are not there yet"
        else:
            device = models.resolve_device(job.train.device).split(":")[0]
            request = class_request(concept, settings, models.weights_id(job.base), settings.resolution, device)
            root = Path(job.train.out) / "class_images"
            there, to_draw = drawn_class_images(request, count, root)
            yield f"{count} pictures: {there} there, {to_draw} to draw, in {request.folder(root)}"


def _steps(settings: dreambooth.TrainSettings) -> str:
    rates = f"learning rate {settings.learning_rate:g}"
    if settings.text_encoder_steps:
        given = settings.text_encoder_learning_rate
        rates += f", of the text encoder {settings.learning_rate if given is None else given:g}"
        if settings.text_encoder_steps < settings.num_train_steps:
            rates += f" in the first {settings.text_encoder_steps}"
    return f"{settings.num_train_steps}, {rates} ({settings.lr_scheduler})"


def _start(job: Job) -> str:
    """Say whether a training starts anew, goes on, or is refused; the weights of a checkpoint are not read."""
    if job.folder is None:
        return "once the base model is there"
    if storage.is_locked(job.folder):
        return "not now: another training is running in this folder"
    found = storage.newest_checkpoint(job.folder)
    if found is None:
        return "anew, once the base model is there" if job.missing else "anew"
    checkpoint, then = found
    if not job.missing:
        now = storage.identity(models.weights_id(job.base), job.concepts, job.settings)
        try:
            storage.refuse_changed(then, now, job.folder)
        except InputError as error:
            return f"not: {error}"
    return f"where it was killed: goes on from {checkpoint.name}"
