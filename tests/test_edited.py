"""Cells of a model that is there, named by its folder, and of the base model as it is."""

import json

import pytest
import tiny_study
from tiny_training import train_of

from likeness import config, replay
from likeness.errors import InputError
from likeness.report.records import read_cells
from likeness.study import edited, place
from likeness.study.cell import run_cell
from likeness.study.dry_run import print_total
from likeness.study.finetune import finetune
from likeness.study.idle import refuse_idle

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


@pytest.fixture(scope="module")
def both(world, tmp_path_factory):
    """The folder of one model of two subjects, elsewhere than the outputs of the sweeps."""
    out = tmp_path_factory.mktemp("elsewhere")
    subjects = [config.load_subject(tiny_study.CONF, name) for name in ("bnh", "tuki")]
    train = train_of(
        out, "subjects=[bnh,tuki]", "sample_every=0", "schedule.num_train_steps=1", "model.train_text_encoder=0"
    )
    return finetune(train, out / "run", subjects)


def cell_of(tmp_path, *overrides):
    return run_cell(tiny_study.sweep_of(tmp_path, *overrides), tmp_path / "run", list(overrides))


def record_of(cell):
    return json.loads((cell / "record.json").read_text())


def test_a_model_of_two_subjects_is_edited_by_its_folder(both, tmp_path):
    cells = [cell_of(tmp_path, f"subject={name}", f"finetuned={both}") for name in ("bnh", "tuki")]
    records = [record_of(cell) for cell in cells]
    assert [record["axes"]["subject"] for record in records] == ["bnh", "tuki"]
    assert records[0]["weights"] == records[1]["weights"] and records[0]["data"]["folder"] == both.name
    for record in records:
        assert record["config"]["schedule"]["num_train_steps"] == 1, "as it was made, not as the sweep's defaults are"
        assert record["config"]["schedule"]["learning_rate"] == 0.01
        assert record["axes"]["method"] == "full" and record["axes"]["schedule"] == "standard"
    done, failed = read_cells(cells)
    assert done[0].conditions == done[1].conditions and not failed, "one training: what it did to both may be pooled"
    assert max(replay.replay(cells[0])["pictures"].values()) == 0


def test_a_model_by_its_folder_draws_the_cell_that_its_settings_name(world, tmp_path):
    folder = finetune(train_of(tmp_path, "sample_every=0", "schedule.num_train_steps=1"), tmp_path / "run", [])
    made = ("schedule.num_train_steps=1", "schedule.learning_rate=0.01", "prior_class.num_class_images=8")
    named = cell_of(tmp_path, *made, "prior_class.num_inference_steps=1")
    assert cell_of(tmp_path, f"finetuned={folder}") == named
    by_settings = tiny_study.sweep_of(tmp_path, *made, "prior_class.num_inference_steps=1")
    by_folder = edited.settled(tiny_study.sweep_of(tmp_path, f"finetuned={folder}"))
    assert by_folder.method == by_settings.method and by_folder.schedule == by_settings.schedule
    assert by_folder.prior_class == by_settings.prior_class and by_folder.model == by_settings.model
    (folder / "train.json").unlink()
    with pytest.raises(InputError, match=r"holds no train.json, which says how it was made; run its train.py command"):
        edited.settled(tiny_study.sweep_of(tmp_path, f"finetuned={folder}"))


def test_the_base_model_is_edited_as_it_is(world, tmp_path, capsys):
    overrides = ("finetuned=base", "edit=custom", "source_prompt=photo of a cake", "target_prompt=drawing of a cake")
    cell_of(tmp_path, *overrides, "dry_run=true")
    print_total()
    shown = capsys.readouterr().out
    assert "draws   3 pictures" in shown and "MISSING" not in shown
    cell = cell_of(tmp_path, *overrides)
    record = record_of(cell)
    assert cell.name.startswith("tuki-custom-") and "-none-none-" in cell.name
    assert record["axes"]["method"] == record["axes"]["prior_class"] == "none" and not record["data"]["subjects"]
    assert record["data"]["base"] == record["weights"] and record["config"]["schedule"]["num_train_steps"] == 0
    assert max(replay.replay(cell)["pictures"].values()) == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["finetuned=/nowhere"], "is no finished fine-tuned model .* give the output folder of train.py"),
        (["finetuned={both}/model"], r"give the folder it lies in: finetuned=.*elsewhere"),
        (["finetuned={world}/pipeline"], r"edited with model.source=.*/pipeline finetuned=base"),
        (["finetuned={both}", "subject.identifier=zwx"], "trained on bnh keanu reeves and tuki justin .*, not on zwx"),
        (["finetuned={both}", "model=sd15"], r"made from model=paperdoll \(embedded\).*add model=paperdoll"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_said(both, world, tmp_path, overrides, message):
    sweep = tiny_study.sweep_of(tmp_path, *(text.format(both=both, world=world) for text in overrides))
    with pytest.raises(InputError, match=message):
        edited.settled(sweep)


@pytest.mark.parametrize(
    "typed", ["method=lora", "schedule.seed=1", "prior_class=none", "train_missing=true", "model.train_batch_size=1"]
)
def test_what_would_train_another_model_is_refused_beside_one_that_is_there(world, tmp_path, typed):
    with pytest.raises(InputError, match=f"{typed} does nothing with finetuned=base, which is not trained here"):
        refuse_idle(tiny_study.sweep_of(tmp_path, "finetuned=base", typed), ["finetuned=base", typed])
    refuse_idle(tiny_study.sweep_of(tmp_path, "finetuned=base"), ["finetuned=base", "subject=tuki", "device=cpu"])


def test_what_is_missing_is_where_the_settings_say(world, tmp_path):
    sweep = tiny_study.sweep_of(tmp_path)
    assert edited.folder_of(sweep) == place.model_folder(sweep) and not edited.is_there(sweep)
    with pytest.raises(InputError, match="Run first:\n  python train"):
        edited.find(sweep, "python train.py")
