"""Forward and backward as one recorded CUDA graph, so that a GPU does not wait for Python to name its kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from likeness.dreambooth.batches import Batch
from likeness.dreambooth.gradients import Gradients

WARM_UP = 3  # runs before the recording, in which libraries choose their kernels and compiled code is compiled


class Recorded:
    """A function that runs a micro-batch forward and backward: recorded when first called, then replayed.

    `run` must do the same for every batch but for the numbers in it, and wait for none of them. The graph keeps the
    memory it needs.
    """

    def __init__(self, run: Callable[[Batch], Tensor], gradients: Gradients, *, adds: bool) -> None:
        self.run, self.gradients, self.adds = run, gradients, adds
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> Tensor:
        if self.graph is None:
            self._record(batch)
        else:
            for place, values in zip(_tensors(self.batch), _tensors(batch), strict=True):
                place.copy_(values)
        self.graph.replay()
        return self.losses.clone()

    def _record(self, batch: Batch) -> None:
        self.batch = Batch(*(values.clone() for values in _tensors(batch)))
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self.run(self.batch)
                self.gradients.clear()
        current.wait_stream(aside)
        self.gradients.stay(adds=self.adds)
        graph = torch.cuda.CUDAGraph()
        # torch's own stream belongs to the GPU first used; other threads may use the GPU meanwhile
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            self.losses = self.run(self.batch)
        self.graph = graph


def _tensors(batch: Batch) -> list[Tensor]:
    return [getattr(batch, field.name) for field in fields(batch)]
