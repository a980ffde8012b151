"""Fine-tune one subject, or several in one model, and show what happens on the way."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from likeness import dreambooth, models
from likeness.config import Subject, Train, to_plain
from likeness.dreambooth import storage
from likeness.errors import InputError
from likeness.malloc import keep_freed_memory
from likeness.ranks import is_main_process
from likeness.report.training import write_training_report
from likeness.study import dry_run_training, environment, ladder, place, tracking
from likeness.study.health import Health, save_sheet
from likeness.study.idle import decides_training, refuse_idle
from likeness.study.job import Job, spell_out
from likeness.study.world import world_notices
from likeness.subjects import crop_photo, open_photo


def finetune(
    train: Train, run_dir: Path, subjects: list[Subject], overrides: Sequence[str] | None = None
) -> Path | None:
    """Train what the configuration asks for and return its folder; resumes or returns at once if it is there.

    `overrides`: what was typed, of which nothing may be in vain; None within a sweep. With `dry_run` it says what it
    would do; the folder is None where it cannot be named yet.
    """
    refuse_idle(train, overrides or ())
    job = spell_out(train, subjects)
    health, missing = _health(job)
    say(world_notices(train, job.subjects) + missing + ([] if job.missing else _left_beside(job)))
    if train.dry_run:
        if is_main_process():
            dry_run_training.dry_run(job)
        return job.folder
    keep_freed_memory()
    with _tracked(job) as run:
        result = dreambooth.train(
            job.base,
            job.concepts,
            job.settings,
            job.folder,
            class_root=Path(train.out) / "class_images",
            device=train.device,
            on_event=lambda event: _forward(event, run),
            probe_samples=health and (lambda samples: _probe(health, samples, job.folder, run)),
            choose_step=lambda rows: ladder.score(ladder.rows_of(rows, job.settings.rungs)).knee,
        )
        if is_main_process():
            _show_outcome(job, result, run, run_dir)
    say([], f"fine-tuned model: {job.folder}   ({result.seconds:.0f} s, see report.html there)")
    if overrides is not None:
        say([], f"edit it: {edit_command(job, overrides)}")
    return job.folder


def _left_beside(job: Job) -> list[str]:
    """Name killed runs that differ from this one in settings only, so that it starts anew instead of going on."""
    if not is_main_process() or dreambooth.is_finished(job.folder) or storage.left_unfinished(job.folder):
        return []
    readable = job.folder.name.rsplit("-", 1)[0]
    beside = [f for f in sorted(job.folder.parent.glob("*-*")) if f.name.rsplit("-", 1)[0] == readable]
    left = {folder: then for folder in beside if (then := storage.left_unfinished(folder))}
    if not left:
        return []
    now = storage.identity(models.weights_id(job.base), job.concepts, job.settings)
    changed = {folder: storage.differences(then, now) for folder, then in left.items()}
    return [
        f"this starts anew; {folder.name} beside it is unfinished and has other settings "
        f"({storage.listed(those)}). Restore them to go on with that one."
        for folder, those in changed.items()
        if those
    ]


def _tracked(job: Job):
    """Return the tracker run of a training; a model that is already there is not a run."""
    train = job.train
    if dreambooth.is_finished(job.folder):
        return tracking.no_run()
    return tracking.start_run(
        train,
        name=job.folder.name,
        group=job.who,
        job_type="train",
        tags=[job.who, train.method.name, train.model.name, train.schedule.name],
        directory=Path(train.out) / "wandb",
        continued=job.folder / "wandb-run.txt",
    )


def _show_outcome(job: Job, result: dreambooth.TrainResult, run, run_dir: Path) -> None:
    """Point to the model from the run folder, write what it was made with and its page, tell the tracker."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "model.txt").write_text(f"{job.folder.resolve()}\n", encoding="utf-8")
    storage.write_text(job.folder / place.CONFIG, json.dumps(to_plain(job.train), indent=1) + "\n")
    run.summary(result.values)
    if job.settings.ladder:
        _show_ladder(job, result.steps, run)
    who = ", ".join(f"{s.identifier} {s.class_word}" for s in job.subjects)
    photos = [crop_photo(open_photo(photo.path), 256, None) for concept in job.concepts for photo in concept.photos]
    write_training_report(job.folder, f"{who} on {job.train.model.name}: {result.steps} steps", photos)
    lora = job.settings.method == "lora"  # by its folder's name, under which editing runs look for it
    run.artifact(job.folder.name, "model", job.folder / ("lora" if lora else "model"), reference=not lora)


def edit_command(job: Job, overrides: Sequence[str]) -> str:
    """Return a sweep over what was trained, with what was typed that has a say in editing it."""
    folder = str(job.folder)
    kept = []
    for override in overrides:
        name = environment.option_name(override)
        shared = name.partition(".")[0] in ("model", "subject", "out", "device", "logger")
        if shared and not decides_training(name, folder):
            kept.append(override)
    if job.train.subjects:
        kept.insert(0, f"subject={','.join(job.train.subjects)}")
    elif not any(override.startswith("subject=") for override in kept):
        kept.insert(0, f"subject={job.train.subject.name}")
    return environment.entry_command("sweep.py", ["-m", *kept, f"finetuned={folder}", "edit=local,global,reweight"])


def finetune_missing(train: Train, run_dir: Path) -> Path:
    """Fine-tune unless that is done; of several processes that need the same model one trains, the others wait."""
    folder = place.model_folder(train)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not dreambooth.is_finished(folder):
            finetune(train, run_dir, [])
    return folder


def say(notices: list[str], line: str = "") -> None:
    """Print notices, and a line, once for all processes of the launch."""
    if is_main_process():
        for notice in notices:
            print(f"note: {notice}", flush=True)
        if line:
            print(line, flush=True)


def _health(job: Job) -> tuple[Health | None, list[str]]:
    """Return what measures the samples, or why nothing does; a ladder cannot do without."""
    from likeness import metrics

    train, settings = job.train, job.settings
    if not (settings.sample_every or settings.ladder):
        return None, []
    try:
        metrics.check_available(train.model.metrics, subject=True)
    except InputError as error:
        if settings.ladder:
            raise
        return None, [f"likeness, prior drift and bleeding are not measured on the way: {error}"]
    return Health(job.roles, train.model.metrics, train.device), []


def _probe(health: Health, samples: dreambooth.Samples, folder: Path, run) -> dict[str, float]:
    """Measure a sample grid; store and track it beside the base model's."""
    values = health(samples)
    if samples.step:
        sheet = health.sheet(samples)
        save_sheet(sheet, folder, samples.step)
        run.images("samples/before_after", [(sheet, f"base model and step {samples.step}")], samples.step)
    return values


def _show_ladder(job: Job, kept: int, run) -> None:
    """Print, store and track the scores of the checkpoints and the one that was kept."""
    history = storage.History(job.folder / "history.csv", job.settings.num_train_steps).numbers()
    scored = ladder.score(ladder.rows_of(history, job.settings.rungs))
    if scored.knee != kept:  # the model was made by a version that scored otherwise
        scored = replace(scored, knee=kept, notices=[f"scored as now, step {scored.knee} would be kept."])
    ladder.write_csv(scored, job.folder / "ladder.csv")
    run.table("ladder", *ladder.table(scored))
    run.summary({"ladder/knee": scored.knee})
    ladder.print_ladder(scored, f"{job.who}: {job.settings.ladder} checkpoints; kept: step {scored.knee}")


def _forward(event: dreambooth.Event, run) -> None:
    if event.kind == "past" and not run.offline:  # the tracked run itself goes on, but not one that is offline
        return
    say(event.notices)
    if event.values:
        run.log(event.values, event.step)
    if event.images:
        captions = event.captions or [""] * len(event.images)
        run.images(f"{event.kind}/grid", list(zip(event.images, captions, strict=True)), event.step)
