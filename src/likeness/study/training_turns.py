"""The two loops of the training benchmark, each in a process of its own, which runs steps when it is asked to.

So each has the memory of one training alone (but for a GPU's, which they share), and the C library's allocator as its
users have it: the trainer's commands set it up, the scripts do not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from likeness.dreambooth.settings import PRECISION
from likeness.prompt_to_prompt.benchmark import interval
from likeness.prompt_to_prompt.benchmark_models import matmul_flops_per_second
from likeness.study.training_arms import ARMS, Case, Ours, Stopwatch, now, start


class Turn:
    """One loop's process, seen from the one that measures."""

    def __init__(self, arm: str, case: Case) -> None:
        self.command = [sys.executable, "-m", "likeness.study.training_turns", arm, json.dumps(asdict(case))]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what: str, *numbers: float) -> Any:
        """Return what a function of ASKED finds; SystemExit where the process has ended."""
        with suppress(BrokenPipeError):
            print(json.dumps([what, *numbers]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {' '.join(self.command)} ended with {self.process.wait()}; see above.")
        return json.loads(line)


@contextmanager
def turns(case: Case) -> Iterator[dict[str, Turn]]:
    """Start a process for each loop; they end with the block."""
    started = {arm: Turn(arm, case) for arm in ARMS}
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


def matrix_share(arm: Ours, step_seconds: float) -> dict[str, float]:
    """Return the floating-point rate of a step of `step_seconds` and its share of the device's measured matrix rate.

    Operations are counted with the UNet as it was before it was compiled or recorded, where the counter sees none.
    """
    from torch.utils.flop_counter import FlopCounterMode

    loop = arm.loop
    timed, loop.unet, loop.recorded = (loop.unet, loop.recorded), loop.pipe.unet, None
    try:
        with FlopCounterMode(display=False) as counter:
            arm.step()
    finally:
        loop.unet, loop.recorded = timed
    rate = matmul_flops_per_second(arm.device, getattr(torch, PRECISION[arm.settings.mixed_precision]))
    flops = counter.get_total_flops() / step_seconds
    return {"TFLOP/s": flops / 1e12, "matrix TFLOP/s": rate / 1e12, "share of matrix rate": flops / rate}


ASKED = {"seconds": seconds, "outside": outside, "matrix_share": matrix_share}


def main(arguments: list[str]) -> None:
    """Answer lines of JSON, [function of ASKED, number, ...], with lines of JSON."""
    name, case = arguments[0], Case(**json.loads(arguments[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    with tempfile.TemporaryDirectory() as folder:
        arm = start(name, case, Path(folder))
        for line in sys.stdin:
            what, *numbers = json.loads(line)
            print(json.dumps(ASKED[what](arm, *numbers)), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
