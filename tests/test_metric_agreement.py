"""Known pairs are what they say, correlations find what is there, and experiment 008 is written whole."""

from dataclasses import replace
from pathlib import Path

import cells_on_disk
import numpy as np
import pytest
import tiny_metrics
from PIL import Image
from remembering import Remembering

from likeness import metrics
from likeness.errors import InputError
from likeness.metrics.readings import compare
from likeness.paperdoll import world
from likeness.paperdoll.captions import asked
from likeness.report.spreadsheet import read_rows
from likeness.study import known_pairs, metric_agreement
from likeness.study.metric_agreement import QUESTIONS, agreement, correlation
from likeness.study.metric_agreement_plot import draw


def test_prompts_ask_for_what_a_right_edit_draws():
    for case in known_pairs.cases(10):
        wanted = asked(case.target_prompt)
        right = next(p.factors for p in case.pairs if (p.outcome, p.structure) == ("right", "kept"))
        for name in ("style", "scene", "food"):
            assert asked(case.source_prompt)[name] == getattr(case.source, name)
            assert wanted[name] == getattr(right, name), (case.target_prompt, name)
        differing = {n for n in world.CATEGORICAL if wanted[n] != asked(case.source_prompt)[n]}
        assert differing == set(case.edit)


def test_pairs_are_done_and_kept_as_much_as_they_say():
    for case in known_pairs.cases(5):
        assert len(case.pairs) == len(known_pairs.OUTCOMES) * len(known_pairs.STRUCTURES) == 20
        wanted = asked(case.target_prompt)
        for pair in case.pairs:
            labels = pair.factors.labels()
            right = [world.CATEGORICAL[n][int(labels[n])] == wanted[n] for n in case.edit]
            assert np.mean(right) == pair.success, pair
            moved = abs(pair.factors.head_x - case.source.head_x) * 128
            shift = {"kept": 0, "redrawn": None} | {f"shifted {px:g} px": px for px in known_pairs.SHIFTS}
            if shift[pair.structure] is not None:
                assert moved == pytest.approx(shift[pair.structure])
                assert pair.factors.background == case.source.background
            else:
                assert pair.factors.background != case.source.background
            low, high = world.CONTINUOUS["head_x"][1:]
            assert low <= pair.factors.head_x <= high
        assert sorted({pair.kept for pair in case.pairs}) == [0, 1, 2, 3, 4]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(metric_agreement, "RESAMPLES", 199)


def rows_of(values, truth):
    return [
        {"source": str(i % 10), "lpips": float(v), "clip_t": float(v), "success": float(t), "structure": "kept"}
        for i, (v, t) in enumerate(zip(values, truth, strict=True))
    ]


def test_correlations_have_the_sign_of_agreement_and_an_interval_that_holds_them():
    truth = np.random.default_rng(0).normal(size=100)
    noisy = truth + np.random.default_rng(1).normal(size=100)
    rows = rows_of(noisy, truth)
    up, down = (correlation(rows, name, "success") for name in ("clip_t", "lpips"))
    assert up["rho"] == pytest.approx(-down["rho"]) and 0.4 < up["low"] < up["rho"] < up["high"] < 0.9
    assert up["n"] == 100 and up["sources"] == 10
    assert correlation(rows_of(truth, truth), "clip_t", "success")["rho"] == pytest.approx(1)
    nothing = correlation(rows_of(np.ones(20), truth[:20]), "clip_t", "success")
    assert nothing["rho"] is None and metric_agreement.shown(nothing) == "–"
    rows[0]["clip_t"] = None
    assert correlation(rows, "clip_t", "success")["n"] == 99


def test_pairs_of_one_source_do_not_count_as_independent():
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.normal(size=8), 25)  # eight sources, each seen 25 times
    values = np.repeat(rng.normal(size=8), 25)
    rows = rows_of(values, truth)
    for index, row in enumerate(rows):
        row["source"] = str(index // 25)
    clustered = correlation(rows, "clip_t", "success")
    for index, row in enumerate(rows):
        row["source"] = str(index)
    naive = correlation(rows, "clip_t", "success")
    assert clustered["high"] - clustered["low"] > 2 * (naive["high"] - naive["low"])


@pytest.fixture
def world_weights(tmp_path, monkeypatch):
    """Random CLIP, probe and judge where the embedded suite looks for them."""
    from likeness.paperdoll.judge import Judge, save_judge
    from likeness.paperdoll.probe import Probe, save_probe

    root = tmp_path / "weights"
    tiny_metrics.tiny_clip(root / "clip")
    save_probe(Probe((8, 16, 16, 16, 16), 32), root / "probe")
    save_judge(Judge((8, 8, 16, 16), (0, 1, 1, 1), 4, 16), root / "judge")
    monkeypatch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(root))
    metrics.forget()
    yield root
    metrics.forget()


def test_pixels_agree_with_structure_on_rendered_pairs(world_weights):
    rows = metric_agreement.rendered_rows(metrics.build("embedded"), known_pairs.cases(2))
    assert len(rows) == 40 and {"lpips", "ssim", "psnr", "clip_t", "clip_dir"} <= set(rows[0])
    still = next(r for r in rows if (r["outcome"], r["structure"]) == ("none", "kept"))
    assert still["psnr"] == 60 and still["clip_dir"] is None, "an unchanged picture has no direction"
    found = agreement(rows, QUESTIONS)
    assert found["structure kept, edit done right"]["psnr"]["n"] == 10
    untouched = [row for row in rows if row["outcome"] == "none"]
    assert correlation(untouched, "psnr", "kept")["rho"] > 0.8, "with no edit, pixels are all structure"


def test_generated_edits_are_correlated_with_what_the_judge_reads(tmp_path):
    judge, source = Remembering(), world.Factors(style="painting", food="burger")

    def picture(seed, arm):
        moved = {"source": 0, "without": 6 + seed, "with": seed / 4}[arm]
        food = "burger" if arm == "source" or (arm, seed) == ("with", 0) else "cake"
        factors = replace(source, food=food, head_x=0.45 + moved / 128, background=seed)
        return Image.fromarray(judge.draw(factors))

    cells_on_disk.write_cell(tmp_path, "cake", picture=picture, axes={"model": "paperdoll"}, spread=0.001)
    rows = metric_agreement.generated_rows([tmp_path], judge)
    assert len(rows) == 8 and len({row["source"] for row in rows}) == 4
    assert correlation(rows, "lpips", "kept")["rho"] > 0.6, "these cells say LPIPS 0.2 with and 0.5 without"
    assert sum(row["success"] for row in rows) == 7


def test_the_command_writes_table_pairs_and_plot(world_weights, tmp_path, capsys):
    folder = tmp_path / "008"
    folder.mkdir()
    with pytest.raises(InputError, match="needs one pair of markers"):
        metric_agreement.write(folder, [], {}, "nothing")
    committed = Path(__file__).parents[1] / metric_agreement.FOLDER / "README.md"
    (folder / "README.md").write_text(committed.read_text())
    cells_on_disk.write_cell(
        tmp_path / "cells", "cake", picture=lambda seed, arm: Image.new("RGB", (64, 64)), axes={"model": "paperdoll"}
    )
    metric_agreement.main(["--sources", "1", "--cells", str(tmp_path / "cells"), "--out", str(folder)])
    page = (folder / "README.md").read_text()
    assert "Not run yet" not in page and "| `lpips` |" in page and "paperdoll-clip@" in page
    assert "Generated edits" in page and "**Verdict.**" in page
    rows = read_rows(folder / "pairs.csv")
    assert len(rows) == 28 and {row["pairs"] for row in rows} == {"rendered", "generated"}
    with Image.open(folder / "agreement.png") as image:
        assert image.width > 800
    assert "Rendered pairs" in capsys.readouterr().out


def test_the_plot_places_agreement_to_the_right():
    result = {"n": 9, "sources": 3, "low": None, "high": None}
    pictures = [
        np.asarray(draw({"part": {"question": {"lpips": result | {"rho": rho}}}})).astype(int) for rho in (0.9, -0.9)
    ]
    colours = [
        np.abs(p - np.array(c)).sum(2) == 0 for p, c in zip(pictures, ((28, 110, 190), (196, 62, 50)), strict=True)
    ]
    centres = [np.nonzero(found)[1].mean() for found in colours]
    assert centres[0] > centres[1] + 300


def test_cells_without_a_changed_factor_say_nothing_of_success(tmp_path):
    judge, source = Remembering(), world.Factors(food="burger")
    same = "A painting of a tuki eating a burger"
    picture = lambda seed, arm: Image.fromarray(judge.draw(replace(source, background=seed)))  # noqa: E731
    cells_on_disk.write_cell(
        tmp_path, "same", picture=picture, axes={"model": "paperdoll"}, source_prompt=same, target_prompt=same
    )
    assert metric_agreement.generated_rows([tmp_path], judge) == []
    reading = judge.read(metric_agreement.picture(replace(source, background=0))[None])
    assert compare(reading, reading, same, same)["edit_success"].isnan().all()
    with pytest.raises(InputError, match="no finished cell"):
        metric_agreement.generated_rows([Path(__file__).parent / "golden"], judge)
