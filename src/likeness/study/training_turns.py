"""The two loops of the training benchmark, each in a process of its own, which runs steps when it is asked to.

So each has the memory of one training alone (but for a GPU's, which they share), and the C library's allocator as its
users have it: the trainer's commands set it up, the scripts do not.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from likeness.prompt_to_prompt.benchmark import interval
from likeness.prompt_to_prompt.benchmark_models import matmul_flops_per_second
from likeness.study.training_arms import Case, Ours, Stopwatch, now, start


class OutOfMemory(SystemExit):
    """A loop does not fit on its device, or its process was killed, as a system does that runs out of memory."""


class Turn:
    """One loop's process, seen from the one that measures."""

    def __init__(self, arm: str, case: Case) -> None:
        self.command = [sys.executable, "-m", "likeness.study.training_turns", arm, json.dumps(asdict(case))]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what: str, *numbers: float) -> Any:
        """Return what a function of ASKED finds; SystemExit where the process has ended."""
        self.send(what, *numbers)
        return self.answer()

    def send(self, what: str, *numbers: float) -> None:
        """Have a function of ASKED called, and do not wait for it."""
        with suppress(BrokenPipeError):
            print(json.dumps([what, *numbers]), file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        """Wait for what was sent first; OutOfMemory where it did not fit, SystemExit where the process has ended."""
        line = self.process.stdout.readline()
        if line and (found := json.loads(line)) != NO_ROOM:
            return found
        code = self.process.wait()
        kind = OutOfMemory if line or code < 0 else SystemExit
        raise kind(f"error: {' '.join(self.command)} ended with {code}; see above.")


@contextmanager
def turns(cases: dict[str, tuple[str, Case]]) -> Iterator[dict[str, Turn]]:
    """Start a process for each loop and case, by their names; they end with the block."""
    started = {name: Turn(arm, case) for name, (arm, case) in cases.items()}
    try:
        yield started
    finally:
        for turn in started.values():
            with suppress(BrokenPipeError):
                turn.process.stdin.close()
            turn.process.wait()


def seconds(arm: Any, steps: int) -> float:
    """Return how long a step took, over some steps."""
    started = now(arm.device)
    for _ in range(steps):
        arm.step()
    return (now(arm.device) - started) / steps


def outside(arm: Ours, rounds: int, steps: int) -> dict[str, float]:
    """Return the share of a steady step that is not the UNet's forward, backward or the optimizer."""
    shares = []
    for _ in range(rounds):
        with Stopwatch(arm).running() as watch:
            total = steps * seconds(arm, steps)
        shares.append(1 - watch.seconds / total)
    return dict(zip(("median", "low", "high"), interval(shares), strict=True))


def matrix_share(arm: Any, step_seconds: float) -> dict[str, float]:
    """Return the floating-point rate of a step of `step_seconds` and its share of the device's own matrix rate."""
    from torch.utils.flop_counter import FlopCounterMode

    with arm.countable(), FlopCounterMode(display=False) as counter:
        arm.step()
    rate = matmul_flops_per_second(arm.device, arm.dtype)
    flops = counter.get_total_flops() / step_seconds
    return {"TFLOP/s": flops / 1e12, "matrix TFLOP/s": rate / 1e12, "share of matrix rate": flops / rate}


def held(arm: Any) -> float:
    """Return the most memory in GB that this process has held: the device's, or on a CPU its own."""
    if arm.device.type == "cuda":
        return torch.cuda.max_memory_reserved(arm.device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def fits(gigabytes: float | None) -> str:
    """Return the smallest usual card with room for that much and its driver's own; None did not even run."""
    return next((f"{card} GB" for card in CARDS if gigabytes and gigabytes < 0.95 * card), "more")


ASKED = {"seconds": seconds, "outside": outside, "matrix_share": matrix_share, "held": held}
CARDS = (8, 12, 16, 24)  # GB
NO_ROOM = {"out of memory": True}  # the answer of a loop that did not fit


def main(arguments: list[str]) -> None:
    """Answer lines of JSON, [function of ASKED, number, ...], with lines of JSON."""
    name, case = arguments[0], Case(**json.loads(arguments[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    with tempfile.TemporaryDirectory() as folder:
        try:
            arm = start(name, case, Path(folder))
            for line in sys.stdin:
                what, *numbers = json.loads(line)
                print(json.dumps(ASKED[what](arm, *numbers)), file=answers, flush=True)
        except (RuntimeError, MemoryError) as error:
            if (
                not isinstance(error, (torch.OutOfMemoryError, MemoryError))
                and "out of memory" not in str(error).lower()
            ):
                raise
            print(json.dumps(NO_ROOM), file=answers, flush=True)
            raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
