"""Paired comparisons over seeds: intervals, tests and effect sizes that say so when there is too little data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 9999


def paired(with_: Sequence[float], without: Sequence[float], *, seed: int = 0) -> dict[str, Any]:
    """Return n, mean, low, high, p and effect of the differences with minus without.

    The interval is a 95 % bias-corrected and accelerated bootstrap of the mean (Efron 1987), p a two-sided
    sign-flip permutation test (exact up to 13 pairs), `effect` Cohen's d of the differences. Pairs with a
    missing value are left out; what cannot be computed (one pair, no spread) is None.
    """
    a, b = np.asarray(with_, float), np.asarray(without, float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected two lists of the same length, got shapes {a.shape} and {b.shape}.")
    difference = a - b
    difference = difference[np.isfinite(difference)]
    n = len(difference)
    if n == 0:
        return {"n": 0, "mean": None, "low": None, "high": None, "p": None, "effect": None}
    mean = float(difference.mean())
    if n == 1:
        return {"n": 1, "mean": mean, "low": None, "high": None, "p": None, "effect": None}
    spread = float(difference.std(ddof=1))
    constant = spread < 1e-12 * max(1.0, abs(mean))
    low, high = (mean, mean) if constant else _interval((difference,), np.mean, seed)
    return {
        "n": n,
        "mean": mean,
        "low": low,
        "high": high,
        "p": _sign_flip(difference, seed),
        "effect": None if constant else mean / spread,
    }


def mean_interval(values: Sequence[float], *, seed: int = 0) -> dict[str, Any]:
    """Return n, mean, low and high (95 % bootstrap) of plain values; None where undefined."""
    result = paired(values, np.zeros(len(values)), seed=seed)
    return {key: result[key] for key in ("n", "mean", "low", "high")}


def _interval(data: tuple[np.ndarray, ...], statistic: Any, seed: int, *, pairs: bool = False):
    from scipy.stats import bootstrap

    for method in ("BCa", "percentile"):  # BCa is undefined where leaving one out changes nothing
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = bootstrap(
                data, statistic, paired=pairs, vectorized=None if not pairs else False, method=method,
                n_resamples=RESAMPLES if not pairs else 1999, rng=np.random.default_rng(seed),
            ).confidence_interval  # fmt: skip
        if math.isfinite(found.low) and math.isfinite(found.high):
            return float(found.low), float(found.high)
    return None, None


def _sign_flip(difference: np.ndarray, seed: int) -> float:
    n, observed = len(difference), abs(difference.sum()) - 1e-12
    if n <= 13:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ difference) >= observed).mean())
    signs = np.random.default_rng(seed).choice((-1, 1), size=(RESAMPLES, n))
    return float(((np.abs(signs @ difference) >= observed).sum() + 1) / (RESAMPLES + 1))


def holm(pvalues: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for the number of tests (Holm 1979); None stays None and counts for nothing."""
    known = sorted((p, i) for i, p in enumerate(pvalues) if p is not None)
    adjusted: list[float | None] = [None] * len(pvalues)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[index] = highest
    return adjusted


def spearman(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> dict[str, Any]:
    """Return n, the rank correlation rho and its 95 % bootstrap interval; None where a side is constant."""
    from scipy.stats import spearmanr

    a, b = np.asarray(x, float), np.asarray(y, float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected two lists of the same length, got shapes {a.shape} and {b.shape}.")
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return {"n": len(a), "rho": None, "low": None, "high": None}
    low, high = _interval((a, b), lambda u, v: spearmanr(u, v).statistic, seed, pairs=True)
    return {"n": len(a), "rho": float(spearmanr(a, b).statistic), "low": low, "high": high}
