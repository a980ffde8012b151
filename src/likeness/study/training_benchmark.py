"""What a training step costs against an uncached loop, what surrounds it, how soon it starts, and how much it holds.

python -m likeness.study.training_benchmark [--shape sd15] [--device cuda] [--precision bf16] [--batch 4] [--memory]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from likeness.models import resolve_device
from likeness.prompt_to_prompt.benchmark import interval
from likeness.study.training_arms import ARMS, Case
from likeness.study.training_turns import OutOfMemory, fits, turns

BARS = {"speed-up": 1.35, "share outside": 0.05, "first step": 1.3, "memory": 1.0}
BARE = (
    "import hydra, torch, accelerate; from diffusers import DDPMScheduler, StableDiffusionPipeline; "
    "from transformers import CLIPTextModel, CLIPTokenizer"
)
FIRST_STEP = re.compile(rb"fine-tuning:[^\r\n]*\| *[1-9]\d*/")


def compare(case: Case, pairs: int, steps: int) -> dict[str, Any]:
    """Time both loops in turns, each in a process of its own; return rates, the speed-up and the time around."""
    with turns({arm: (arm, case) for arm in ARMS}) as arms:
        for arm in arms.values():
            arm.ask("seconds", steps)  # warm up
        taken: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(pairs):
            for name in list(arms)[:: 1 if number % 2 == 0 else -1]:
                taken[name].append(arms[name].ask("seconds", steps))
        ratios = [slow / fast for slow, fast in zip(taken["uncached"], taken["ours"], strict=True)]
        found = {"steps per second": {name: 1 / statistics.median(values) for name, values in taken.items()}}
        found["speed-up"] = dict(zip(("median", "low", "high"), interval(ratios), strict=True))
        found["share outside"] = arms["ours"].ask("outside", pairs, steps)
        return found | arms["ours"].ask("matrix_share", statistics.median(taken["ours"]))


def first_step(entry: Path, pairs: int) -> dict[str, float]:
    """Return how much longer the command takes to its first step than importing what it uses; warm caches."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(entry), "subject=tuki", "logger=none", f"out={out}", "sample_every=200"]
        until_first_step(command)  # draws class pictures, fills caches, writes bytecode
        ratios, commands = [], []
        for _ in range(pairs):
            shutil.rmtree(Path(out) / "models")
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", BARE], check=True)
            bare = time.perf_counter() - started
            commands.append(until_first_step(command))
            ratios.append(commands[-1] / bare)
    median, low, high = interval(ratios)
    return {"median": median, "low": low, "high": high, "seconds": statistics.median(commands)}


def until_first_step(command: list[str]) -> float:
    """Start a training, return the seconds until its bar has moved, and kill it."""
    started, read = time.perf_counter(), b""
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while not FIRST_STEP.search(read):
            piece = process.stderr.read1(4096)
            if not piece:
                raise SystemExit(f"error: {' '.join(command)} ended before its first step:\n{read.decode()}")
            read += piece
        taken = time.perf_counter() - started
        process.kill()
    return taken


def peak(case: Case, arm: str) -> float | None:
    """Return the peak memory in GB of a fresh process that takes two steps; None where it did not fit."""
    try:
        with turns({arm: (arm, case)}) as started:
            started[arm].ask("seconds", 2)
            return started[arm].ask("held")
    except OutOfMemory:
        return None


def memory(case: Case) -> list[dict[str, Any]]:
    """Return peaks of both loops, full and LoRA, with and without gradient checkpointing, and the card that fits."""
    rows = []
    print(f"\npeak GB, {case.shape}, {case.batch}+{case.batch}, {case.precision}, {case.device}")
    print(f"{'':32}ours   uncached   fits in")
    for method in ("full", "lora"):
        for checkpointing in (False, True):
            this = Case(**asdict(case) | {"method": method, "gradient_checkpointing": checkpointing})
            found = {arm: peak(this, arm) for arm in ARMS}
            card = fits(found["ours"])
            rows.append({"method": method, "gradient_checkpointing": checkpointing, **found, "fits": card})
            shown = "".join(f"{'–' if v is None else f'{v:.2f}':>9}" for v in found.values())
            name = f"{method}, checkpointing {'on' if checkpointing else 'off'}"
            print(f"{name:28}{shown}   {card}", flush=True)
    return rows


def show(name: str, found: dict[str, float], bar: float, sign: str) -> None:
    print(
        f"{name:44}{found['median']:.3f} [{found['low']:.3f}, {found['high']:.3f}]   bar {sign} {bar:.2f}", flush=True
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="likeness.study.training_benchmark", description=__doc__)
    parser.add_argument("--shape", choices=["paperdoll", "sd15"], default="paperdoll")
    parser.add_argument("--method", choices=["full", "lora"], default="full")
    parser.add_argument("--batch", type=int, help="photos, and as many class pictures, in a step")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-cuda-graph", action="store_true", help="start every kernel from Python")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="in a turn")
    parser.add_argument("--entry", type=Path, help="train.py: also measure the time to its first step")
    parser.add_argument("--memory", action="store_true", help="only peak memory, each in a process of its own")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    batch = arguments.batch or (1 if arguments.memory else 2)
    case = Case(
        arguments.shape, arguments.method, batch, arguments.precision, arguments.checkpointing, arguments.compile,
        not arguments.no_cuda_graph, resolve_device(arguments.device),
    )  # fmt: skip
    report: dict[str, Any] = {"case": asdict(case), "torch": torch.__version__}
    if arguments.memory:
        report["memory"] = memory(case)
    else:
        report |= compare(case, arguments.pairs, arguments.steps)
        rates = report["steps per second"]
        print(f"{case.shape}, {case.method}, {batch}+{batch}, {case.precision}, {case.device}")
        print(f"steps per second: {rates['ours']:.3f}, uncached {rates['uncached']:.3f}")
        show("against the uncached loop", report["speed-up"], BARS["speed-up"], ">=")
        show("outside forward, backward and optimizer", report["share outside"], BARS["share outside"], "<=")
        if "share of matrix rate" in report:
            print(f"{report['TFLOP/s']:.3g} TFLOP/s, {report['share of matrix rate']:.0%} of the measured matrix rate")
        if arguments.entry:
            report["first step"] = first_step(arguments.entry, max(3, arguments.pairs // 3))
            show("command to first step, over bare imports", report["first step"], BARS["first step"], "<=")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
