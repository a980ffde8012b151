"""Intervals, tests and corrections against known numbers, and what happens with too little data."""

import numpy as np
import pytest
from scipy import stats

from likeness.metrics.statistics import holm, mean_interval, paired, spearman


def test_a_paired_difference_has_mean_interval_p_and_effect():
    rng = np.random.default_rng(0)
    without = rng.normal(0.4, 0.1, 20)
    with_ = without - 0.2 + rng.normal(0, 0.05, 20)
    result = paired(with_, without)
    difference = with_ - without
    assert result["n"] == 20 and result["mean"] == pytest.approx(difference.mean())
    assert result["low"] < result["mean"] < result["high"] < 0
    t = stats.t.interval(0.95, 19, difference.mean(), difference.std(ddof=1) / 20**0.5)
    assert result["low"] == pytest.approx(t[0], abs=0.01) and result["high"] == pytest.approx(t[1], abs=0.01)
    assert result["p"] < 0.001 and result["effect"] == pytest.approx(difference.mean() / difference.std(ddof=1))


def test_the_sign_flip_test_is_exact_for_few_pairs():
    expected = stats.permutation_test(
        ([1.0, 2.0, -0.5, 3.0],), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert paired([1.0, 2.0, -0.5, 3.0], [0.0] * 4)["p"] == pytest.approx(expected)
    assert paired([1.0, 2.0, 3.0, 4.0], [0.0] * 4)["p"] == pytest.approx(2 / 16)


def test_without_a_difference_the_interval_holds_zero():
    rng = np.random.default_rng(3)
    misses = 0
    for trial in range(40):
        values = rng.normal(0, 1, (2, 16))
        result = paired(*values, seed=trial)
        misses += not result["low"] <= 0 <= result["high"]
    assert misses <= 6


def test_too_little_data_is_said_not_guessed():
    assert paired([1.0], [0.5]) == {"n": 1, "mean": 0.5, "low": None, "high": None, "p": None, "effect": None}
    assert paired([], [])["mean"] is None
    constant = paired([0.5] * 5, [0.25] * 5)
    assert (constant["low"], constant["high"], constant["effect"]) == (0.25, 0.25, None)
    assert paired([1.0, np.nan, 3.0], [0.0, 0.0, np.nan])["n"] == 1
    with pytest.raises(ValueError, match="same length"):
        paired([1.0], [1.0, 2.0])


def test_the_mean_interval_is_that_of_the_values():
    values = np.random.default_rng(1).normal(3, 1, 30)
    result = mean_interval(values)
    assert result["low"] < values.mean() == pytest.approx(result["mean"]) and result["high"] > values.mean()


def test_holm_against_hand_calculation():
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_spearman_and_its_interval():
    x = np.arange(20.0)
    result = spearman(x, x**3 + np.random.default_rng(0).normal(0, 400, 20))
    assert result["low"] < result["rho"] <= result["high"] and result["rho"] > 0.8
    assert spearman(x, np.ones(20))["rho"] is None
