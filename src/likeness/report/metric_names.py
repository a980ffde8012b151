"""How metrics are called and written where a person reads them."""

from __future__ import annotations

from functools import cache

from likeness.metrics.definitions import base_name, region_of
from likeness.metrics.statistics import decided

METRICS = {
    "edit_success": "edit happened",
    "clip_t": "CLIP to the target prompt",
    "clip_dir": "directional CLIP",
    "lpips": "LPIPS to the source",
    "ssim": "SSIM to the source",
    "psnr": "PSNR to the source, dB",
    "head_shift_px": "head moved, px of 128",
    "size_change": "head size changed",
    "other_changed": "other factors changed",
    "identity_shift": "identity shifted",
    "blossom": "blossom drawn",
    "asked_shown": "asked factors shown",
    "clip_i": "likeness to the photos, CLIP",
    "dino": "likeness to the photos, DINO",
    "identity_distance": "identity, distance to the photos",
    "dino_structure": "DINO structure distance",
    "clip_structure": "structure distance, paperdoll CLIP",
    "pie_structure_x1e3": "PIE-Bench structure distance × 1000",
    "pie_psnr": "PIE-Bench PSNR, dB",
    "pie_lpips_x1e3": "PIE-Bench LPIPS × 1000",
    "pie_mse_x1e4": "PIE-Bench MSE × 10000",
    "pie_ssim_x1e2": "PIE-Bench SSIM × 100",
    "pie_clip": "PIE-Bench CLIP score",
}
ARROWS = {"higher": " ↑", "lower": " ↓", "neutral": ""}
HEADLINE = ("edit_success", "lpips", "clip_t", "clip_dir", "head_shift_px")  # the columns of tables over cells
STRUCTURE = "lpips"  # what is lost of the source, along the axis of plots and under single pictures
DISTANCES = ("dino_structure", "clip_structure")  # of structure alone; whichever the suite has
KEPT = (*DISTANCES, STRUCTURE)  # the first that was measured decides whether structure is kept
SHARES, COARSE, FINE = ("edit_success",), ("psnr", "head_shift_px"), DISTANCES


@cache
def named(metric: str, direction: str = "neutral") -> str:
    """Return a metric's name for people, with an arrow to where it is better."""
    base, place = base_name(metric), region_of(metric)
    where = f", {place[0]} the {place[1].replace('_', ' ')} region" if place else ""
    return METRICS.get(base, base) + where + ARROWS[direction]


def number(metric: str, value: float | None) -> str:
    """Return a value in the metric's own format; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.0%}" if metric in SHARES else f"{value:.{digits_of(metric)}f}"


def digits_of(metric: str) -> int:
    """Return how many digits after the point a metric is written with."""
    return 1 if metric in COARSE else 4 if metric in FINE else 3


def interval(metric: str, difference: dict | None) -> str:
    """Return a paired difference as "-0.120 [-0.150, -0.080]", shares in points; a dash where there is none."""
    if difference is None or difference["mean"] is None:
        return "–"
    scale, digits = (100, 0) if metric in SHARES else (1, digits_of(metric))
    mean, low, high = (None if difference[k] is None else scale * difference[k] for k in ("mean", "low", "high"))
    unit = " pt" if metric in SHARES else ""
    text = f"{mean:+.{digits}f}{unit}"
    return text if low is None else f"{text} [{low:+.{digits}f}, {high:+.{digits}f}]"


def verdict(difference: dict | None, direction: str) -> str:
    """Return whether Prompt-to-Prompt is "better" or "worse" than re-prompting, "open" unless the numbers decide."""
    if difference is None or direction == "neutral" or not decided(difference):
        return "open"
    return "better" if (difference["mean"] > 0) == (direction == "higher") else "worse"
