"""The ladder of a run: its weights at even steps, so that the best one is kept rather than the last.

What "best" means is the caller's: `choose_step` is shown the history and names a rung.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from likeness.dreambooth.checkpoint import contiguous
from likeness.dreambooth.settings import TrainSettings
from likeness.dreambooth.storage import RUNGS, need_space
from likeness.dreambooth.trainable import Trainable
from likeness.errors import InputError


class Ladder:
    """Rung files of a run in out/rungs, one per step of `settings.rungs`; gone when the run is finished."""

    def __init__(self, out: Path, settings: TrainSettings, trainable: Trainable) -> None:
        self.folder, self.steps, self.trainable = out / RUNGS, settings.rungs, trainable

    def keep(self, step: int) -> None:
        """Store the weights a model of this step would have: the average where there is one."""
        average = self.trainable.ema or self.trainable.parameters()
        tensors = contiguous({n: t.detach() for n, t in zip(self.trainable.named(), average, strict=True)})
        self.folder.mkdir(exist_ok=True)
        need_space(self.folder, sum(t.numel() * t.element_size() for t in tensors.values()), f"rung {step}")
        fresh = self.folder / f".step-{step}.{os.getpid()}"
        for torn in self.folder.glob(".step-*"):
            torn.unlink()
        try:
            save_file(tensors, fresh)
            fresh.replace(self._file(step))
        except (OSError, SafetensorError) as error:
            fresh.unlink(missing_ok=True)
            raise InputError(
                f"rung {step} could not be written to {self.folder} ({error}). What was saved before is kept; "
                "free some space and start the same command again."
            ) from error

    def refuse_gaps(self, step: int) -> None:
        """Refuse to go on after `step` without the weights of a rung up to there, of which the end could need any."""
        gone = [self._file(rung).name for rung in self.steps if rung <= step and not self._file(rung).is_file()]
        if gone:
            raise InputError(
                f"{self.folder} lacks {', '.join(gone)}, and the ladder cannot be finished without; put it back, or "
                f"delete {self.folder.parent} to start anew."
            )

    def climb(self, choose: Callable[[dict[int, dict[str, float]]], int], rows: dict[int, dict[str, float]]) -> int:
        """Have a rung chosen by the history, put its weights in place and return its step."""
        step = choose({k: row for k, row in rows.items() if k == 0 or k in self.steps})
        assert step in self.steps, f"{step} is no rung: {self.steps}"
        stored = load_file(self._file(step))
        with torch.no_grad():
            for values in filter(None, (self.trainable.parameters(), self.trainable.ema)):
                for name, tensor in zip(self.trainable.named(), values, strict=True):
                    tensor.copy_(stored[name])
        return step

    def remove(self) -> None:
        """Delete the rungs; the chosen one is the model now."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}.safetensors"
