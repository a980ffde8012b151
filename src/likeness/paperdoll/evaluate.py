"""Measure the embedded model and rewrite its card: python -m likeness.paperdoll.evaluate.

Everything is measured on pictures, prompts and seeds that pretraining never used. What is generated is judged by
the judge, which shares nothing with any metric or loss.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from likeness.errors import InputError
from likeness.paperdoll.bars import table, verdict
from likeness.paperdoll.captions import caption, prompts
from likeness.paperdoll.card import write_card
from likeness.paperdoll.checkpoints import write_json
from likeness.paperdoll.dataset import fresh
from likeness.paperdoll.evaluate_drawing import (
    RETRIEVAL,
    agreement,
    generate,
    measure_balance,
    measure_diversity,
    measure_drawing,
    retrieval,
)
from likeness.paperdoll.evaluate_reading import measure_autoencoder, measure_readers

PARTS = ("pipeline/model_index.json", "clip/config.json", "probe/config.json", "judge/config.json")


@dataclass(frozen=True)
class Extent:
    """How much is measured: random prompts, fresh renderings, seeds of each repeated prompt; and how it is drawn."""

    prompts: int = 500
    pictures: int = 1024
    seeds: int = 32
    steps: int = 50
    guidance: float = 3.0
    seed: int = 1

    @property
    def command(self) -> str:
        options = " ".join(f"--{name} {value}" for name, value in vars(self).items())
        return f"python -m likeness.paperdoll.evaluate {options}"


def measure_all(root: Path, extent: Extent, device: str = "cpu") -> dict[str, float]:
    """Measure the weights in `root` (pipeline, clip, probe, judge); raises InputError if one is missing."""
    missing = [part for part in PARTS if not (root / part).is_file()]
    if missing:
        raise InputError(f"{root} lacks {', '.join(missing)}: run the stages that make them, then stage card.")
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPModel, CLIPTokenizer

    from likeness.paperdoll.judge import load_judge
    from likeness.paperdoll.probe import load_probe

    readers = {"probe": load_probe(device, root / "probe"), "judge": load_judge(device, root / "judge")}
    pipe = StableDiffusionPipeline.from_pretrained(root / "pipeline", safety_checker=None).to(device)
    clip = CLIPModel.from_pretrained(root / "clip").eval().to(device)
    tokenizer = CLIPTokenizer.from_pretrained(root / "clip")
    seed = extent.seed
    values = measure_readers(readers, seed=seed, pictures=extent.pictures)
    values |= measure_autoencoder(pipe.vae, readers, seed=seed + 1, pictures=extent.pictures)
    rng = np.random.default_rng((seed, 77))
    images, factors = fresh(seed + 2, max(extent.pictures, RETRIEVAL))
    texts = [caption(f, rng) for f in factors]
    values["clip/retrieval of 64, rendered"] = retrieval(clip, tokenizer, images, texts)

    def draw(texts: list[str], offset: int = 0):
        return generate(pipe, texts, seed=seed + offset, steps=extent.steps, guidance=extent.guidance)

    texts = prompts(rng, extent.prompts)
    images = draw(texts)
    judged = readers["judge"].read(images)
    values |= measure_drawing(judged, texts)
    values["drawn/probe agrees with the judge"] = agreement(readers["probe"].read(images), judged)
    if extent.prompts >= RETRIEVAL:
        values["clip/retrieval of 64, generated"] = retrieval(clip, tokenizer, images, texts)
    values |= measure_balance(judged, texts)
    varied = measure_diversity(readers["judge"], lambda texts: draw(texts, 1), seed=seed + 3, count=extent.seeds)
    return values | varied


def evaluate(root: Path, extent: Extent, device: str = "cpu") -> dict[str, float]:
    """Measure the weights in `root` and rewrite measures.json and MODEL_CARD.md beside them."""
    values = measure_all(root, extent, device)
    write_json(root / "measures.json", values)
    write_card(root, values, extent.command)
    return values


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.paperdoll.evaluate", description=__doc__.split("\n\n")[0])
    default = Extent()
    parser.add_argument("--prompts", type=int, default=default.prompts, help="generated pictures")
    parser.add_argument("--pictures", type=int, default=default.pictures, help="freshly drawn pictures")
    parser.add_argument("--seeds", type=int, default=default.seeds, help="pictures of each prompt drawn repeatedly")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--guidance", type=float, default=default.guidance)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--weights", type=Path, help="folder of pipeline, clip, probe and judge (default: shipped)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dry", action="store_true", help="print the table, write nothing")
    args = parser.parse_args(arguments)
    from likeness.paperdoll.weights import weights_root

    root = args.weights or weights_root()
    extent = Extent(**{name: getattr(args, name) for name in vars(default)})
    try:
        values = (measure_all if args.dry else evaluate)(root, extent, args.device)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    print(table(values))
    print(verdict(values))


if __name__ == "__main__":
    main()
