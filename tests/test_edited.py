"""Cells of a model that is there, named by its folder, and of the base model as it is."""

import json
import shlex
from dataclasses import replace

import pytest
import tiny_study
from tiny_training import train_of

from likeness import command_line, config, replay
from likeness.dreambooth.storage import read_json
from likeness.errors import InputError
from likeness.report.records import read_cells
from likeness.study import edited, place
from likeness.study.cell import run_cell
from likeness.study.dry_run import print_total
from likeness.study.finetune import edit_command, finetune
from likeness.study.idle import refuse_idle
from likeness.study.job import spell_out

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


@pytest.fixture(scope="module")
def lora(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("lora")
    return finetune(train_of(out, "method=lora", "method.lora_rank=2", "sample_every=0"), out / "run", [])


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
        (["finetuned=/nowhere"], "finetuned=/nowhere is not there; give the folder that train.py printed"),
        (["finetuned={both}/model"], r"is inside a fine-tuned model; give its folder: finetuned=.*elsewhere"),
        (["finetuned={both}/model/unet"], r"is inside a fine-tuned model; give its folder: finetuned=.*elsewhere"),
        (["finetuned={killed}"], "is not trained to its end; run its train.py command again"),
        (["finetuned={world}"], "is no fine-tuned model; give the folder that train.py printed"),
        (["finetuned={world}/pipeline"], r"edit such a model with model.source=.*/pipeline finetuned=base"),
        (["finetuned={both}", "subject.identifier=zwx"], "trained on bnh keanu reeves and tuki justin .*, not on zwx"),
        (["finetuned={both}", "model=sd15"], "made from model paperdoll, and this sweep has model=sd15; give it"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_said(both, world, tmp_path, overrides, message):
    (tmp_path / "checkpoint-200").mkdir()
    places = {"both": both, "world": world, "killed": tmp_path}
    sweep = tiny_study.sweep_of(tmp_path, *(text.format(**places) for text in overrides))
    with pytest.raises(InputError, match=message):
        edited.settled(sweep)


@pytest.mark.parametrize(
    "typed",
    [
        "method=lora", "schedule.seed=1", "prior_class=none", "train_missing=true", "model.train_batch_size=1",
        "model.learning_rate.full=3", "subject.instance_prompt=photo of tuki",
    ],
)  # fmt: skip
def test_what_would_train_another_model_is_refused_beside_one_that_is_there(world, tmp_path, typed):
    with pytest.raises(InputError, match=f"{typed} does nothing with finetuned=base, which is not trained here"):
        refuse_idle(tiny_study.sweep_of(tmp_path, "finetuned=base", typed), ["finetuned=base", typed])
    fine = ["finetuned=base", "subject=tuki", "device=cpu", "model.resolution=64"]
    refuse_idle(tiny_study.sweep_of(tmp_path, *fine), fine)


def test_where_its_base_was_does_nothing_with_a_whole_model_and_is_needed_for_a_lora(both, lora, tmp_path):
    for folder in (both, lora):
        typed = [f"finetuned={folder}", "model.resolution=64"]
        with pytest.raises(InputError, match=r"model.resolution=64 does nothing with finetuned="):
            refuse_idle(tiny_study.sweep_of(tmp_path, *typed), typed)
    typed = ["model.source=/elsewhere", f"finetuned={both}"]
    with pytest.raises(InputError, match=r"model.source=/elsewhere does nothing with finetuned="):
        refuse_idle(tiny_study.sweep_of(tmp_path, *typed), typed)
    typed[1] = f"finetuned={lora}"
    sweep = tiny_study.sweep_of(tmp_path, *typed)
    refuse_idle(sweep, typed)
    with pytest.raises(InputError, match="there is no file or folder /elsewhere"):
        edited.check_base(edited.settled(sweep))


def test_a_lora_is_edited_on_the_weights_it_was_made_for_alone(lora, world, tmp_path, monkeypatch):
    cell = cell_of(tmp_path, f"finetuned={lora}", "subject=tuki")
    assert record_of(cell)["axes"]["method"] == "lora" and record_of(cell)["config"]["method"]["lora_rank"] == 2
    settings = lora / "settings.json"
    record = json.loads(settings.read_text())
    other = record | {"identity": record["identity"] | {"model": "0123456789ab"}}
    monkeypatch.setattr(edited.storage, "read_json", lambda path: other if path == settings else read_json(path))
    with pytest.raises(
        InputError, match=r"is a LoRA for the weights 0123456789ab \(model.source=embedded\), and those"
    ):
        edited.find(edited.settled(tiny_study.sweep_of(tmp_path, f"finetuned={lora}")), "python train.py")


def test_a_whole_model_needs_no_base_model_on_this_machine(both, tmp_path, monkeypatch, capsys):
    """As one of sd15 that was copied to a machine without network."""
    given = json.loads((both / "train.json").read_text())
    given["model"] |= {"name": "sd15", "source": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
    monkeypatch.setattr(
        edited.storage, "read_json", lambda path: given if path.name == "train.json" else read_json(path)
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    overrides = ("model=sd15", "metrics=embedded", f"finetuned={both}", "subject=bnh")
    cell_of(tmp_path, *overrides, "dry_run=true")
    assert "MISSING" not in capsys.readouterr().out
    edited.check_base(edited.settled(tiny_study.sweep_of(tmp_path, *overrides)))
    with pytest.raises(InputError, match="is not in the local cache"):
        edited.check_base(tiny_study.sweep_of(tmp_path, "model=sd15"))


def test_the_command_that_train_py_ends_with_edits_what_it_made(both, lora, tmp_path):
    subjects = [config.load_subject(tiny_study.CONF, name) for name in ("bnh", "tuki")]
    typed = {
        both: ["subjects=[bnh,tuki]", "schedule.seed=3", f"out={tmp_path}", "sample_every=0"],
        lora: [
            "method=lora",
            "model.mixed_precision=no",
            "++subject.photos=embedded:tuki",
            "logger=none",
            "method.lora_rank=2",
        ],
    }
    for folder, overrides in typed.items():
        job = replace(spell_out(train_of(tmp_path, *overrides), subjects if folder == both else []), folder=folder)
        command = shlex.split(edit_command(job, overrides))
        assert command[:3] == ["python", "sweep.py", "-m"] and command[-1] == "edit=local,global,reweight"
        command_line.check(command[2:], "sweep.py")
        kept = [word for word in command[3:-1] if not word.startswith("subject=")]
        refuse_idle(tiny_study.sweep_of(tmp_path, *kept), kept)
        assert edited.settled(tiny_study.sweep_of(tmp_path, *kept)).finetuned == str(folder)
    assert command[3:-1] == ["subject=tuki", "++subject.photos=embedded:tuki", "logger=none", f"finetuned={lora}"]


def test_only_the_command_that_trains_says_how_to_edit(lora, tmp_path, capsys):
    train = train_of(lora.parents[2], "method=lora", "method.lora_rank=2", "sample_every=0")
    for overrides, told in (([], True), (None, False)):
        assert finetune(train, tmp_path / "run", [], overrides) == lora
        shown = capsys.readouterr().out
        assert "fine-tuned model: " in shown and ("edit it: python sweep.py" in shown) == told


def test_a_record_finds_its_model_from_elsewhere_and_where_its_folder_went(world, tmp_path, monkeypatch):
    out = tmp_path / "outputs"
    monkeypatch.chdir(tmp_path)
    folder = finetune(train_of("outputs", "sample_every=0", "schedule.num_train_steps=1"), out / "run", [])
    cell = cell_of(out, f"finetuned={folder}")
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert max(replay.replay(cell)["pictures"].values()) == 0
    out.rename(tmp_path / "moved")
    assert max(replay.replay(tmp_path / "moved" / "cells" / cell.name)["pictures"].values()) == 0


def test_what_is_missing_is_where_the_settings_say(world, tmp_path):
    sweep = tiny_study.sweep_of(tmp_path)
    assert edited.folder_of(sweep) == place.model_folder(sweep) and not edited.is_there(sweep)
    with pytest.raises(InputError, match="Run first:\n  python train"):
        edited.find(sweep, "python train.py")
