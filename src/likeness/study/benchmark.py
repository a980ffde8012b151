"""What a cell costs beyond its UNet: drawing 4 seeds in three arms against the same evaluations alone.

python -m likeness.study.benchmark [--pairs 15] [--steps 10]; loading, decoding and metrics are reported beside it,
and what 8 cells that share model, source and target draw of what they would draw apart.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from likeness import metrics
from likeness.config import Edit, Model, Sampler, Sweep
from likeness.models import ModelSource, load_pipeline
from likeness.prompt_to_prompt.benchmark import interval
from likeness.study import draw
from likeness.study.measure import measure
from likeness.study.plan import EditPlan

BAR = 1.15
PLAN = EditPlan(
    "replace",
    "A painting of a tuki justin bieber eating a burger",
    "A painting of a tuki justin bieber eating a cake",
    {},
)


def cell_of(steps: int) -> Sweep:
    """Return the configuration of a cell on the embedded model."""
    return Sweep(
        model=Model(name="paperdoll", source="embedded", resolution=128, seeds_per_call=4),
        edit=Edit(name="local", operator="replace"),
        sampler=Sampler(name="ddim", scheduler="ddim", num_inference_steps=steps, guidance_scale=5.0),
        seeds=[0, 1, 2, 3],
    )


@torch.no_grad()
def bare(pipe: Any, sweep: Sweep) -> float:
    """Return the seconds of the cell's UNet evaluations with nothing around them."""
    seeds, steps = len(sweep.seeds), sweep.sampler.num_inference_steps
    channels, side = pipe.unet.config.in_channels, pipe.unet.config.sample_size
    context = pipe.text_encoder(torch.zeros(1, 77, dtype=torch.long))[0]
    started = time.perf_counter()
    for prompts in (2, 1):  # source and target with Prompt-to-Prompt, then the target without
        rows = 2 * prompts * seeds
        sample, tokens = torch.randn(rows, channels, side, side), context.expand(rows, -1, -1).contiguous()
        for step in range(steps):
            pipe.unet(sample, 999 - step, encoder_hidden_states=tokens, return_dict=False)
    return time.perf_counter() - started


def cell(pipe: Any, sweep: Sweep) -> tuple[float, draw.Drawn]:
    """Draw the cell with an empty picture cache; return its drawing seconds and what it drew."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw.draw_cell(pipe, sweep, PLAN, draw.PictureCache(Path(folder), {}))
    return drawn.timing["draw"], drawn


def cells_together(pipe: Any, steps: int, count: int = 8) -> dict[str, float]:
    """Draw cells that differ in their windows only, as a multirun does, with one picture cache.

    Returns the pictures' evaluations by the UNet (rows of one guidance half, over all steps) and those of as many
    cells alone. The source is drawn again beside each target, which takes its attention from it; the plain target
    is drawn once.
    """
    rows = 0

    def watch(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal rows
        rows += len(args[0] if args else kwargs["sample"]) // 2

    hook = pipe.unet.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(count):
                sweep = cell_of(steps)
                sweep.edit.cross_replace_steps = [0.0, (number + 1) / count]
                draw.draw_cell(pipe, sweep, PLAN, draw.PictureCache(Path(folder), {}))
    finally:
        hook.remove()
    return {"cells": count, "drawn": rows, "apart": count * 3 * len(cell_of(steps).seeds) * steps}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.study.benchmark", description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    pipe = load_pipeline(ModelSource("paperdoll", "embedded"))
    pipe.vae.to(memory_format=torch.channels_last)
    suite = metrics.build("embedded")
    loading = time.perf_counter() - started
    sweep = cell_of(arguments.steps)
    cell(pipe, sweep), bare(pipe, sweep)  # warm up
    ratios = []
    for number in range(arguments.pairs):
        if number % 2:
            alone = bare(pipe, sweep)
            drawing, drawn = cell(pipe, sweep)
        else:
            drawing, drawn = cell(pipe, sweep)
            alone = bare(pipe, sweep)
        ratios.append(drawing / alone)
    started = time.perf_counter()
    measure(suite, drawn.pictures, PLAN)
    measuring = time.perf_counter() - started
    median, low, high = interval(ratios)
    print(f"a cell of 4 seeds against its bare UNet evaluations: {median:.3f} [{low:.3f}, {high:.3f}], bar {BAR:.2f}")
    print(f"loading {loading:.1f} s, drawing {drawing:.1f} s in {arguments.steps} steps, ", end="")
    print(f"decoding {drawn.timing['decode']:.1f} s, metrics {measuring:.1f} s")
    shared = cells_together(pipe, arguments.steps)
    print(
        f"{shared['cells']} cells of one model, source and target: {shared['drawn']} UNet evaluations of a picture, ",
        end="",
    )
    print(f"{shared['apart']} apart")
    if arguments.json:
        found = {"median": median, "low": low, "high": high, "pairs": arguments.pairs, "bar": BAR}
        seconds = {"load": loading, "draw": drawing, "decode": drawn.timing["decode"], "measure": measuring}
        arguments.json.write_text(json.dumps(found | {"seconds": seconds, "together": shared}, indent=1) + "\n")


if __name__ == "__main__":
    main()
