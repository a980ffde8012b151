"""How well a reader (probe or judge) reads: drawn pictures, and what the autoencoder makes of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from likeness.paperdoll import world
from likeness.paperdoll.dataset import SIZE, fresh

FACTORS = tuple(world.CATEGORICAL)
PLACES = ("head_x", "head_y", "head_size")  # shares of the picture's side, reported in pixels


def wrong_or_right(reader, images: Tensor, expected: list[dict[str, str]]) -> dict[str, list[bool]]:
    """Return, per factor, whether the reader sees each picture as expected (where something is expected)."""
    return compare(reader.read(images), expected)


def compare(reading, expected: list[dict[str, str]]) -> dict[str, list[bool]]:
    """Return, per factor, whether a reading is as expected, for the pictures of which something is expected."""
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


def worst(values, styles: np.ndarray) -> float:
    """Return the lowest mean over the pictures of one style."""
    values = np.asarray(values, float)
    return float(min(values[styles == style].mean() for style in set(styles.tolist())))


def measure_readers(readers: dict[str, object], *, seed: int, pictures: int) -> dict[str, float]:
    """Return, for each reader, accuracies on fresh pictures, the worst style's, and mean absolute errors.

    Places are in pixels of a 128 px picture, turn and tilt in degrees, the others in world units.
    """
    images, factors = fresh(seed, pictures)
    expected = [drawn(f) for f in factors]
    styles = np.array([f.style for f in factors])
    identities = torch.tensor(np.stack([f.identity.vector() for f in factors]))
    out: dict[str, float] = {}
    for reader, model in readers.items():
        reading = model.read(images)
        right = compare(reading, expected)
        out |= {f"{reader}/{name}": share(values) for name, values in right.items()}
        out |= {f"{reader}/{name} in its worst style": worst(right[name], styles) for name in FACTORS}
        for name in world.CONTINUOUS:
            truth = torch.tensor([float(getattr(f, name)) for f in factors])
            error = (reading.continuous[name] - truth).abs().mean().item()
            out[f"{reader}/{name} error" + (" px" if name in PLACES else "")] = error * (SIZE if name in PLACES else 1)
        out[f"{reader}/identity error"] = (reading.identity - identities).abs().mean().item()
    return out


def measure_autoencoder(vae, readers: dict[str, object], *, seed: int, pictures: int) -> dict[str, float]:
    """Return PSNR in dB over all styles and in the worst; accuracy on reconstructions minus that on originals."""
    from likeness.paperdoll.autoencoder import psnr, redraw

    images, factors = fresh(seed, pictures)
    expected = [drawn(f) for f in factors]
    again = redraw(vae, images)
    values = psnr(images, again)
    styles = np.array([f.style for f in factors])
    out = {
        "autoencoder/psnr dB": values.mean().item(),
        "autoencoder/psnr of its worst style dB": worst(values, styles),
    }
    for reader, model in readers.items():
        before, after = (wrong_or_right(model, shown, expected) for shown in (images, again))
        for name in FACTORS:
            out[f"autoencoder/{name} gained by the {reader}"] = share(after[name]) - share(before[name])
    return out
