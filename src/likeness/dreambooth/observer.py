"""What a run reports while it trains: log lines, validation, attention health and the sample grid.

Everything goes into history.csv and, as events, to the caller. Exists on the main process only.
"""

from __future__ import annotations

from pathlib import Path

from likeness.dreambooth import storage
from likeness.dreambooth.sampling import Pictures, SampleGrid, evaluating
from likeness.dreambooth.settings import PRECISION, Event, Samples
from likeness.dreambooth.setup import Run
from likeness.dreambooth.trainable import Trainable
from likeness.dreambooth.validation import Validation
from likeness.subjects import write_png


class Observer:
    """Measure the model as it is now and report it; `last` holds the newest value of every number."""

    def __init__(self, run: Run, pipe, trainable: Trainable, validation: Validation) -> None:
        self.run, self.pipe, self.trainable, self.validation = run, pipe, trainable, validation
        self.grid = SampleGrid(pipe, run.concepts, run.settings, run.resolution)
        self.last: dict[str, float] = {}
        self.base: dict[str, float] = {}
        self.shown_base = False

    def meet_base(self, model_id: str, class_root: Path) -> None:
        """Measure the untrained model, whose weights must still be in place."""
        settings = self.run.settings
        if settings.validation_every:
            self.base = self._measure()
            self.validation.base_health = {n: v for n, v in self.base.items() if n.startswith("health/")}
        if settings.sample_every or settings.ladder:
            with evaluating(self.pipe, self.trainable), self.run.processes.autocast():
                self.grid.prepare_base(model_id, PRECISION[settings.mixed_precision], class_root)

    def start(self, step: int) -> None:
        """Open the history of a run that goes on after `step`; a new one begins with the untrained model."""
        self.history = storage.History(self.run.out / "history.csv", step)
        for past, row in self.history.numbers().items():
            self.last |= row
            self.run.on_event(Event("past", past, row))
        if not step and self.base:
            self._report("validation", 0, self.base)

    def log(self, step: int, values: dict[str, float], steps_per_second: float) -> None:
        """Report numbers of a training step; the speed is not part of the history."""
        self.last |= values
        self.history.add(step, values)
        self.run.on_event(Event("log", step, values | {"train/steps_per_second": steps_per_second}))

    def validate(self, step: int) -> None:
        """Measure losses at fixed noise, and attention health."""
        self._report("validation", step, self._measure())

    def sample(self, step: int) -> None:
        """Draw the grid; the caller measures it."""
        if not self.shown_base:  # only now, so that the caller's metrics do not delay the first step
            self.shown_base = True
            self._show(0, self.grid.base)
        with evaluating(self.pipe, self.trainable), self.run.processes.autocast():
            pictures = self.grid.draw()
        self.last |= self._show(step, pictures)

    def _measure(self) -> dict[str, float]:
        with evaluating(self.pipe, self.trainable):
            values = self.validation.losses()
            if self.run.settings.health:
                values |= self.validation.health()
        return values

    def _report(self, kind: str, step: int, values: dict[str, float]) -> None:
        self.last |= values
        self.history.add(step, values)
        health = {name: value for name, value in values.items() if name.startswith("health/")}
        self.run.on_event(Event(kind, step, {n: v for n, v in values.items() if n not in health}))
        if health:
            self.run.on_event(Event("health", step, health))

    def _show(self, step: int, pictures: Pictures) -> dict[str, float]:
        from diffusers.utils import make_image_grid

        images = [image for row in pictures.values() for image in row]
        path = self.run.out / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        write_png(make_image_grid(images, len(pictures), len(self.grid.seeds)), path)
        values = self.run.probe_samples(Samples(step, pictures, self.grid.base)) if self.run.probe_samples else {}
        if values:
            self.history.add(step, values)
        self.run.on_event(Event("samples", step, values, images, self.grid.captions(), path))
        return values
