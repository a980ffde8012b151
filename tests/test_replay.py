"""What a record carries, and what a replay says when something else would be drawn now."""

import json
import shutil

import pytest
import tiny_study
from PIL import Image

from likeness import metrics, replay
from likeness.errors import InputError
from likeness.study import draw
from likeness.study.cell import run_cell


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A recorded cell and its output folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(tiny_study.build_world(tmp_path_factory.mktemp("world"))))
        metrics.forget()
        draw.load_cached.cache_clear()
        out = tmp_path_factory.mktemp("out")
        sweep = tiny_study.sweep_of(out, "edit=local", "target=cake", "seeds=[0,3]")
        tiny_study.pretend_to_finetune(sweep)
        yield run_cell(sweep, out / "run", ["edit=local", "target=cake", "seeds=[0,3]"])
        metrics.forget()
        draw.load_cached.cache_clear()


def test_a_record_carries_all_that_decides_its_pictures(recorded):
    record = json.loads((recorded / "record.json").read_text())
    assert record["seeds"] == [0, 3] and record["config"]["edit"]["cross_replace_steps"] == [0.0, 0.8]
    assert record["config"]["model"]["source"] == "embedded" and len(record["weights"]) == 12
    assert record["data"]["base"] and record["data"]["subjects"][0]["photos"] == "0123456789ab"
    assert {"torch", "diffusers", "transformers", "safetensors", "numpy"} <= set(record["environment"]["packages"])
    assert {"commit", "dirty"} == set(record["environment"]["git"]) and record["environment"]["python"]
    assert record["device"] == "cpu" and record["hardware"]["name"] and record["hardware"]["threads"] >= 1
    assert record["command"] == "python sweep.py edit=local target=cake 'seeds=[0,3]'"
    assert set(record["timing"]) >= {"load", "draw", "decode", "measure"} and record["drawn"] == 6


def test_a_record_replays_to_the_same_bits(recorded, capsys):
    replay.main([str(recorded / "record.json")])
    assert capsys.readouterr().out == "identical: 6 pictures\n"


def test_the_model_is_looked_for_where_the_cell_lies(recorded, tmp_path, monkeypatch):
    record = json.loads((recorded / "record.json").read_text())
    monkeypatch.chdir(tmp_path)
    moved = recorded.parent / "moved"
    shutil.copytree(recorded, moved)
    (moved / "record.json").write_text(json.dumps(record | {"config": record["config"] | {"out": "outputs"}}))
    asked = []
    monkeypatch.setattr(
        replay, "redraw", lambda sweep, *_: asked.append(sweep.out) or (_ for _ in ()).throw(InputError(""))
    )
    for cell in (moved, shutil.copytree(moved, tmp_path / "copy")):
        with pytest.raises(InputError):
            replay.replay(cell)
    assert asked == [str(recorded.parents[1]), "outputs"]


def test_a_replay_that_differs_says_by_how_much_and_what_has_changed(recorded, capsys):
    record = json.loads((recorded / "record.json").read_text())
    record["environment"]["packages"]["torch"] = "1.0"
    record["hardware"]["threads"] = 999
    altered = recorded.parent / "altered"
    (altered / "images").mkdir(parents=True)
    (altered / "record.json").write_text(json.dumps(record))
    for picture in (recorded / "images").iterdir():
        Image.open(picture).point(lambda v: 255 - v).save(altered / "images" / picture.name)
    with pytest.raises(SystemExit, match="1"):
        replay.main([str(altered)])
    shown = capsys.readouterr().out
    assert "different: up to" in shown and "environment.packages.torch: 1.0 ->" in shown
    assert "hardware.threads: 999 ->" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "failed"}, "no finished cell"),
        ({"config": None}, "no finished cell"),
        ({"seeds": []}, "no finished cell"),
        ({}, "images/seed0000-source.png is missing"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(recorded, tmp_path, change, message):
    record = json.loads((recorded / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps(record | change))
    with pytest.raises(SystemExit, match=message):
        replay.main([str(tmp_path)])


@pytest.mark.parametrize("record", [{"format": 1}, {"format": 1, "status": "done"}])
def test_a_record_without_its_parts_is_one_line(tmp_path, record):
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="no finished cell"):
        replay.main([str(tmp_path)])


def test_a_configuration_of_another_version_is_one_line(recorded, tmp_path):
    shutil.copytree(recorded, tmp_path / "cell")
    record = json.loads((recorded / "record.json").read_text())
    (tmp_path / "cell" / "record.json").write_text(json.dumps(record | {"config": {"nonsense": 1}}))
    with pytest.raises(SystemExit, match="does not fit this version"):
        replay.main([str(tmp_path / "cell")])


def test_a_model_that_is_gone_is_asked_for_as_it_was_made(recorded, tmp_path):
    shutil.copytree(recorded, tmp_path / "cell")
    record = json.loads((recorded / "record.json").read_text())
    record["command"] = "python sweep.py subject=tuki method=lora edit=local 'schedule.seed=3'"
    record["config"]["method"]["name"] = "lora"
    (tmp_path / "cell" / "record.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit, match=r"python train\.py subject=tuki method=lora schedule\.seed=3"):
        replay.main([str(tmp_path / "cell")])
