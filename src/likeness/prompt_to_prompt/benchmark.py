"""What Prompt-to-Prompt costs: paired, interleaved ratios against plain sampling of the same prompts.

python -m likeness.prompt_to_prompt.benchmark [--many] [--pairs 15] [--steps 10]     the embedded model
    --shape sd15 --pairs 5 --steps 2                                               Stable Diffusion 1.5's dimensions
    --shape sd15 --device cuda --dtype bfloat16 --steps 50                          the same on a GPU
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likeness.prompt_to_prompt import LocalBlend, Replace, Reweight, prompt_to_prompt, seeded_latents
from likeness.prompt_to_prompt.benchmark_models import evaluation_flops, load, matmul_flops_per_second, wait

SOURCE = "A painting of a tuki justin bieber eating a burger"
TARGETS = [f"A painting of a tuki justin bieber eating a {food}" for food in ("cake", "lasagne", "pizza", "apple")]
CLOSED = "after the windows have closed"
# The largest ratio allowed; after the windows have closed the interval has to contain 1 instead.
BARS = {
    "source + target": 1.05,
    "with LocalBlend and Reweight": 1.10,
    CLOSED: None,
    "source + 8 targets against 8 pairs": 0.60,
}
MEMORY = {"edited": "source + target", "blended": "with LocalBlend and Reweight"}  # arms, by case
MEMORY_BARS = {"edited": 1.05, "blended": 1.10}
PASSED_ON = ("pipeline", "shape", "device", "dtype", "threads")


class Arms:
    """The samplings that are compared; each call draws latents only."""

    def __init__(self, pipe: Any, steps: int) -> None:
        self.pipe, self.steps, self.started = pipe, steps, 0.0
        config = pipe.unet.config
        self.noise = seeded_latents([0], (config.in_channels, config.sample_size, config.sample_size))
        self.options = {"num_inference_steps": steps, "guidance_scale": 7.5, "output_type": "latent"}

    def plain(self, prompts: list[str], **options: Any) -> None:
        latents = self.noise.repeat(len(prompts), 1, 1, 1).to(self.pipe.device, self.pipe.unet.dtype)
        self.pipe(prompts, latents=latents, **self.options, **options)

    def edited(self, edits: list[Any], **options: Any) -> None:
        with prompt_to_prompt(self.pipe, SOURCE, edits, **options) as p2p:
            self.pipe(**p2p.inputs, latents=p2p.latents(self.noise), **self.options)

    def cases(self, many: bool) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
        """Return name -> (edited, baseline). Windows are open all the time, where each step costs most."""
        two = [SOURCE, TARGETS[0]]
        blend = LocalBlend(["burger", "cake"], threshold=0.5, start=0.0)
        always = {"cross_replace_steps": 1.0, "self_replace_steps": 1.0}
        swap = Replace(TARGETS[0], **always)
        weigh = Reweight(TARGETS[0], {"cake": 2.0}, over=swap, **always)
        first = {"cross_replace_steps": 1 / self.steps, "self_replace_steps": 1 / self.steps}
        cases = {
            "source + target": (lambda: self.edited([swap]), lambda: self.plain(two)),
            "with LocalBlend and Reweight": (lambda: self.edited([weigh], local_blend=blend), lambda: self.plain(two)),
            CLOSED: (
                lambda: self.edited([Replace(TARGETS[0], **first)], callback_on_step_end=self.after_first),
                lambda: self.plain(two, callback_on_step_end=self.after_first),
            ),
        }
        if many:
            edits = [Replace(target) for target in TARGETS] + [Replace(t, self_replace_steps=0.6) for t in TARGETS]
            cases["source + 8 targets against 8 pairs"] = (
                lambda: self.edited(edits),
                lambda: [self.edited([edit]) for edit in edits],
            )
        return cases

    def after_first(self, pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Start the clock anew after the first step."""
        if step == 0:
            wait(self.pipe.device)
            self.started = time.perf_counter()
        return {}

    def seconds(self, call: Callable[[], None]) -> float:
        wait(self.pipe.device)
        self.started = time.perf_counter()
        call()
        wait(self.pipe.device)
        return time.perf_counter() - self.started


def paired(arms: Arms, pair: tuple[Callable[[], None], Callable[[], None]], count: int) -> np.ndarray:
    """Return count pairs of seconds (edited, baseline), after a warm-up; the order within a pair alternates."""
    for call in pair:
        arms.seconds(call)
    found = []
    for number in range(count):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        taken = {which: arms.seconds(pair[which]) for which in order}
        found.append((taken[0], taken[1]))
    return np.array(found)


def interval(values: Any) -> tuple[float, float, float]:
    """Return the median and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (5000, len(values))), axis=1)
    return float(np.median(values)), *(float(v) for v in np.quantile(medians, (0.025, 0.975)))


def peak_of(arms: Arms, call: Callable[[], None]) -> dict[str, float]:
    """Return the peak memory in MB while drawing, and how much of it the drawing added to the loaded pipeline."""
    device = arms.pipe.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        peak = torch.cuda.max_memory_allocated(device)
        return {"peak": peak / 2**20, "added": (peak - before) / 2**20}
    before = resident()
    call()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak": peak, "added": peak - before}


def resident() -> float:
    """Return the memory in MB that the process holds now (Linux; elsewhere its peak so far)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_alone(arguments: argparse.Namespace, arm: str) -> dict[str, float]:
    """Return `peak_of` one arm of 2 steps, in a process of its own."""
    command = [sys.executable, "-m", "likeness.prompt_to_prompt.benchmark", "--only", arm, "--steps", "2"]
    for name in PASSED_ON:
        if getattr(arguments, name):
            command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def held(bar: float | None, median: float, low: float, high: float) -> bool:
    """Say whether a ratio keeps its bar; without one, its interval has to contain 1."""
    return low <= 1 <= high if bar is None else median <= bar


def measure(arms: Arms, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and print every case; return the figures."""
    report: dict[str, Any] = {}
    print(f"{'':38}median [95 %]          bar    pairs")
    for name, pair in arms.cases(arguments.many).items():
        times, bar = paired(arms, pair, arguments.pairs), BARS[name]
        median, low, high = interval(times[:, 0] / times[:, 1])
        seconds = {"edited": float(np.median(times[:, 0])), "baseline": float(np.median(times[:, 1]))}
        report[name] = {
            "median": median, "low": low, "high": high, "pairs": len(times), "bar": bar,
            "held": held(bar, median, low, high), "seconds": seconds,
        }  # fmt: skip
        shown = "has 1 " if bar is None else f"<={bar:.2f}"
        verdict = "held" if report[name]["held"] else "MISSED"
        print(f"{name:38}{median:.3f} [{low:.3f}, {high:.3f}]   {shown} {len(times):5}   {verdict}", flush=True)
    plain = peak_alone(arguments, "plain")
    for arm, name in MEMORY.items():
        edited, bar = peak_alone(arguments, arm), MEMORY_BARS[arm]
        ratio = edited["peak"] / plain["peak"]
        report[f"peak memory, {name}"] = {"ratio": ratio, "bar": bar, "mb": {"edited": edited, "plain": plain}}
        verdict = "held" if ratio <= bar else "MISSED"
        print(f"{f'peak memory, {name}':42}{ratio:.3f}              <={bar:.2f}         {verdict}")
        print(f"  peak {edited['peak']:.0f} MB against {plain['peak']:.0f}, ", end="")
        print(f"of which drawing adds {edited['added']:.0f} MB against {plain['added']:.0f}", flush=True)
    return report


def floor(arms: Arms) -> dict[str, float]:
    """Return the arithmetic of one source + target with guidance, and the seconds it takes at full speed."""
    operations = evaluation_flops(arms.pipe, rows=4) * arms.steps
    speed = matmul_flops_per_second(arms.pipe.device, arms.pipe.unet.dtype)
    return {"tflop": operations / 1e12, "tflop_per_second": speed / 1e12, "seconds": operations / speed}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="likeness.prompt_to_prompt.benchmark", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pipeline", type=Path, help="folder of a StableDiffusionPipeline (default: embedded model)")
    parser.add_argument("--shape", choices=["sd15"], help="give it a UNet of these dimensions, random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--many", action="store_true", help="also source + 8 targets (slow)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only", choices=[*MEMORY, "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arms = Arms(load(arguments.pipeline, arguments.shape, arguments.device, arguments.dtype), arguments.steps)
    if arguments.only:
        edited, plain = arms.cases(False)[MEMORY.get(arguments.only, "source + target")]
        print(json.dumps(peak_of(arms, plain if arguments.only == "plain" else edited)))
        return
    report = measure(arms, arguments)
    report["floor"] = bare = floor(arms)
    edited = report["source + target"]["seconds"]["edited"]
    print(
        f"one edit of {arms.steps} steps takes {edited:.2f} s; its {bare['tflop']:.2f} TFLOP at the speed of a large"
    )
    print(f"  matrix product here, {bare['tflop_per_second']:.2f} TFLOP/s, would take {bare['seconds']:.2f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
