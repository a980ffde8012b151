"""The two entry points as a user types them, on the embedded model at a few steps; one process each."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SHORT = ("schedule.num_train_steps=2", "prior_class.num_class_images=2", "sampler.num_inference_steps=5")
TRAIN = (*SHORT[:2], "prior_class.num_inference_steps=2", "sample_every=0", "validation_every=0")


def run(entry, *arguments, ok=True, cwd=ROOT):
    """Run an entry point, by default from the repository root; return what it printed."""
    done = subprocess.run(
        [sys.executable, entry, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    shown = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, shown
    return shown


def test_a_typo_and_an_unknown_choice_are_answered_at_once():
    shown = run("sweep.py", "subject=nobody", ok=False)
    assert "bnh" in shown and "tuki" in shown and "Traceback" not in shown
    shown = run("train.py", "schedule.num_train_stepz=3", ok=False)
    assert "'schedule.num_train_stepz'; did you mean schedule.num_train_steps?" in shown and shown.count("\n") == 1
    for entry, typed in (("train.py", "subject=[bnh,tuki]"), ("sweep.py", "model=[paperdoll,sd15]")):
        shown = run(entry, typed, "dry_run=true", ok=False)
        assert f"error: {typed} names several options at once" in shown and shown.count("\n") == 1
    shown = run("sweep.py", "hydra/launcher=joblib", ok=False)
    assert "this is a single one; add -m" in shown and "Traceback" not in shown
    shown = run("train.py", "subject=bnh", "subjects=[bnh,tuki]", ok=False)
    assert "subject=bnh does nothing with subjects=[bnh,tuki]" in shown and "Traceback" not in shown


def test_an_output_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    shown = run("train.py", f"out={tmp_path / 'file' / 'out'}", ok=False)
    assert "cannot write into" in shown and "Traceback" not in shown


def test_a_default_output_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "outputs").write_text("not a folder")
    for entry, *arguments in (("sweep.py",), ("sweep.py", "-m", "target=cake,pizza"), ("train.py",)):
        shown = run(ROOT / entry, *arguments, ok=False, cwd=tmp_path)
        assert shown.count("\n") == 1 and "cannot write into out=outputs" in shown, shown


@pytest.mark.slow
def test_a_report_that_cannot_be_written_is_one_line_and_the_exit_code(swept):
    out, common, _, _ = swept
    runs = out / "full"
    (runs / "report.html").mkdir(parents=True)
    arguments = ("edit=global", "style=watercolor,charcoal", *common, "logger=none")
    shown = run("sweep.py", "-m", *arguments, f"hydra.sweep.dir={runs}", ok=False)
    assert "already there" in shown and "Traceback" not in shown
    assert "error: table and report" in shown and f"python -m likeness.study.gather {runs}" in shown


def test_a_subject_that_is_not_fine_tuned_names_the_command(tmp_path):
    asked = ("subject=bnh", "method=lora", "model.seeds_per_call=2", "edit=local", f"out={tmp_path}")
    shown = run("sweep.py", *asked, ok=False)
    assert f"python train.py subject=bnh method=lora out={tmp_path}" in shown and "Traceback" not in shown
    assert not (tmp_path / "cells").exists()


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A subject fine-tuned for two steps and a sweep over it."""
    out = tmp_path_factory.mktemp("out")
    trained = run("train.py", "subject=tuki", f"out={out}", *TRAIN)
    common = (f"out={out}", *TRAIN[:3], SHORT[2], "seeds=[0,3]")
    printed = run("sweep.py", "-m", "edit=global", "style=watercolor,charcoal", *common)
    return out, common, trained, printed


def rows(cell):
    with (cell / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_leaves_a_model_with_its_settings(swept):
    out, _, trained, _ = swept
    (folder,) = (out / "models" / "paperdoll").iterdir()
    assert str(folder.name) in trained and (folder / "model" / "model_index.json").is_file()
    assert json.loads((folder / "settings.json").read_text())
    assert not list(folder.rglob("*.bin")) and list(folder.rglob("*.safetensors"))


def test_a_sweep_writes_cells_pictures_numbers_and_a_report(swept):
    out, _, _, printed = swept
    cells = sorted((out / "cells").iterdir())
    assert len(cells) == 2
    for cell in cells:
        record = json.loads((cell / "record.json").read_text())
        assert record["status"] == "done" and record["seeds"] == [0, 3]
        table = rows(cell)
        assert [(r["seed"], r["arm"]) for r in table] == [(s, a) for s in "03" for a in ("source", "without", "with")]
        wanted = "subject prior_class model method schedule edit operator source_prompt target_prompt seed arm image"
        assert set(wanted.split()) <= set(table[0]) and all((cell / r["image"]).is_file() for r in table)
        assert {"clip_t", "clip_dir", "lpips", "ssim", "edit_success"} <= set(record["backbones"])
        summary = json.loads((cell / "summary.json").read_text())
        assert summary["n"] == 2 and {"mean", "low", "high"} <= set(summary["metrics"]["lpips"]["difference"])
        assert (cell / "grid.png").is_file()
    report = next(out.glob("runs/*/report.html"))
    assert "watercolor painting" in report.read_text() and str(report) in printed
    assert (out / "wandb").is_dir() and "likeness.report.sync" in printed


def test_the_three_arms_start_from_one_noise_and_p2p_keeps_more_of_the_source(swept):
    """Even a model fine-tuned for two steps shows it: the with-arm is nearer to the source."""
    out = swept[0]
    table = [row for cell in (out / "cells").iterdir() for row in rows(cell)]
    kept = {arm: [float(r["lpips"]) for r in table if r["arm"] == arm] for arm in ("without", "with")}
    assert sum(kept["with"]) < sum(kept["without"]) and min(kept["without"]) > 0


@pytest.mark.slow
def test_the_same_command_again_draws_nothing_and_a_redraw_gives_the_same_bits(swept):
    out, common, _, _ = swept
    cell = next((out / "cells").glob("*watercolor*"))
    before = {path.name: path.read_bytes() for path in (cell / "images").iterdir()}
    again = ("edit=global", "style=watercolor", *common, "logger=none")
    assert "already there" in run("sweep.py", *again)
    run("sweep.py", *again, "overwrite=true")
    assert before == {path.name: path.read_bytes() for path in (cell / "images").iterdir()}


def test_a_record_redraws_its_pictures_or_says_what_differs(swept):

    from likeness.replay import replay

    out = swept[0]
    cell = next((out / "cells").glob("*charcoal*"))
    result = replay(cell)
    # somebody may commit while the tests run
    changed = [what for what in result["changed"] if not what.startswith("environment.git")]
    assert set(result["pictures"].values()) == {0} and not changed and len(result["pictures"]) == 6
    picture = cell / "images" / "seed0003-with.png"
    kept = picture.read_bytes()
    Image.new("RGB", (128, 128)).save(picture)
    try:
        assert replay(cell)["pictures"]["seed0003-with.png"] > 50
    finally:
        picture.write_bytes(kept)


@pytest.mark.slow  # on a tiny world: test_launchers
def test_a_dry_run_lists_cells_and_draws_nothing(swept):
    out, common, _, _ = swept
    shown = run("sweep.py", "-m", "edit=reweight", "weight=-2,4", "dry_run=true", *common)
    assert "blossom x -2" in shown and "blossom x 4" in shown and "6 pictures (2 seeds x 3 arms)" in shown
    assert not list((out / "cells").glob("*reweight*"))


def test_prompt_to_prompts_errors_are_one_line(swept):
    _, common, _, _ = swept
    words = 'source_prompt="photo of tuki justin bieber"', 'target_prompt="drawing of tuki justin bieber on a beach"'
    shown = run("sweep.py", "edit=custom", *words, "edit.operator=replace", *common, ok=False)
    assert "same number of words" in shown and "refine" in shown and "Traceback" not in shown


@pytest.mark.slow
def test_stable_diffusion_from_a_local_folder_trains_the_same_way(tiny_sd, tmp_path):
    model = ("model=sd15", f"model.source={tiny_sd}", "model.resolution=64", f"out={tmp_path}", "method=lora")
    run("train.py", "subject=tuki", *model, *TRAIN, "logger=none")
    (folder,) = (tmp_path / "models" / "sd15").iterdir()
    assert (folder / "lora" / "pytorch_lora_weights.safetensors").is_file()
    common = (*model, *TRAIN[:3], SHORT[2], "seeds=[0]", "logger=none")
    shown = run("sweep.py", "edit=local", *common, "metrics=standard", ok=False)
    assert "clip-vit-large-patch14" in shown and "Traceback" not in shown
    run("sweep.py", "edit=local", *common, "metrics=embedded")
    (cell,) = (tmp_path / "cells").iterdir()
    assert rows(cell)[0]["model"] == "sd15"


def test_the_hub_is_not_reached_offline_and_the_error_helps(tmp_path):
    shown = run("train.py", "subject=tuki", "model=sd15", f"out={tmp_path}", ok=False)
    assert "stable-diffusion-v1-5" in shown and "Traceback" not in shown
    assert "model.source" in shown or "hf download" in shown or "huggingface" in shown.lower()
