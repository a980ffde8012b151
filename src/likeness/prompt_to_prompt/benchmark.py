"""What Prompt-to-Prompt costs: paired, interleaved ratios against plain sampling of the same prompts.

python -m likeness.prompt_to_prompt.benchmark [--pipeline DIR | --shape sd15] [--pairs 15] [--steps 10]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likeness.prompt_to_prompt import LocalBlend, Replace, Reweight, prompt_to_prompt, seeded_latents

SOURCE = "A painting of a tuki justin bieber eating a burger"
TARGETS = [f"A painting of a tuki justin bieber eating a {food}" for food in ("cake", "lasagne", "pizza", "apple")]
BARS = {
    "source + target": 1.05,
    "with LocalBlend and Reweight": 1.10,
    "after the windows have closed": 1.02,
    "source + 8 targets against 8 pairs": 0.60,
}
MEMORY_BAR = 1.05


def load(pipeline: Path | None, shape: str | None) -> Any:
    """Return the pipeline to measure: a folder, or Stable Diffusion 1.5's UNet with random weights."""
    from diffusers import StableDiffusionPipeline

    if pipeline is None:
        from importlib.resources import files

        pipeline = Path(str(files("likeness"))) / "paperdoll" / "weights" / "pipeline"
    pipe = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    if shape == "sd15":
        with torch.device("meta"):
            unet = sd15_unet()
        pipe.unet = unet.to_empty(device="cpu").eval()
        for parameter in pipe.unet.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        width = pipe.text_encoder.config.hidden_size
        widen = torch.randn(width, 768, generator=torch.Generator().manual_seed(0)) / width**0.5
        pipe.encode_prompt = widened(pipe.encode_prompt, widen)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd15_unet() -> Any:
    """Return a UNet of Stable Diffusion 1.5's dimensions (860 M parameters)."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def widened(encode: Callable[..., Any], matrix: torch.Tensor) -> Callable[..., Any]:
    """Wrap `encode_prompt` so that a small text encoder feeds a UNet that expects 768 channels."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return tuple(None if e is None else e @ matrix for e in encode(*args, **kwargs))

    return wrapped


class Arms:
    """The samplings that are compared; each call draws latents only."""

    def __init__(self, pipe: Any, steps: int) -> None:
        self.pipe, self.steps = pipe, steps
        config = pipe.unet.config
        self.noise = seeded_latents([0], (config.in_channels, config.sample_size, config.sample_size))
        self.options = {"num_inference_steps": steps, "guidance_scale": 7.5, "output_type": "latent"}

    def plain(self, prompts: list[str]) -> None:
        latents = self.noise.repeat(len(prompts), 1, 1, 1)
        self.pipe(prompts, latents=latents, **self.options)

    def edited(self, edits: list[Any], **options: Any) -> None:
        with prompt_to_prompt(self.pipe, SOURCE, edits, **options) as p2p:
            self.pipe(**p2p.inputs, latents=p2p.latents(self.noise), **self.options)

    def cases(self, many: bool) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
        """Return name -> (edited, baseline)."""
        two = [SOURCE, TARGETS[0]]
        blend = LocalBlend(["burger", "cake"], threshold=0.5, start=0.0)
        always = {"cross_replace_steps": 1.0, "self_replace_steps": 1.0}
        swap = Replace(TARGETS[0], **always)
        weigh = Reweight(TARGETS[0], {"cake": 2.0}, over=swap, **always)
        cases = {
            "source + target": (lambda: self.edited([swap]), lambda: self.plain(two)),
            "with LocalBlend and Reweight": (lambda: self.edited([weigh], local_blend=blend), lambda: self.plain(two)),
            "after the windows have closed": (self._closed, self._closed_plain),
        }
        if many:
            edits = [Replace(target) for target in TARGETS] + [Replace(t, self_replace_steps=0.6) for t in TARGETS]
            cases["source + 8 targets against 8 pairs"] = (
                lambda: self.edited(edits),
                lambda: [self.edited([edit]) for edit in edits],
            )
        return cases

    def _closed(self) -> None:
        """Draw with windows of the first step only; timed from the second on by `after_first`."""
        edit = Replace(TARGETS[0], cross_replace_steps=1 / self.steps, self_replace_steps=1 / self.steps)
        self.edited([edit], callback_on_step_end=self.after_first)

    def _closed_plain(self) -> None:
        latents = self.noise.repeat(2, 1, 1, 1)
        self.pipe(
            [SOURCE, TARGETS[0]], latents=latents, callback_on_step_end=self.after_first,
            callback_on_step_end_tensor_inputs=["latents"], **self.options,
        )  # fmt: skip

    started = 0.0

    def after_first(self, pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            self.started = time.perf_counter()
        return {}


def ratios(arms: Arms, pair: tuple[Callable[[], None], Callable[[], None]], count: int) -> list[float]:
    """Return count ratios edited / baseline; the order within a pair alternates."""

    def seconds(call: Callable[[], None]) -> float:
        arms.started = time.perf_counter()
        call()
        return time.perf_counter() - arms.started

    for call in pair:
        seconds(call)  # warm up
    found = []
    for number in range(count):
        first, second = pair if number % 2 == 0 else pair[::-1]
        a, b = seconds(first), seconds(second)
        found.append(a / b if number % 2 == 0 else b / a)
    return found


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the median and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (5000, len(values))), axis=1)
    return float(np.median(values)), *(float(v) for v in np.quantile(medians, (0.025, 0.975)))


@contextmanager
def growth(result: dict[str, float]):
    """Measure by how many MB the process's peak memory grows inside the block."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    result["mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak(arguments: argparse.Namespace, arm: str) -> float:
    """Return the peak memory in MB of a fresh process that draws one arm."""
    command = [sys.executable, "-m", "likeness.prompt_to_prompt.benchmark", "--only", arm, "--steps", "2"]
    for name in ("pipeline", "shape"):
        if getattr(arguments, name):
            command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.prompt_to_prompt.benchmark", description=__doc__)
    parser.add_argument("--pipeline", type=Path, help="folder of a StableDiffusionPipeline (default: embedded model)")
    parser.add_argument(
        "--shape", choices=["sd15"], help="its UNet replaced by one of these dimensions, random weights"
    )
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--many", action="store_true", help="also source + 8 targets (slow)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only", choices=["edited", "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arms = Arms(load(arguments.pipeline, arguments.shape), arguments.steps)
    if arguments.only:
        call = arms.cases(False)["source + target"][0 if arguments.only == "edited" else 1]
        result: dict[str, float] = {}
        with growth(result):
            call()
        print(json.dumps(result))
        return
    report = {}
    print(f"{'':38}median [95 %]          bar   pairs")
    for name, pair in arms.cases(arguments.many).items():
        median, low, high = interval(ratios(arms, pair, arguments.pairs))
        report[name] = {"median": median, "low": low, "high": high, "pairs": arguments.pairs, "bar": BARS[name]}
        print(f"{name:38}{median:.3f} [{low:.3f}, {high:.3f}]   {BARS[name]:.2f}   {arguments.pairs}", flush=True)
    memory = peak(arguments, "edited") / peak(arguments, "plain")
    report["peak memory, source + target"] = {"ratio": memory, "bar": MEMORY_BAR}
    print(f"{'peak memory, source + target':38}{memory:.3f}                  {MEMORY_BAR:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
