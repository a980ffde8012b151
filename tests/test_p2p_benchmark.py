"""The benchmarks measure what they say, at their smallest; their figures come from `make bench`."""

import json
import time

import pytest
import torch

from likeness.prompt_to_prompt import benchmark
from likeness.prompt_to_prompt.benchmark_models import evaluation_flops, load


@pytest.fixture(scope="module")
def arms(world):
    return benchmark.Arms(load(world / "pipeline", None), steps=3)


def test_every_case_draws_both_arms_and_has_a_bar(arms):
    cases = arms.cases(many=True)
    assert set(cases) == set(benchmark.BARS)
    rows = []
    hook = arms.pipe.unet.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(args[0])), with_kwargs=True
    )
    try:
        for name, (edited, baseline) in cases.items():
            for call in (edited, baseline):
                rows.clear()
                call()
                many = {edited: [18], baseline: [4] * 8}[call] if "8 targets" in name else [4]
                assert rows == [n for n in many for _ in range(arms.steps)]
    finally:
        hook.remove()


def test_pairs_alternate_and_the_clock_starts_anew_after_the_first_step(arms):
    order = []
    times = benchmark.paired(arms, (lambda: order.append("a") or time.sleep(0.02), lambda: order.append("b")), 3)
    assert order == list("ab" + "ab" + "ba" + "ab")  # warm-up, then pairs
    assert times.shape == (3, 2) and (times[:, 0] >= 0.02).all() and (times[:, 1] < 0.02).all()

    def call():
        time.sleep(0.05)
        arms.after_first(arms.pipe, 0, None, {})

    assert arms.seconds(call) < 0.05


def test_the_interval_and_its_bar():
    median, low, high = benchmark.interval([0.9, 1.0, 1.0, 1.1, 1.2] * 3)
    assert low <= median == 1.0 <= high
    assert benchmark.held(None, 1.01, 0.99, 1.03) and not benchmark.held(None, 1.02, 1.01, 1.03)
    assert benchmark.held(1.05, 1.05, 1.0, 1.2) and not benchmark.held(1.05, 1.06, 1.0, 1.2)


def test_flops_grow_with_the_batch(arms):
    one = evaluation_flops(arms.pipe, rows=2)
    assert evaluation_flops(arms.pipe, rows=4) == pytest.approx(2 * one, rel=0.01) and one > 1e6


def test_memory_of_a_drawing_is_what_it_adds(arms):
    kept = []
    taken = benchmark.peak_of(arms, lambda: kept.append(torch.ones(50 * 2**20)))
    assert taken["peak"] >= taken["added"] > 150


def test_cells_drawn_together_share_the_plain_target(world):
    from likeness.models import ModelSource, load_pipeline
    from likeness.study.benchmark import cells_together

    pipe = load_pipeline(ModelSource("paperdoll", "embedded"))
    shared = cells_together(pipe, steps=2, count=2)
    assert shared == {"cells": 2, "apart": 2 * 3 * 4 * 2, "drawn": (2 * 2 + 1) * 4 * 2}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_writes_its_figures(world, tmp_path):
    out = tmp_path / "figures.json"
    benchmark.main(
        ["--pipeline", str(world / "pipeline"), "--pairs", "2", "--steps", "2", "--threads", "1", "--json", str(out)]
    )
    report = json.loads(out.read_text())
    assert report["source + target"]["pairs"] == 2 and report["peak memory, source + target"]["ratio"] > 0
    assert report["peak memory, with LocalBlend and Reweight"]["mb"]["edited"]["peak"] > 0
    assert report["floor"]["seconds"] > 0
