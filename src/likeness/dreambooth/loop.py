"""The training loop (Ruiz et al. 2023, sec. 3): build, resume, step, report, save.

Every random number follows from (seed, micro-step, rank), so a killed run that is started again ends with the
same bits. It reports through callbacks and knows neither metrics nor loggers.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from pathlib import Path

import torch
from tqdm import tqdm

from likeness import models
from likeness.dreambooth import checkpoint, finetuned, storage
from likeness.dreambooth.losses import dreambooth_loss, lr_factor, min_snr_weights, training_target
from likeness.dreambooth.processes import Processes
from likeness.dreambooth.sampling import evaluating, sample_grid
from likeness.dreambooth.settings import Concept, Event, TrainResult, TrainSettings, check_concepts
from likeness.dreambooth.setup import (
    PRECISION,
    OnEvent,
    ProbeModel,
    Run,
    check_pipeline,
    prepare_batches,
    prepare_class_files,
    training_scheduler,
)
from likeness.dreambooth.trainable import Trainable, prepare
from likeness.dreambooth.validation import Validation
from likeness.errors import InputError
from likeness.models import ModelSource, load_pipeline, weights_id


def train(
    model: ModelSource,
    concepts: list[Concept],
    settings: TrainSettings,
    out: str | Path,
    *,
    class_root: str | Path,
    device: str = "auto",
    on_event: OnEvent | None = None,
    probe_model: ProbeModel | None = None,
) -> TrainResult:
    """Fine-tune a model on its subjects, or go on where a killed run stopped; a finished run returns at once.

    `probe_model(pipe, step)` is called on the main process at step 0 with the untouched base model (also when
    resuming) and at every validation with the current one; the numbers it returns join the history.
    """
    start, out = time.perf_counter(), Path(out)
    check_concepts(concepts, settings)
    models.check_available(model)
    device = models.resolve_device(device)
    models.resolve_dtype(PRECISION[settings.mixed_precision], device)
    processes = Processes(device, settings.mixed_precision)
    with contextlib.ExitStack() as stack:
        processes.on_main(lambda: stack.enter_context(storage.locked(out)))
        model_id = processes.on_main(lambda: weights_id(model))
        identity = storage.identity(model_id, concepts, settings)
        run = Run(model, concepts, settings, out, processes, identity, on_event or _ignore, probe_model)
        finished = processes.on_main(lambda: _finished(run))
        if finished is not None:
            return TrainResult(out, settings.num_train_steps, settings.num_train_steps, 0.0, finished, run.notices)
        return _train(run, model_id, Path(class_root), start)


def _train(run: Run, model_id: str, class_root: Path, start: float) -> TrainResult:
    settings, processes = run.settings, run.processes
    pipe = load_pipeline(run.model, device=str(processes.device))
    check_pipeline(pipe, run)
    class_files = prepare_class_files(run, pipe, model_id, class_root)
    noise_scheduler = training_scheduler(pipe)
    trainable = prepare(pipe, settings, processes.device, getattr(torch, PRECISION[settings.mixed_precision]))
    batches = prepare_batches(run, pipe, class_files, model_id, class_root)
    validation = Validation(batches, run.concepts, noise_scheduler, processes.autocast)
    scaler = torch.amp.GradScaler(processes.device.type, enabled=settings.mixed_precision == "fp16")
    loop = Loop(run, pipe, trainable, batches, validation, noise_scheduler, scaler)
    resumed = loop.begin()
    values = loop.fit(resumed)
    return TrainResult(run.out, settings.num_train_steps, resumed, time.perf_counter() - start, values, run.notices)


class Loop:
    """The steps of one run: `begin` restores, `fit` trains, the rest happens every so often."""

    def __init__(self, run: Run, pipe, trainable: Trainable, batches, validation, noise_scheduler, scaler) -> None:
        self.run, self.pipe, self.trainable, self.batches = run, pipe, trainable, batches
        self.validation, self.noise_scheduler, self.scaler = validation, noise_scheduler, scaler
        self.settings, self.processes = run.settings, run.processes
        self.alphas_cumprod = noise_scheduler.alphas_cumprod.to(self.processes.device)
        self.last: dict[str, float] = {}
        self.kept = "there is no checkpoint yet"

    def begin(self) -> int:
        """Measure the base model, then load the newest whole checkpoint; return the step to go on from."""
        base = self._measure(0) if self.settings.validation_every and self.processes.main else {}
        self.validation.base_health = {n: v for n, v in base.items() if n.startswith("health/")}
        found = self.processes.on_main(lambda: checkpoint.find(self.run.out, self.run.identity, self.run.notices))
        step = 0
        if found is not None:
            step = checkpoint.load(found, self.trainable, self.scaler)
            self.kept = f"{found.name} is kept"
            self.run.notices.append(f"resumed from {found.name}")
        if self.processes.main:
            self.history = storage.History(self.run.out / "history.csv", step)
            if not step and base:
                self._report("validation", 0, base)
        for notice in self.run.notices:
            warnings.warn(notice, stacklevel=4)
        return step

    def fit(self, first_step: int) -> dict[str, float]:
        """Train to the end and save the model; return the last values reported."""
        settings, trainable = self.settings, self.trainable
        parameters = self._freeze_text_encoder(first_step)
        self.pipe.unet.train()
        clock, since = time.perf_counter(), first_step
        bar = tqdm(
            range(first_step, settings.num_train_steps),
            initial=first_step,
            total=settings.num_train_steps,
            desc="fine-tuning",
            unit="step",
            disable=not self.processes.main,
        )
        for step in bar:
            if step == settings.text_encoder_steps and "text_encoder" in trainable.parts:
                parameters = self._freeze_text_encoder(step)
            losses = self._accumulate(step)
            grad_norm = self._update(step, parameters, losses)
            done = step + 1
            if done % settings.log_every == 0 or done == settings.num_train_steps:
                now = time.perf_counter()
                self._log(done, losses, grad_norm, (done - since) / max(now - clock, 1e-9))
                bar.set_postfix(loss=f"{losses[0].item():.3f}", refresh=False)
                clock, since = now, done
            clock += self._every_so_often(done)
        return self._finish()

    def _accumulate(self, step: int) -> torch.Tensor:
        """Run forward and backward over the micro-batches of one step; return the three mean losses."""
        settings, processes, total = self.settings, self.processes, 0
        accumulation = settings.gradient_accumulation_steps
        for part in range(accumulation):
            micro_step = step * accumulation + part
            with processes.autocast():
                losses = self._losses(micro_step)
            self.scaler.scale(losses[0] / accumulation).backward()
            total = total + torch.stack(losses).detach() / accumulation
        processes.average([total])
        return total

    def _losses(self, micro_step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch = self.batches.batch(micro_step, self.processes.rank, self.processes.world)
        noisy_latents = self.noise_scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        noise_pred = self.pipe.unet(noisy_latents, batch.timesteps, batch.prompt_embeds, return_dict=False)[0]
        target = training_target(self.noise_scheduler, batch.latents, batch.noise, batch.timesteps)
        weights = None
        if self.settings.snr_gamma is not None:
            kind = self.noise_scheduler.config.prediction_type
            weights = min_snr_weights(self.alphas_cumprod, batch.timesteps, self.settings.snr_gamma, kind)
        return dreambooth_loss(noise_pred, target, batch.num_instance, self.settings.prior_loss_weight, weights)

    def _update(self, step: int, parameters: list, losses: torch.Tensor) -> torch.Tensor:
        """Clip and step; refuse to step on a loss or gradient that is not a number."""
        settings, trainable = self.settings, self.trainable
        if self.processes.world > 1:
            self.processes.average([p.grad for p in parameters])
        if self.scaler.is_enabled():
            self.scaler.unscale_(trainable.optimizer)
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        overflow = self.scaler.is_enabled()  # the scaler skips such a step and lowers its scale
        if not torch.isfinite(losses[0]) or not (overflow or torch.isfinite(grad_norm)):
            raise InputError(
                f"the loss is not a number at step {step + 1} (loss {losses[0].item()}, gradient "
                f"{grad_norm.item()}). Stopped; {self.kept}. Lower the learning rate, or train in float32."
            )
        factor = lr_factor(settings.lr_scheduler, step, settings.num_train_steps, settings.lr_warmup_steps)
        trainable.set_rate(factor)
        self.scaler.step(trainable.optimizer)
        self.scaler.update()
        trainable.optimizer.zero_grad(set_to_none=True)
        trainable.update_ema(step, settings.ema_decay)
        return grad_norm

    def _freeze_text_encoder(self, step: int) -> list:
        """Freeze the text encoder when its share of the steps is over; cache what it says from then on."""
        settings, trainable = self.settings, self.trainable
        if step >= settings.text_encoder_steps:
            if "text_encoder" in trainable.parts:
                trainable.freeze("text_encoder")
            self.pipe.text_encoder.eval()
            if settings.cache_text_embeddings is not False:
                with self.processes.autocast():
                    self.batches.cache_embeddings()
        else:
            self.pipe.text_encoder.train()
        return trainable.active()

    def _log(self, step: int, losses: torch.Tensor, grad_norm: torch.Tensor, rate: float) -> None:
        if not self.processes.main:
            return
        total, instance, prior = losses.tolist()
        values = {"train/loss": total, "train/loss_instance": instance, "train/grad_norm": float(grad_norm)}
        if self.batches.class_files:
            values["train/loss_prior"] = prior
        values["train/lr"] = self.trainable.optimizer.param_groups[0]["lr"]
        self.last |= values
        self.history.add(step, values)
        self.run.on_event(Event("log", step, values | {"train/steps_per_second": rate}))

    def _every_so_often(self, done: int) -> float:
        """Validate, sample and checkpoint when it is time; return the seconds it took."""
        settings, start = self.settings, time.perf_counter()
        end = done == settings.num_train_steps

        def due(every: int) -> bool:
            return bool(every) and (done % every == 0 or end)

        if not (due(settings.validation_every) or due(settings.sample_every) or due(settings.checkpoint_every) or end):
            return 0.0
        if self.processes.main:
            if due(settings.validation_every):
                self._report("validation", done, self._measure(done))
            if due(settings.sample_every):
                self._sample(done)
        if due(settings.checkpoint_every) or end:
            self.processes.on_main(lambda: self._save_checkpoint(done))
            self.kept = f"checkpoint-{done} is kept"
        self.processes.wait()
        return time.perf_counter() - start

    def _measure(self, step: int) -> dict[str, float]:
        with evaluating(self.pipe, self.trainable):
            values = self.validation.losses()
            if self.settings.health:
                values |= self.validation.health()
            if self.run.probe_model is not None:
                values |= self.run.probe_model(self.pipe, step) or {}
        return values

    def _report(self, kind: str, step: int, values: dict[str, float]) -> None:
        self.last |= values
        self.history.add(step, values)
        health = {name: value for name, value in values.items() if name.startswith("health/")}
        self.run.on_event(Event(kind, step, {n: v for n, v in values.items() if n not in health}))
        if health:
            self.run.on_event(Event("health", step, health))

    def _sample(self, step: int) -> None:
        from diffusers.utils import make_image_grid

        prompts = list(self.settings.sample_prompts) or _sample_prompts(self.run.concepts)
        with evaluating(self.pipe, self.trainable), self.processes.autocast():
            images, captions = sample_grid(self.pipe, prompts, self.settings, self.run.resolution)
        path = self.run.out / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        make_image_grid(images, len(prompts), len(self.settings.sample_seeds)).save(path)
        self.run.on_event(Event("samples", step, {}, images, captions, path))

    def _save_checkpoint(self, step: int) -> Path:
        about = {
            "identity": self.run.identity,
            "world": self.processes.world,
            "device": self.processes.device.type,
        }
        folder = checkpoint.save(
            self.run.out, step, self.trainable, self.scaler, about, self.settings.keep_checkpoints
        )
        self.run.on_event(Event("checkpoint", step, path=folder))
        return folder

    def _finish(self) -> dict[str, float]:
        run, steps = self.run, self.settings.num_train_steps

        def save() -> None:
            with evaluating(self.pipe, self.trainable):
                finetuned.save_finetuned(self.pipe, self.settings, run.out)
            finetuned.write_card(run.out, run.model, run.concepts, self.settings, self.last)
            about = {
                "identity": run.identity,
                "values": self.last,
                "device": self.processes.device.type,
                "resolution": run.resolution,
                "prediction_type": self.noise_scheduler.config.prediction_type,
            }
            finetuned.write_record(run.out, run.model, self.settings, about)
            run.on_event(Event("done", steps, self.last, path=run.out))

        self.processes.on_main(save)
        return self.last


def _finished(run: Run) -> dict[str, float] | None:
    """Return the values of a run that is already finished with these very settings."""
    record = storage.read_json(run.out / storage.SETTINGS)
    if record is None or "identity" not in record:
        return None
    storage.refuse_changed(record["identity"], run.identity, run.out)
    return record["values"] if storage.is_finished(run.out) else None


def _sample_prompts(concepts: list[Concept]) -> list[str]:
    return list(dict.fromkeys(p for c in concepts for p in (c.instance_prompt, *c.class_prompts[:1])))


def _ignore(event: Event) -> None:
    return None
