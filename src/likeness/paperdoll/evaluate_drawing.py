"""What the text-to-image model draws: is it what was asked, can CLIP tell, do pictures differ as the world's do?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from likeness.paperdoll import world
from likeness.paperdoll.captions import asked
from likeness.paperdoll.dataset import fresh
from likeness.paperdoll.evaluate_reading import FACTORS, compare, share

RETRIEVAL = 64  # captions a picture chooses from
NAMED = ("keanu reeves", "justin bieber", "man", "woman")  # "person" is said of anyone
VARIED = ("photo of a man on a beach", "watercolor painting of a woman")  # each drawn from many seeds
LUMA = (0.299, 0.587, 0.114)


@torch.no_grad()
def generate(pipe, texts: list[str], *, seed: int, steps: int, guidance: float, batch: int = 16) -> Tensor:
    """Draw one picture per prompt (n, 3, 128, 128); picture k has its own noise."""
    pipe.set_progress_bar_config(disable=True)
    out = []
    for first in range(0, len(texts), batch):
        part = texts[first : first + batch]
        rngs = [torch.Generator().manual_seed(seed * 100_003 + first + i) for i in range(len(part))]
        drawn = pipe(part, generator=rngs, num_inference_steps=steps, guidance_scale=guidance, output_type="pt")
        out.append(drawn.images.cpu())
    return torch.cat(out).float()


def measure_drawing(reading, texts: list[str]) -> dict[str, float]:
    """Return the share of pictures read as the prompt asks, per factor and for all; `who` where a class is named.

    What no prompt asks for is left out.
    """
    expected = [asked(text) for text in texts]
    expected = [{k: v for k, v in e.items() if k != "who" or v in NAMED} for e in expected]
    right = compare(reading, expected)
    found = {f"drawn/{name}": values for name, values in right.items()}
    for name, nothing in (("food", "none"), ("sunglasses", "no"), ("hat", "no")):
        asked_for = zip(right[name], expected, strict=True)
        found[f"drawn/{name} where asked"] = [r for r, e in asked_for if e[name] != nothing]
    named = [e["who"] for e in expected if "who" in e]
    for who in NAMED:
        found[f"drawn/who {who}"] = [r for r, name in zip(right["who"], named, strict=True) if name == who]
    found["drawn/all factors"] = np.all([right[name] for name in FACTORS], axis=0).tolist()
    return {name: share(values) for name, values in found.items() if values}


def agreement(first, second) -> float:
    """Return the share of factors that two readings of the same pictures agree on."""
    return share([a == b for name in FACTORS for a, b in zip(first.names(name), second.names(name), strict=True)])


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


def histogram_distance(first: list[str], second: list[str], values: tuple[str, ...]) -> float:
    """Return the total variation distance, in [0, 1], of how often each value occurs."""
    shares = [np.array([names.count(value) for value in values]) / len(names) for names in (first, second)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def measure_balance(reading, texts: list[str]) -> dict[str, float]:
    """Return how far the factors read from pictures of many prompts are distributed from what was asked."""
    wanted = [asked(text) for text in texts]
    return {
        f"diversity/{name} asked to drawn": histogram_distance(reading.names(name), [w[name] for w in wanted], values)
        for name, values in world.CATEGORICAL.items()
    }


def background_brightness(images: Tensor) -> np.ndarray:
    """Return the mean luma (n,) left and right of the head, where nobody stands and no frame is drawn."""
    h, w = images.shape[-2:]
    luma = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1)[:, round(0.08 * h) : round(0.35 * h)]
    sides = [luma[..., round(0.06 * w) : round(0.2 * w)], luma[..., round(0.8 * w) : round(0.94 * w)]]
    return torch.cat(sides, 2).mean((1, 2)).numpy()


def apart(first: np.ndarray, world_values: np.ndarray) -> float:
    """Return the 1-Wasserstein distance of two samples in standard deviations of the world's."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(first, world_values) / max(float(world_values.std()), 1e-6))


def measure_diversity(reader, draw, *, seed: int, count: int) -> dict[str, float]:
    """Compare `count` seeds of each prompt of VARIED with as many renderings of what the prompt asks.

    `draw` maps prompts to pictures. For each factor: the distance of the histograms (0 same; two samples of the
    world give what `world to itself` says), and the spread over the world's (1 same, 0 always the same picture).
    Both sides are read by `reader`.
    """
    found: dict[str, list[float]] = {}
    for number, prompt in enumerate(VARIED):
        wanted = asked(prompt)
        fixed = {name: wanted[name] for name in ("style", "scene", "food", "who")}
        fixed |= {name: wanted[name] == "yes" for name in ("sunglasses", "hat")}
        rendered, other = (fresh(seed + 10 * number + part, count, **fixed)[0] for part in (0, 1))
        samples = [spread_out(reader, images) for images in (draw([prompt] * count), rendered, other)]
        for name in samples[0]:
            generated, real, again = (sample[name] for sample in samples)
            found.setdefault(f"diversity/{name} world to drawn", []).append(apart(generated, real))
            found.setdefault(f"diversity/{name} world to itself", []).append(apart(again, real))
            found.setdefault(f"diversity/{name} spread over world's", []).append(
                float(generated.std() / max(real.std(), 1e-6))
            )
    return {name: float(np.mean(values)) for name, values in found.items()}


def spread_out(reader, images: Tensor) -> dict[str, np.ndarray]:
    """Return what differs between pictures of one prompt: place, size and pose of the head, background."""
    reading = reader.read(images)
    names = ("head_x", "head_y", "head_size", "turn", "tilt")
    return {name: reading.continuous[name].numpy() for name in names} | {"background": background_brightness(images)}
