"""A whole cell, drawn and measured: what its record names, that nothing is encoded twice, what measuring costs."""

import csv
import json

import pytest
import tiny_study

from likeness import metrics
from likeness.metrics import definitions


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """Draw one local edit of two seeds; return its folder and how many pictures CLIP was given in each call."""
    from likeness.metrics.encoders import Clip
    from likeness.study.cell import run_cell

    out, encoded = tmp_path_factory.mktemp("out"), []
    encode = Clip.images_and_keys
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(tiny_study.build_world(tmp_path_factory.mktemp("world"))))
        patch.setattr(Clip, "images_and_keys", lambda self, x: encoded.append(len(x)) or encode(self, x))
        metrics.forget()
        sweep = tiny_study.sweep_of(out, "edit=blend", "target=cake", "seeds=[0,1]")
        tiny_study.pretend_to_finetune(sweep)
        folder = run_cell(sweep, out / "runs" / "0", ["edit=blend", "target=cake"])
        metrics.forget()
    return folder, encoded


def test_a_record_names_everything_it_measured(cell):
    folder, _ = cell
    record = json.loads((folder / "record.json").read_text())
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    named = set(record["backbones"])
    assert named == set(record["directions"]) and named <= set(rows[0])
    assert {"clip_i", "identity_distance", "clip_structure", "lpips_outside_rendered", "psnr_outside_local_blend",
            "clip_t_inside_rendered"} <= named  # fmt: skip
    assert all(definitions.base_name(name) in definitions.DEFINITIONS for name in named)
    assert all(float(row["psnr_outside_rendered"]) == 60 for row in rows if row["arm"] == "source")
    assert all(row["clip_i"] and row["identity_distance"] for row in rows)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["identity_distance"]["difference"]["n"] == 2


def test_no_picture_is_encoded_twice(cell):
    _, encoded = cell
    photos, arms, parts = 12, 3 * 2, 2 * 3 * 2  # two regions, whose insides alone are looked at once more
    assert sum(encoded) == photos + arms + parts and encoded.count(arms) == 1


@pytest.mark.slow  # what else the machine does meanwhile counts
@pytest.mark.weights
def test_measuring_takes_less_than_15_percent_of_drawing_on_the_shipped_weights(tmp_path):
    """With 20 steps; the usual 50 leave measuring a smaller share still. The first cell also encodes the photos."""
    from likeness.study.cell import run_cell

    metrics.forget()
    first = tiny_study.sweep_of(tmp_path, "edit=blend", "target=lasagne")
    tiny_study.pretend_to_finetune(first)
    run_cell(first, tmp_path / "runs" / "0", ["edit=blend", "target=lasagne"])
    settings = ["edit=blend", "target=cake", "seeds=[0,1,2,3]", "sampler.num_inference_steps=20"]
    folder = run_cell(tiny_study.sweep_of(tmp_path, *settings), tmp_path / "runs" / "1", settings)
    record = json.loads((folder / "record.json").read_text())
    assert record["drawn"] == 12 and "lpips_outside_local_blend" in record["backbones"]
    assert 0 < record["timing"]["measure"] < 0.15 * record["timing"]["draw"]
