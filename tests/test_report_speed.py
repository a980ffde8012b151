"""Report and gather over many cells: 1,000 in under 20 s (slow test), and the share of that for a few (default)."""

import time

import numpy as np
import pytest
from cells_on_disk import write_cell
from PIL import Image

from likeness.metrics import definitions, statistics
from likeness.report import thumbnails
from likeness.report.page import write_report
from likeness.report.thumbnails import PAGE, seeds_shown
from likeness.study.gather import gather

ALIKE = ("lpips", "ssim", "psnr", "clip_structure")
METRICS = (  # those of a cell of the embedded model, beside the two that every cell of these tests has
    "clip_t", "clip_dir", *ALIKE[1:], "asked_shown", "head_shift_px", "size_change", "other_changed", "identity_shift",
    "blossom", "clip_i", "identity_distance",
    *(f"{name}_{side}_{region}" for region in ("local_blend", "rendered") for side in ("inside", "outside")
      for name in ALIKE), "clip_t_inside_local_blend", "clip_t_inside_rendered",
)  # fmt: skip
DIRECTIONS = {name: definitions.direction(name) for name in ("lpips", "edit_success", *METRICS)}


def drawn(number, side):
    """Return what draws pictures with about the detail of real ones, another for every cell, seed and arm."""

    def picture(seed, arm):
        rng = np.random.default_rng([number, seed, len(arm)])
        coarse = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
        grain = rng.integers(-6, 7, (side, side, 1))
        return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))

    return picture


def sweep_of(root, count, monkeypatch, side=128, seeds=4):
    """Write a run folder of `count` cells; the intervals of single cells are not computed, to save the test's time."""
    entry = {"n": 4, "independent": 4, "mean": -0.1, "low": -0.2, "high": -0.05, "p": 0.125, "effect": -1.0}
    monkeypatch.setattr("cells_on_disk.paired", lambda *_: entry)
    for number in range(count):
        folder = write_cell(
            root / "cells", f"cell{number}", subject=("tuki", "bnh")[number % 2], picture=drawn(number, side),
            count=seeds, axes={"edit": ("local", "global", "refine")[number % 3], "style": f"style {number % 8}"},
            metrics=METRICS, directions=DIRECTIONS,
        )  # fmt: skip
        (root / "run" / str(number)).mkdir(parents=True)
        (root / "run" / str(number) / "cell.txt").write_text(f"{folder}\n")
    return root / "run"


def cpu_seconds(run):
    """Return what gathering takes of all cores together; the wait is shorter, as thumbnails are made in parallel.

    Others at work on the machine make these seconds longer too, if less than those of the clock.
    """
    started = time.process_time()
    gather(run)
    return time.process_time() - started


def forgotten(run):
    """Return the run folder as before its first report: no cell of it remembers thumbnails."""
    for remembered in (run.parent / "cells").glob("*/.thumbnails-*.json"):
        remembered.unlink()
    return run


def test_a_report_takes_its_share_of_20_s_for_a_thousand_cells(tmp_path, monkeypatch):
    statistics.paired([1.0, 2.0, 4.0], [0.0, 0.0, 0.0])  # scipy is imported once, whatever the number of cells
    run = sweep_of(tmp_path, 25, monkeypatch)
    assert cpu_seconds(run) < 25 * 0.02 + 1.5


def test_a_second_report_makes_no_thumbnail(tmp_path, monkeypatch):
    run = sweep_of(tmp_path, 3, monkeypatch)
    made, thumbnail = [], thumbnails.thumbnail
    monkeypatch.setattr(thumbnails, "thumbnail", lambda path, *rest: made.append(path) or thumbnail(path, *rest))
    gather(run)
    first, page = len(made), (run / "report.html").read_bytes()
    gather(run)
    assert first == 3 * 4 * 3 and len(made) == first and (run / "report.html").read_bytes() == page


def test_pictures_that_cells_share_are_made_small_once(tmp_path, monkeypatch):
    run = sweep_of(tmp_path, 2, monkeypatch, seeds=2)
    for name in ("seed0000-source.png", "seed0001-source.png"):
        (tmp_path / "cells/cell1/images" / name).write_bytes((tmp_path / "cells/cell0/images" / name).read_bytes())
    made = []
    monkeypatch.setattr(thumbnails.Thumbnails, "budget", lambda _: 0)  # the size is not tried on a sample
    monkeypatch.setattr(thumbnails, "read", lambda file: made.append(file) or Image.open(file).convert("RGB"))
    monkeypatch.setattr(thumbnails.os, "cpu_count", lambda: 1)
    gather(run)
    assert len(made) == 2 * 2 * 3 - 2


@pytest.mark.slow
def test_two_hundred_cells_of_32_seeds_stay_below_20_mb(tmp_path, monkeypatch):
    run = sweep_of(tmp_path, 5, monkeypatch, side=256, seeds=32)  # a fortieth of the cells, and of the page
    folders = [run.parent / "cells" / f"cell{i}" for i in range(5)]
    page = write_report(folders, tmp_path / "report.html", "t", size=PAGE // 40)
    assert 20e6 / 2 < 40 * page.stat().st_size < 20e6
    text = page.read_text(encoding="utf-8")
    most = seeds_shown(200)
    assert text.count('class="seed"') == 5 * most and 4 < most < 32
    assert f"pictures of the first {most} seeds of each cell" in text
    assert text.count(f"{32 - most} more seeds: <a") == 5 and "cells/cell4/grid.png" in text
    assert "160 seeds in all" in text and "160 pictures" in text, "numbers are over all seeds"


def test_few_cells_show_all_their_seeds(tmp_path, monkeypatch):
    run = sweep_of(tmp_path, 1, monkeypatch, seeds=32)
    text = write_report([run.parent / "cells" / "cell0"], tmp_path / "report.html", "t").read_text(encoding="utf-8")
    assert text.count('class="seed"') == 32 and "more seed" not in text and "the first" not in text


@pytest.mark.slow
def test_a_thousand_cells(tmp_path, monkeypatch):
    run = sweep_of(tmp_path, 1000, monkeypatch)
    assert min(cpu_seconds(forgotten(run)) for _ in range(2)) < 20
    assert cpu_seconds(run) < 10  # thumbnails are remembered
    assert (run / "report.html").stat().st_size < 30e6
