"""The processes of one run, through accelerate: one does what is done once, all agree on what it said."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from likeness.errors import InputError

Result = TypeVar("Result")


class Processes:
    """Rank, device and precision of this process, and the few collective operations training needs."""

    def __init__(self, device: str, mixed_precision: str = "no") -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        if AcceleratorState._shared_state:  # an earlier run of this process, perhaps at another precision or device
            AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
        _choose_gpu(device)
        self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision)
        self.rank = self.accelerator.process_index
        self.world = self.accelerator.num_processes
        self.device = self.accelerator.device
        self.main = self.accelerator.is_main_process

    def autocast(self):
        """Return the context in which the forward pass runs."""
        return self.accelerator.autocast()

    @contextlib.contextmanager
    def reproducible(self) -> Iterator[None]:
        """Have a GPU take algorithms that give the same bits every time, inside this context; a CPU always does."""
        if self.device.type != "cuda":
            yield
            return
        asked = torch.are_deterministic_algorithms_enabled()
        warned = torch.is_deterministic_algorithms_warn_only_enabled()
        filling, trying = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory before writing to it
        torch.backends.cudnn.benchmark = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(asked, warn_only=warned)
            torch.utils.deterministic.fill_uninitialized_memory = filling
            torch.backends.cudnn.benchmark = trying

    def wait(self) -> None:
        """Wait until every process is here."""
        self.accelerator.wait_for_everyone()

    def on_main(self, task: Callable[[], Result]) -> Result:
        """Run on the main process alone; its result, or its InputError, reaches every process."""
        if self.world == 1:
            return task()
        answer: list = [None, None]
        if self.main:
            try:
                answer[0] = task()
            except InputError as error:
                answer[1] = str(error)
        answer = self._broadcast(answer)
        if answer[1] is not None:
            raise InputError(answer[1])
        return answer[0]

    def main_first(self, task: Callable[[], Result]) -> Result:
        """Run on the main process, then on the others, which find what it stored."""

        def in_turn() -> Result:
            try:
                if not self.main:
                    self.wait()
                return task()
            finally:
                if self.main:
                    self.wait()

        return self.everywhere(in_turn)

    def everywhere(self, task: Callable[[], Result]) -> Result:
        """Run on every process; an InputError in one of them stops them all."""
        if self.world == 1:
            return task()
        from accelerate.utils import gather_object

        result, message = None, ""
        try:
            result = task()
        except InputError as error:
            message = str(error)
        failed = [text for text in gather_object([message]) if text]
        if failed:
            raise InputError(failed[0])
        return result

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over the processes, in place, in one exchange."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def _broadcast(self, answer: list) -> list:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list(answer, from_process=0)


def _choose_gpu(device: str) -> None:
    """Make cuda:1 the GPU accelerate takes; of several processes each takes its own."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or not index:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"device={device} names one GPU for several processes, which take one each; use device=cuda.")
    torch.cuda.set_device(int(index))
