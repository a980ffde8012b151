"""The training loop (Ruiz et al. 2023, sec. 3): build, resume, step, report, save.

Every random number follows from (seed, micro-step, rank), so a killed run that is started again ends with the
same bits. It reports through callbacks and knows neither metrics nor loggers.
"""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

import torch
from tqdm import tqdm

from likeness import models
from likeness.dreambooth import checkpoint, finetuned, storage
from likeness.dreambooth.batches import Batch
from likeness.dreambooth.card import write_card
from likeness.dreambooth.compiled import compiled, lay_out
from likeness.dreambooth.gradients import Gradients, Unread
from likeness.dreambooth.ladder import Ladder
from likeness.dreambooth.losses import dreambooth_loss, lr_factor, min_snr_weights, training_target
from likeness.dreambooth.observer import Observer
from likeness.dreambooth.processes import Processes
from likeness.dreambooth.recorded import Recorded
from likeness.dreambooth.sampling import evaluating, spare_memory
from likeness.dreambooth.settings import (
    PRECISION,
    Concept,
    Event,
    TrainResult,
    TrainSettings,
    check_class_folders,
    check_concepts,
)
from likeness.dreambooth.setup import (
    ChooseStep,
    OnEvent,
    ProbeSamples,
    Run,
    check_pipeline,
    prepare_batches,
    prepare_class_files,
    training_scheduler,
)
from likeness.dreambooth.trainable import Trainable, check_optimizer, prepare
from likeness.dreambooth.validation import Validation
from likeness.errors import InputError, Stopped
from likeness.malloc import give_back_freed_memory
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
    probe_samples: ProbeSamples | None = None,
    choose_step: ChooseStep | None = None,
) -> TrainResult:
    """Fine-tune a model on its subjects, or go on where a killed run stopped; a finished run returns at once.

    `probe_samples` is shown the sample grid on the main process, first the base model's as of step 0; the numbers
    it returns join the history. `choose_step(history)` names the rung of `settings.ladder` that becomes the model.
    """
    start, out = time.perf_counter(), Path(out)
    check_concepts(concepts, settings)
    check_class_folders(concepts, settings)
    if settings.ladder and choose_step is None:
        raise InputError("ladder needs choose_step, which names the rung to keep.")
    models.check_available(model)
    device = models.resolve_device(device)
    models.resolve_dtype(PRECISION[settings.mixed_precision], device)
    processes = Processes(device, settings.mixed_precision)
    processes.everywhere(lambda: check_optimizer(settings, processes.device))
    with contextlib.ExitStack() as stack:
        stack.enter_context(checkpoint.told_of_a_stop(out))
        processes.on_main(lambda: stack.enter_context(storage.locked(out)))
        model_id = processes.on_main(lambda: weights_id(model))
        identity = storage.identity(model_id, concepts, settings)
        on_event = on_event or (lambda event: None)
        run = Run(model, concepts, settings, out, processes, identity, on_event, probe_samples, choose_step)
        finished = processes.on_main(lambda: _finished(run))
        if finished is not None:
            return TrainResult(out, finished["step"], finished["step"], 0.0, finished["values"], run.notices)
        loop = build(run, load_pipeline(model, device=str(processes.device)), model_id, Path(class_root))
        resumed = loop.begin()
        values = loop.fit(resumed)
        return TrainResult(out, loop.step, resumed, time.perf_counter() - start, values, run.notices)


def build(run: Run, pipe, model_id: str, class_root: Path) -> Loop:
    """Make or find class pictures and caches for a loaded model, and return the loop before its first step."""
    settings, processes = run.settings, run.processes
    check_pipeline(pipe, run)
    spare_memory(pipe, run.resolution)
    class_files = prepare_class_files(run, pipe, model_id, class_root)
    noise_scheduler = training_scheduler(pipe)
    dtype = getattr(torch, PRECISION[settings.mixed_precision])
    if settings.compile:
        lay_out(pipe.unet, channels_last=not settings.use_8bit_adam)
    trainable = prepare(pipe, settings, run.concepts, processes.device, dtype)
    batches = prepare_batches(run, pipe, class_files, model_id, class_root)
    validation = Validation(batches, run.concepts, noise_scheduler, processes.autocast)
    scaler = torch.amp.GradScaler(processes.device.type, enabled=settings.mixed_precision == "fp16")
    observer = Observer(run, pipe, trainable, validation)
    processes.on_main(lambda: observer.meet_base(model_id, class_root))
    give_back_freed_memory()  # of drawing and caching
    return Loop(run, pipe, trainable, batches, observer, noise_scheduler, scaler)


class Loop:
    """The steps of one run: `begin` restores, `fit` trains, the rest happens every so often."""

    def __init__(self, run: Run, pipe, trainable: Trainable, batches, observer, noise_scheduler, scaler) -> None:
        self.run, self.pipe, self.trainable, self.batches = run, pipe, trainable, batches
        self.observer, self.noise_scheduler, self.scaler = observer, noise_scheduler, scaler
        self.settings, self.processes = run.settings, run.processes
        self.unet = compiled(pipe.unet) if run.settings.compile else pipe.unet
        self.ladder = Ladder(run.out, run.settings, trainable)
        self.step = run.settings.num_train_steps  # of the model that is kept
        self.loss_weights = _loss_weights(noise_scheduler, run.settings.snr_gamma, self.processes.device)
        self.done = 0  # steps, so far
        self.whole: set[str] = set()  # checkpoints that this process wrote or read
        self.unread: Unread | None = None  # of the last step
        self.recorded: Recorded | None = None  # forward_backward, on a GPU

    def begin(self) -> int:
        """Load the newest whole checkpoint and open the history; return the step to go on from."""
        found = self.processes.on_main(lambda: checkpoint.find(self.run.out, self._about(), self.run.notices))
        step = 0
        if found is not None:
            step = checkpoint.load(found, self.trainable, self.scaler)
            self.whole.add(found.name)
            self.run.notices.append(f"resumed from {found.name}")
        self.processes.on_main(lambda: self.ladder.refuse_gaps(step))
        if self.processes.main:
            self.observer.start(step)
            if self.run.notices:
                self.run.on_event(Event("notice", step, notices=list(self.run.notices)))
        return step

    def fit(self, first_step: int) -> dict[str, float]:
        """Train to the end and save the model; return the last values reported. Ctrl-C ends in `Stopped`."""
        self.done = first_step
        try:
            self._train_from(first_step)
            return self._finish()
        except KeyboardInterrupt as stop:
            newest = checkpoint.newest(self.whole)
            raise Stopped(f"stopped at step {self.done}; {checkpoint.what_next(newest)}") from stop
        finally:
            self.recorded = None  # it refers to this loop, and both would live on with all their memory

    def _train_from(self, first_step: int) -> None:
        settings, trainable = self.settings, self.trainable
        gradients = self.trained_from(first_step)
        self.pipe.unet.train()
        clock, since = time.perf_counter(), first_step
        bar = tqdm(
            range(first_step, settings.num_train_steps),
            initial=first_step,
            total=settings.num_train_steps,
            desc="fine-tuning",
            unit="step",
            disable=not (self.processes.main and settings.progress_bars),
        )
        for step in bar:
            if step == settings.text_encoder_steps and "text_encoder" in trainable.parts:
                gradients = self.trained_from(step)
            losses, grad_norm = self.advance(step, gradients)
            self.done = done = step + 1
            if done % settings.log_every == 0 or done == settings.num_train_steps:
                self.refuse_broken()
                now = time.perf_counter()
                self._log(done, losses, grad_norm, (done - since) / max(now - clock, 1e-9))
                bar.set_postfix(loss=f"{losses[0].item():.3f}", refresh=False)
                clock, since = now, done
            clock += self._every_so_often(done)

    def advance(self, step: int, gradients: Gradients) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one optimizer step; return the three mean losses and the gradient's norm before clipping."""
        with self.processes.reproducible():
            losses = self._accumulate(step)
            return losses, self._update(step, gradients, losses)

    def _accumulate(self, step: int) -> torch.Tensor:
        """Run forward and backward over the micro-batches of one step; return the three mean losses."""
        settings, processes, total = self.settings, self.processes, 0
        run = self.recorded or self.forward_backward
        accumulation = settings.gradient_accumulation_steps
        for part in range(accumulation):
            batch = self.batches.batch(step * accumulation + part, processes.rank, processes.world)
            total = total + run(batch) / accumulation
        processes.average([total])
        return total

    def forward_backward(self, batch: Batch) -> torch.Tensor:
        """Add a micro-batch's share of the gradients; return its three losses."""
        with self.processes.autocast():
            losses = self._losses(batch)
        self.scaler.scale(losses[0] / self.settings.gradient_accumulation_steps).backward()
        return torch.stack(losses).detach()

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        prompt_embeds = self.batches.embed(batch.captions)
        noisy_latents = self.noise_scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        noise_pred = self.unet(noisy_latents, batch.timesteps, prompt_embeds, return_dict=False)[0]
        target = training_target(self.noise_scheduler, batch.latents, batch.noise, batch.timesteps)
        weights = None if self.loss_weights is None else self.loss_weights[batch.timesteps]
        num_instance, prior_loss_weight = self.settings.train_batch_size, self.settings.prior_loss_weight
        return dreambooth_loss(noise_pred, target, num_instance, prior_loss_weight, weights)

    def _update(self, step: int, gradients: Gradients, losses: torch.Tensor) -> torch.Tensor:
        """Clip and step, once the step before is known to have had numbers."""
        settings, trainable = self.settings, self.trainable
        self.processes.average(gradients.tensors())
        if self.scaler.is_enabled():
            self.scaler.unscale_(trainable.optimizer)
        in_step = not self.scaler.is_enabled()
        grad_norm = gradients.clip(settings.max_grad_norm, trainable.optimizer, in_step=in_step)
        self.refuse_broken()
        self.unread = Unread(step, losses[0], grad_norm)
        total, warmup = settings.num_train_steps, settings.lr_warmup_steps
        trainable.set_rate(lr_factor(settings.lr_scheduler, step, total, warmup, settings.learning_rate))
        self.scaler.step(trainable.optimizer)
        self.scaler.update()
        gradients.clear()
        trainable.update_ema(step, settings.ema_decay)
        return grad_norm

    def refuse_broken(self) -> None:
        """Refuse to go on after a step whose loss or gradient was not a number.

        It is asked a step later, for which a GPU has been given work by then, and before anything is shown or saved.
        """
        if self.unread is None:
            return
        step, (loss, grad_norm) = self.unread.step, self.unread.read()
        self.unread = None
        scaled = self.scaler.is_enabled()  # its gradients may overflow: it skips such a step and lowers its scale
        if not math.isfinite(loss) or not (scaled or math.isfinite(grad_norm)):
            newest = checkpoint.newest(self.whole)
            kept = f"{newest} is kept" if newest else "there is no checkpoint yet"
            raise InputError(
                f"the loss is not a number at step {step + 1} (loss {loss}, gradient {grad_norm}). "
                f"Stopped; {kept}. Lower the learning rate, or train in float32."
            )

    def trained_from(self, step: int) -> Gradients:
        """Return the gradients of what is trained from here on; a text encoder whose share is over is frozen."""
        settings, trainable = self.settings, self.trainable
        self.recorded = None
        for p in trainable.parameters():
            p.grad = None  # where a recording had them
        if step >= settings.text_encoder_steps:
            if "text_encoder" in trainable.parts:
                trainable.freeze("text_encoder")
            self.pipe.text_encoder.eval()
            if settings.cache_text_embeddings is not False:
                with self.processes.autocast():
                    self.batches.cache_embeddings()
        else:
            self.pipe.text_encoder.train()
        gradients = Gradients(trainable.active())
        if settings.cuda_graph and self.processes.device.type == "cuda":
            adds = settings.gradient_accumulation_steps > 1
            self.recorded = Recorded(self.forward_backward, gradients, adds=adds)
        return gradients

    def _log(self, step: int, losses: torch.Tensor, grad_norm: torch.Tensor, rate: float) -> None:
        if not self.processes.main:
            return
        total, instance, prior = losses.tolist()
        values = {"train/loss": total, "train/loss_instance": instance, "train/grad_norm": float(grad_norm)}
        if self.batches.class_files:
            values["train/loss_prior"] = prior
        values["train/lr"] = self.trainable.optimizer.param_groups[0]["lr"]
        self.observer.log(step, values, rate)

    def _every_so_often(self, done: int) -> float:
        """Validate, sample and checkpoint when it is time; return the seconds it took."""
        settings, start = self.settings, time.perf_counter()
        end = done == settings.num_train_steps

        def due(every: int) -> bool:
            return bool(every) and (done % every == 0 or end)

        sample, validate = due(settings.sample_every) or done in settings.rungs, due(settings.validation_every)
        if not (validate or sample or due(settings.checkpoint_every) or end):
            return 0.0
        self.refuse_broken()
        if self.processes.main:
            if validate:
                self.observer.validate(done)
            if sample:
                self.observer.sample(done)
        if done in settings.rungs:
            self.processes.on_main(lambda: self.ladder.keep(done))
        if due(settings.checkpoint_every) or end:
            self.whole.add(self.processes.on_main(lambda: self._save_checkpoint(done)).name)
        self.processes.wait()
        return time.perf_counter() - start

    def _about(self) -> dict:
        """Return what decides how a checkpoint goes on, besides the tensors in it."""
        device = self.processes.device
        return {
            "identity": self.run.identity,
            "world": self.processes.world,
            "device": device.type,
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def _save_checkpoint(self, step: int) -> Path:
        run = self.run
        folder = checkpoint.save(run.out, step, self.trainable, self.scaler, self._about())
        run.on_event(Event("checkpoint", step, path=folder))
        self.whole.add(folder.name)
        foreign = checkpoint.prune(run.out, step, run.identity, self.settings.keep_checkpoints, self.whole)
        left = [f"{name} is not of this run: left alone" for name in foreign]
        new = [notice for notice in left if notice not in run.notices]
        if new:
            run.notices += new
            run.on_event(Event("notice", step, notices=new))
        return folder

    def _finish(self) -> dict[str, float]:
        """Save the model, its card and its record; return the numbers of the step it was saved at."""
        self.step, values = self.processes.on_main(self._save)
        return values

    def _save(self) -> tuple[int, dict[str, float]]:
        run, step, values = self.run, self.settings.num_train_steps, self.observer.last
        rows = self.observer.history.numbers()
        if self.settings.ladder:
            step = self.ladder.climb(run.choose_step, rows)
            values = rows[step]
        with evaluating(self.pipe, self.trainable):
            self.trainable.settle()
            finetuned.save_finetuned(self.pipe, self.settings, run.out)
        write_card(run, rows.get(0, {}), values, step)
        about = {
            "identity": run.identity,
            "step": step,
            "values": values,
            "device": self.processes.device.type,
            "resolution": run.resolution,
            "prediction_type": self.noise_scheduler.config.prediction_type,
            "text_width": self.pipe.text_encoder.config.hidden_size,
        }
        finetuned.write_record(run.out, run.model, self.settings, about)
        self.ladder.remove()
        run.on_event(Event("done", step, values, path=run.out))
        return step, values


def _loss_weights(noise_scheduler, snr_gamma: float | None, device: torch.device) -> torch.Tensor | None:
    """Return the loss weight of every timestep; computed on the CPU, since Apple's GPUs have no float64."""
    if snr_gamma is None:
        return None
    alphas_cumprod = noise_scheduler.alphas_cumprod.cpu()
    timesteps = torch.arange(len(alphas_cumprod))
    kind = noise_scheduler.config.prediction_type
    return min_snr_weights(alphas_cumprod, timesteps, snr_gamma, kind).to(device)


def _finished(run: Run) -> dict | None:
    """Return the record of a run that is already finished with these very settings; clear up what a kill left."""
    record = storage.read_json(run.out / storage.SETTINGS)
    if record is not None and "identity" in record:
        storage.refuse_changed(record["identity"], run.identity, run.out)
        if storage.is_finished(run.out):
            storage.remove_leftovers(run.out, finished=True)
            return record
    storage.remove_leftovers(run.out, finished=False)
    return None
