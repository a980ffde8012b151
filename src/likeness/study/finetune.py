"""Fine-tune one subject, or several in one model, and show what happens on the way."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

from likeness import dreambooth, models
from likeness.config import Subject, Train
from likeness.study import place, tracking


def finetune(train: Train, run_dir: Path, subjects: list[Subject]) -> Path:
    """Train what the configuration asks for and return its folder; resumes or returns at once if it is there."""
    chosen = subjects or [train.subject]
    concepts = [place.concept(s, _prior(train, s), train.model.resolution) for s in chosen]
    folder = place.model_folder(train, subjects or None)
    settings = place.settings(
        train,
        sample_every=train.sample_every,
        validation_every=train.validation_every,
        checkpoint_every=train.checkpoint_every,
        sample_prompts=_sample_prompts(train, chosen),
        sample_guidance_scale=train.model.guidance_scale,
    )
    base = place.model_source(train.model)
    dreambooth.check_concepts(concepts, settings)
    models.check_available(base)
    if train.dry_run:
        print(f"would train {', '.join(s.name for s in chosen)} for {settings.num_train_steps} steps into {folder}")
        return folder
    who = "+".join(s.name for s in chosen)
    run = tracking.start_run(
        train,
        name=folder.name.rsplit("-", 1)[0],
        group=who,
        job_type="train",
        tags=[who, train.method.name, train.model.name, train.schedule.name],
        directory=Path(train.out) / "wandb",
    )
    with run:
        result = dreambooth.train(
            base,
            concepts,
            settings,
            folder,
            class_root=Path(train.out) / "class_images",
            device=train.device,
            on_event=lambda event: _forward(event, run),
        )
        run.summary({f"train/{k.removeprefix('train/')}": v for k, v in result.values.items()})
        if settings.method == "lora":
            run.artifact(f"{who}-lora", "model", folder / "lora")
        else:
            run.artifact(f"{who}-model", "model", folder / "model", reference=True)
    for notice in result.notices:
        print(f"note: {notice}")
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "model.txt").write_text(f"{folder.resolve()}\n", encoding="utf-8")
    print(f"fine-tuned model: {folder}   ({result.seconds:.0f} s, samples in {folder / 'samples'})")
    return folder


def finetune_missing(train: Train, run_dir: Path) -> Path:
    """Fine-tune unless that is done; of several processes that need the same model one trains, the others wait."""
    folder = place.model_folder(train)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not dreambooth.is_finished(folder):
            finetune(train, run_dir, [])
    return folder


def _world_notices(train: Train, subjects: list[Subject]) -> list[str]:
    """Say what the embedded model cannot know: photographs, and words outside its grammar."""
    if train.model.source != "embedded":
        return []
    from likeness.paperdoll.captions import unknown_words

    notices = []
    for subject in subjects:
        if not subject.photos.startswith(place.EMBEDDED_PHOTOS):
            notices.append(
                f"model=paperdoll draws paper dolls only and cannot learn a real face; for the photos in "
                f"{subject.photos} use model=sd15."
            )
        words = set(unknown_words(subject.instance_prompt)) - set(subject.identifier.lower().split())
        if words:
            notices.append(f"the embedded model was never shown: {', '.join(sorted(words))}; model=sd15 knows more.")
    return notices


def _prior(train: Train, subject: Subject) -> Any:
    """Return the prior class for one of several subjects: `own` follows each subject's class word."""
    import copy

    prior = copy.deepcopy(train.prior_class)
    own = f"photo of {train.subject.class_word}"
    prior.prompts = [f"photo of {subject.class_word}" if p == own else p for p in prior.prompts]
    return prior


def _sample_prompts(train: Train, subjects: list[Subject]) -> list[str]:
    if train.sample_prompts:
        return list(train.sample_prompts)
    prompts = []
    for subject in subjects:
        prompts += [subject.instance_prompt, subject.prompts["local"], subject.prompts["global"]]
        prompts.append(f"photo of {subject.class_word}")
    return list(dict.fromkeys(prompts))


def _forward(event: dreambooth.Event, run) -> None:
    if event.values:
        run.log(event.values, event.step)
    if event.images:
        captions = event.captions or [""] * len(event.images)
        run.images(f"{event.kind}/grid", list(zip(event.images, captions, strict=True)), event.step)
