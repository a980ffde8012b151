"""Measure the embedded model: python -m likeness.paperdoll.evaluate --prompts N prints the card's table.

Everything is measured on pictures, prompts and seeds that pretraining never used. The probe that reads
generated pictures is the shipped one: it is not independent of the metrics that use it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from likeness.paperdoll import world
from likeness.paperdoll.captions import asked, caption, prompts
from likeness.paperdoll.dataset import SIZE, fresh

FACTORS = tuple(world.CATEGORICAL)
RETRIEVAL = 64  # captions a picture chooses from
BARS = {  # what the finished model should reach; shown beside what is measured
    "probe/style": ">= 0.98", "probe/scene": ">= 0.98", "probe/food": ">= 0.98", "probe/hat": ">= 0.98",
    "probe/sunglasses": ">= 0.98", "probe/head_x error px": "<= 0.5", "probe/head_y error px": "<= 0.5",
    "probe/head_size error px": "<= 0.5", "probe/turn error": "<= 3", "probe/tilt error": "<= 3",
    "autoencoder/psnr dB": ">= 27", "drawn/style": ">= 0.95", "drawn/scene": ">= 0.95",
    "drawn/sunglasses": ">= 0.95", "drawn/hat": ">= 0.95", "drawn/food": ">= 0.90", "drawn/who": ">= 0.95",
    "clip/retrieval of 64, rendered": ">= 0.90", "clip/retrieval of 64, generated": ">= 0.80",
}  # fmt: skip


def wrong_or_right(probe, images: Tensor, expected: list[dict[str, str]]) -> dict[str, list[bool]]:
    """Return, per factor, whether the probe reads each picture as expected (where something is expected)."""
    reading = probe.read(images)
    seen = {name: reading.names(name) for name in (*FACTORS, "who")}
    return {
        name: [value == want[name] for value, want in zip(values, expected, strict=True) if name in want]
        for name, values in seen.items()
    }


def drawn(factors: world.Factors) -> dict[str, str]:
    """Return the names of the categorical factors a picture was drawn from."""
    labels = factors.labels()
    return {name: world.CATEGORICAL[name][int(labels[name])] for name in FACTORS} | {"who": factors.who}


def share(values: list[bool]) -> float:
    return float(np.mean(values)) if values else float("nan")


def measure_probe(probe, *, seed: int, pictures: int) -> dict[str, float]:
    """Return accuracies on fresh pictures, the worst style's accuracy, and the errors of pose and place."""
    images, factors = fresh(seed, pictures)
    right = wrong_or_right(probe, images, [drawn(f) for f in factors])
    out = {f"probe/{name}": share(values) for name, values in right.items()}
    styles = np.array([f.style for f in factors])
    for name in FACTORS:
        by_style = [np.array(right[name])[styles == style].mean() for style in set(styles.tolist())]
        out[f"probe/{name} in its worst style"] = float(min(by_style))
    reading = probe.read(images)
    for name in world.CONTINUOUS:
        truth = torch.tensor([float(f.labels()[name]) for f in factors])
        error = (reading.continuous[name] - truth).abs().mean().item()
        pixels = name in ("head_x", "head_y", "head_size")
        out[f"probe/{name} error" + (" px" if pixels else "")] = error * (SIZE if pixels else 1)
    identities = torch.tensor(np.stack([f.identity.vector() for f in factors]))
    out["probe/identity error"] = (reading.identity - identities).abs().mean().item()
    return out


def measure_autoencoder(vae, probe, *, seed: int, pictures: int) -> dict[str, float]:
    """Return PSNR in dB over all styles and in the worst, and the probe's accuracy on reconstructions."""
    from likeness.paperdoll.autoencoder import psnr, redraw

    images, factors = fresh(seed + 1, pictures)
    again = redraw(vae, images)
    values = psnr(images, again)
    styles = np.array([f.style for f in factors])
    worst = min(values[torch.from_numpy(styles == style)].mean().item() for style in set(styles.tolist()))
    right = wrong_or_right(probe, again, [drawn(f) for f in factors])
    out = {"autoencoder/psnr dB": values.mean().item(), "autoencoder/psnr of its worst style dB": worst}
    return out | {f"autoencoder/{name} read": share(right[name]) for name in FACTORS}


@torch.no_grad()
def generate(pipe, texts: list[str], *, seed: int, steps: int, guidance: float, batch: int = 16) -> Tensor:
    """Draw one picture per prompt (n, 3, 128, 128); picture k has its own noise."""
    pipe.set_progress_bar_config(disable=True)
    out = []
    for first in range(0, len(texts), batch):
        part = texts[first : first + batch]
        rngs = [torch.Generator().manual_seed(seed * 100_003 + first + i) for i in range(len(part))]
        out.append(
            pipe(
                part, generator=rngs, num_inference_steps=steps, guidance_scale=guidance, output_type="pt"
            ).images.cpu()
        )
    return torch.cat(out).float()


def measure_drawing(images: Tensor, texts: list[str], probe) -> dict[str, float]:
    """Return the share of pictures in which the probe reads what the prompt asks, per factor and for all."""
    expected = [asked(text) for text in texts]
    expected = [{k: v for k, v in e.items() if k != "who" or v in world.CLASSES} for e in expected]
    right = wrong_or_right(probe, images, expected)
    out = {f"drawn/{name}": share(values) for name, values in right.items()}
    for name, nothing in (("food", "none"), ("sunglasses", "no"), ("hat", "no")):
        named = [r for r, e in zip(right[name], expected, strict=True) if e[name] != nothing]
        out[f"drawn/{name} where asked"] = share(named)
    out["drawn/all factors"] = float(np.mean(np.all([right[name] for name in FACTORS], axis=0)))
    return out


def retrieval(clip, tokenizer, images: Tensor, texts: list[str]) -> float:
    """Return the share of pictures whose own caption is nearest among 64; equal requests count as right."""
    from likeness.paperdoll.clip import embed

    found = []
    for first in range(0, len(images) - RETRIEVAL + 1, RETRIEVAL):
        part = texts[first : first + RETRIEVAL]
        image, text = embed(clip, tokenizer, images[first : first + RETRIEVAL], part)
        best = (image @ text.T).argmax(1).tolist()
        found += [asked(part[j]) == asked(part[i]) for i, j in enumerate(best)]
    return share(found)


def measure_all(
    root: Path, *, pictures: int, count: int, seed: int = 1, steps: int = 50, guidance=5.0, device="cpu"
) -> dict[str, float]:
    """Measure the weights in `root` (pipeline, clip, probe) on `pictures` renders and `count` prompts."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPModel, CLIPTokenizer

    from likeness.paperdoll.probe import load_probe

    probe = load_probe(device, root / "probe")
    pipe = StableDiffusionPipeline.from_pretrained(root / "pipeline", safety_checker=None).to(device)
    clip = CLIPModel.from_pretrained(root / "clip").eval().to(device)
    tokenizer = CLIPTokenizer.from_pretrained(root / "clip")
    values = measure_probe(probe, seed=seed, pictures=pictures)
    values |= measure_autoencoder(pipe.vae, probe, seed=seed, pictures=pictures)
    rng = np.random.default_rng((seed, 77))
    images, factors = fresh(seed + 2, max(pictures, RETRIEVAL))
    texts = [caption(f, rng) for f in factors]
    values["clip/retrieval of 64, rendered"] = retrieval(clip, tokenizer, images, texts)
    texts = prompts(rng, count)
    images = generate(pipe, texts, seed=seed, steps=steps, guidance=guidance)
    values |= measure_drawing(images, texts, probe)
    if count >= RETRIEVAL:
        values["clip/retrieval of 64, generated"] = retrieval(clip, tokenizer, images, texts)
    return values


def table(values: dict[str, float]) -> str:
    """Return the measures as a Markdown table, the bar to reach beside each."""
    lines = ["| measure | value | aim |", "|---|---|---|"]
    lines += [f"| {name} | {value:.3f} | {BARS.get(name, '')} |" for name, value in values.items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.paperdoll.evaluate", description=__doc__.split("\n\n")[0])
    parser.add_argument("--prompts", type=int, default=128, help="generated pictures")
    parser.add_argument("--pictures", type=int, default=512, help="freshly drawn pictures")
    parser.add_argument("--weights", type=Path, help="folder of pipeline, clip and probe (default: shipped)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the values here")
    args = parser.parse_args(arguments)
    from likeness.paperdoll.weights import pipeline_dir

    values = measure_all(
        args.weights or pipeline_dir().parent, pictures=args.pictures, count=args.prompts, seed=args.seed,
        steps=args.steps, guidance=args.guidance, device=args.device,
    )  # fmt: skip
    print(table(values))
    if args.json:
        args.json.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
