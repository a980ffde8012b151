"""Paired comparisons over seeds: intervals, tests and effect sizes that say so when there is too little data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

RESAMPLES = 9999
MOST_FOR_BCA = 2000  # pairs; BCa leaves each out once, n² values, to correct what vanishes with 1/sqrt(n)
NUMBERS_AT_ONCE = 2_000_000  # of resamples held in memory


def paired(
    with_: Sequence[float], without: Sequence[float], *, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return n, mean, low, high, p and effect of the differences with minus without, pair by pair.

    The interval is a 95 % bias-corrected and accelerated bootstrap of the mean (Efron 1987), p a two-sided
    sign-flip permutation test (exact up to 13 pairs), `effect` Cohen's d of the differences. `interval` says how
    low and high were found: "BCa"; "percentile" where BCa is undefined, or more than 2000 values leave it nothing to
    correct; "constant" where all differences are equal and there is nothing to resample. Pairs with a missing value
    are left out; what cannot be computed is None.

    Pairs of one of the `groups` (edits of the same source picture) are not independent: they are averaged first, and
    `independent`, the number of groups, is what interval, test and effect rest on.
    """
    a, b = np.asarray(with_, float), np.asarray(without, float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected two lists of the same length, got shapes {a.shape} and {b.shape}.")
    if groups is not None and len(groups) != len(a):
        raise ValueError(f"expected one group for each of the {len(a)} pairs, got {len(groups)}.")
    finite = np.isfinite(a - b)
    difference, n = (a - b)[finite], int(finite.sum())
    if groups is not None:
        difference = _group_means(difference, [g for g, kept in zip(groups, finite, strict=True) if kept])
    independent = len(difference)
    result = {"n": n, "independent": independent, "mean": float(difference.mean()) if n else None}
    if independent < 2:
        return result | dict.fromkeys(("low", "high", "interval", "p", "effect"))
    mean, spread = result["mean"], float(difference.std(ddof=1))
    constant = spread < 1e-12 * max(1.0, abs(mean))
    low, high, method = (mean, mean, "constant") if constant else _interval(difference, seed)
    return result | {
        "low": low,
        "high": high,
        "interval": method,
        "p": _sign_flip(difference, seed),
        "effect": None if constant else mean / spread,
    }


def decided(result: dict[str, Any]) -> bool:
    """Say whether a paired difference lies on one side of zero for sure: its interval leaves out zero.

    An interval without width (all differences equal) proves nothing by itself; there p has to be below 0.05, which
    takes six pairs.
    """
    low, high = result["low"], result["high"]
    if low is None or low <= 0 <= high:
        return False
    return low < high or (result.get("p") is not None and result["p"] < 0.05)


def _group_means(values: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    number = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    index = np.array([number[group] for group in groups], dtype=int)
    return np.bincount(index, values) / np.bincount(index) if len(values) else values


def _interval(difference: np.ndarray, seed: int) -> tuple[float | None, float | None, str | None]:
    from scipy.stats import bootstrap

    n = len(difference)
    methods = ("BCa", "percentile") if n <= MOST_FOR_BCA else ("percentile",)
    for method in methods:  # BCa is undefined where leaving one out changes nothing
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = bootstrap(
                (difference,), np.mean, method=method, n_resamples=RESAMPLES, batch=max(1, NUMBERS_AT_ONCE // n),
                rng=np.random.default_rng(seed),
            ).confidence_interval  # fmt: skip
        if math.isfinite(found.low) and math.isfinite(found.high):
            return float(found.low), float(found.high), method
    return None, None, None


def _sign_flip(difference: np.ndarray, seed: int) -> float:
    n, observed = len(difference), abs(difference.sum()) - 1e-12
    if n <= 13:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ difference) >= observed).mean())
    rng, reached = np.random.default_rng(seed), 0
    for first in range(0, RESAMPLES, 1000):
        flips = rng.integers(0, 2, size=(min(1000, RESAMPLES - first), n), dtype=np.int8)
        reached += int((np.abs(difference.sum() - 2 * (flips @ difference)) >= observed).sum())
    return (reached + 1) / (RESAMPLES + 1)


def holm(pvalues: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for the number of tests (Holm 1979); None stays None and counts for nothing."""
    known = sorted((p, i) for i, p in enumerate(pvalues) if p is not None)
    adjusted: list[float | None] = [None] * len(pvalues)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[index] = highest
    return adjusted


def median_rank_correlation(levels: Sequence[float], series: Sequence[Sequence[float]]) -> float:
    """Return the median over series of Spearman's correlation with the levels; constant series count as 0."""
    from scipy.stats import spearmanr

    return float(np.median([spearmanr(levels, values).statistic if np.ptp(values) else 0.0 for values in series]))
