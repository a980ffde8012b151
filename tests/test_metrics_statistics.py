"""Intervals, tests and corrections against known numbers, and what happens with too little data."""

import time

import numpy as np
import pytest
from scipy import stats

from likeness.metrics.statistics import decided, holm, paired


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
    unknown = dict.fromkeys(("low", "high", "interval", "p", "effect"))
    assert paired([1.0], [0.5]) == {"n": 1, "independent": 1, "mean": 0.5} | unknown
    assert paired([], []) == {"n": 0, "independent": 0, "mean": None} | unknown
    constant = paired([0.5] * 5, [0.25] * 5)
    assert (constant["low"], constant["high"], constant["effect"]) == (0.25, 0.25, None)
    assert constant["interval"] == "constant" and constant["p"] == pytest.approx(2 / 2**5)
    assert paired([1.0, np.nan, 3.0], [0.0, 0.0, np.nan])["n"] == 1
    with pytest.raises(ValueError, match="same length"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="one group for each"):
        paired([1.0], [1.0], groups=["a", "b"])


def bca(values, resamples):
    """Efron 1987 for the mean: the ends, from bootstrap means drawn here."""
    means = np.sort(np.random.default_rng(11).choice(values, (resamples, len(values))).mean(1))
    z0 = stats.norm.ppf((means < values.mean()).mean() + (means == values.mean()).mean() / 2)
    left_out = (values.sum() - values) / (len(values) - 1)
    lean = left_out.mean() - left_out
    acceleration = (lean**3).sum() / (6 * (lean**2).sum() ** 1.5)
    ends = [z0 + (z0 + z) / (1 - acceleration * (z0 + z)) for z in stats.norm.ppf([0.025, 0.975])]
    return np.quantile(means, stats.norm.cdf(ends))


def test_the_interval_is_bca_and_not_percentile():
    skewed = np.random.default_rng(5).lognormal(0, 1.2, 15)
    result = paired(skewed, np.zeros(15))
    assert result["interval"] == "BCa"
    expected = bca(skewed, 40_000)
    assert [result["low"], result["high"]] == pytest.approx(list(expected), rel=0.03)
    plain = stats.bootstrap((skewed,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert result["high"] > plain.confidence_interval.high * 1.05  # what the correction is for


def test_edits_of_the_same_source_count_once():
    """Ten edits of each of four sources: the sources' spread decides, not the forty pictures."""
    sources = np.repeat([0.3, -0.1, 0.2, 0.5], 10)
    values = sources + np.random.default_rng(0).normal(0, 0.01, 40)
    apart = paired(values, np.zeros(40))
    together = paired(values, np.zeros(40), groups=[int(i) for i in np.repeat(range(4), 10)])
    assert together["mean"] == pytest.approx(apart["mean"]) and together["n"] == apart["n"] == 40
    assert (together["independent"], apart["independent"]) == (4, 40)
    assert together["high"] - together["low"] > 2 * (apart["high"] - apart["low"])
    assert together["p"] == pytest.approx(0.25) and apart["p"] < 0.001
    by_hand = values.reshape(4, 10).mean(1)
    assert together["effect"] == pytest.approx(by_hand.mean() / by_hand.std(ddof=1))


def test_a_difference_is_decided_by_its_interval():
    sure = paired([1.0, 1.2, 0.9, 1.1, 1.3], [0.0] * 5)
    assert decided(sure) and not decided(paired([1.0], [0.0])) and not decided(paired([], []))
    assert not decided(paired([1.0, -1.2, 0.9, -1.1, 0.1], [0.0] * 5))
    assert not decided(paired([1.0] * 5, [0.0] * 5)) and decided(paired([1.0] * 6, [0.0] * 6))
    assert not decided(paired([1.0] * 6, [1.0] * 6))


def test_many_pairs_are_tested_by_drawing_signs():
    values = np.random.default_rng(4).normal(0.25, 1, 40)
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    ).pvalue
    assert paired(values, np.zeros(40))["p"] == pytest.approx(expected, abs=0.015)
    assert paired(values, np.zeros(40)) == paired(values, np.zeros(40))


def test_holm_against_hand_calculation():
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_very_many_pairs_take_little_time_and_the_interval_is_that_of_the_mean():
    difference = np.random.default_rng(0).normal(-0.01, 0.1, 12_000)
    started = time.process_time()
    result = paired(difference, np.zeros_like(difference))
    assert time.process_time() - started < 5
    half = 1.96 * difference.std(ddof=1) / 12_000**0.5
    assert (result["high"] - result["low"]) / 2 == pytest.approx(half, rel=0.1)
    assert result["p"] == pytest.approx(1 / 10_000)  # the smallest that so many flips can say
