"""The use case behind train.py on a tiny drawn world: notices, health of checkpoints, the ladder."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny_training import SMALL, train_of

from likeness import dreambooth, metrics, models
from likeness.dreambooth import storage
from likeness.dreambooth.storage import read_json
from likeness.errors import InputError
from likeness.paperdoll import photos as shipped
from likeness.report.tracker import Run
from likeness.study import finetune as module
from likeness.study import ladder, place
from likeness.study.finetune import finetune
from likeness.study.health import Health, roles_of
from likeness.study.job import spell_out
from likeness.subjects import crop_photo, open_photo, to_tensor

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


class Recorder(Run):
    """A tracker run that keeps what it is told."""

    def __init__(self):
        self.logged, self.pictures, self.tables, self.summed = {}, [], {}, {}

    def log(self, values, step=None):
        self.logged.setdefault(step, {}).update(values)

    def images(self, key, pictures, step=None):
        self.pictures.append((key, step, pictures))

    def table(self, key, columns, rows):
        self.tables[key] = (columns, rows)

    def summary(self, values):
        self.summed.update(values)


@pytest.fixture
def recorder(monkeypatch):
    run = Recorder()
    monkeypatch.setattr(module.tracking, "start_run", lambda *args, **kwargs: run)
    return run


def history(folder):
    with (folder / "history.csv").open() as stream:
        return {int(row["step"]): row for row in csv.DictReader(stream)}


def test_drift_and_bleeding_are_measured_while_training(world, tmp_path, recorder, capsys):
    train = train_of(tmp_path, "subject=tuki")
    folder = finetune(train, tmp_path / "run", [])
    rows = history(folder)
    names = {
        "subject_clip_i", "subject_identity_distance", "subject_clip_t", "subject_asked_shown", "prior_drift_lpips",
        "prior_drift_clip", "prior_bleed_identity", "prior_class_read", "other_drift_lpips", "other_bleed_clip_i",
        "other_bleed_identity", "other_class_read", "prior_diversity_lpips", "other_diversity_lpips",
        "prior_pres_identity_distance",
    }  # fmt: skip
    assert {f"health/{name}" for name in names} <= set(rows[4])
    for name in ("prior_drift_lpips", "other_drift_lpips", "other_bleed_identity"):
        assert abs(float(rows[0][f"health/{name}"])) < 1e-6, "the base model has not drifted from itself"
    assert float(rows[4]["health/prior_drift_lpips"]) > 1e-4 and float(rows[4]["health/other_drift_lpips"]) > 1e-4
    for step, row in rows.items():
        for name in names if step in (0, 4) else ():
            assert recorder.logged[step][f"health/{name}"] == float(row[f"health/{name}"])
    assert recorder.summed["health/prior_drift_lpips"] == float(rows[4]["health/prior_drift_lpips"])
    assert [(key, step) for key, step, _ in recorder.pictures] == [
        ("samples/grid", 0), ("samples/before_after", 4), ("samples/grid", 4)
    ]  # fmt: skip
    captions = [caption for _, caption in recorder.pictures[0][2]]
    assert any("photo of keanu reeves" in c for c in captions) and any("photo of a woman" in c for c in captions)
    with Image.open(folder / "samples" / "before-after-000004.png") as sheet:
        assert sheet.width > 4 * 160 and sheet.height > 7 * 160
    assert "health/other_bleed_identity" in (folder / "README.md").read_text()
    page = (folder / "report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in names) and "data:image/webp" in page
    assert storage.newest_checkpoint(folder)[0].name == "checkpoint-4", "whole, by its files' sizes"
    recorder.logged.clear()
    finetune(train, tmp_path / "again", [])
    assert not recorder.logged and (tmp_path / "again" / "model.txt").read_text().strip() == str(folder.resolve())
    train.dry_run = True
    finetune(train, tmp_path / "dry", [])
    shown = capsys.readouterr().out
    assert f"nothing to train: {folder} is finished" in shown and "  class" not in shown and "  starts" not in shown
    finetune(train_of(tmp_path, "schedule.learning_rate=0.02", "dry_run=true"), tmp_path / "dry", [])
    assert "  class   8 pictures: 8 there, 0 to draw, in " in capsys.readouterr().out, "another training takes them"


def test_the_ladder_prints_its_table_and_keeps_the_knee(world, tmp_path, recorder, capsys):
    train = train_of(tmp_path, "subject=bnh", "schedule=find", "schedule.ladder=2", "method=lora", "sample_every=0")
    folder = finetune(train, tmp_path / "run", [])
    with (folder / "ladder.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["0", "2", "4"]
    (knee,) = [int(row["step"]) for row in rows if row["knee"]]
    shown = capsys.readouterr().out
    assert "<- knee" in shown and f"kept: step {knee}" in shown and "prior drift: prior_drift_lpips" in shown
    assert "subject_identity_distance (lower is nearer)" in shown
    assert recorder.summed["ladder/knee"] == knee and recorder.tables["ladder"][0][0] == "step"
    record = read_json(folder / "settings.json")
    assert record["step"] == knee and record["identity"]["settings"]["ladder"] == 2
    assert folder != place.model_folder(train_of(tmp_path, "subject=bnh", "schedule=find", "method=lora"))
    other = 6 - knee
    file = folder / "settings.json"
    file.write_text(file.read_text().replace(f'"step": {knee}', f'"step": {other}'))
    finetune(train, tmp_path / "again", [])
    shown = capsys.readouterr().out
    assert f"kept: step {other}" in shown and f"step {knee} would be kept" in shown, "what was kept counts"


def test_what_the_embedded_model_cannot_learn_is_said_before_the_work(world, tmp_path, monkeypatch, capsys):
    shutil.copytree(shipped.paths("tuki")[0].parent, tmp_path / "photos")
    seen = []

    def stop(*args, **kwargs):
        seen.append(capsys.readouterr().out)
        raise InputError("stopped before training")

    monkeypatch.setattr(dreambooth, "train", stop, raising=False)
    own = (f"subject.photos={tmp_path / 'photos'}", "subject.instance_prompt=photo of tuki justin bieber sailing")
    with pytest.raises(InputError, match="stopped before"):
        finetune(train_of(tmp_path, *own), tmp_path / "run", [])
    assert "draws paper dolls only" in seen[0] and "never shown: sailing;" in seen[0]
    with pytest.raises(InputError, match="stopped before"):
        finetune(train_of(tmp_path), tmp_path / "run", [])
    assert "note:" not in seen[1], "nothing to say about the shipped subject"


def test_a_training_within_a_sweep_leaves_the_sweeps_bar_alone(world, tmp_path, recorder, capsys):
    from likeness.study import progress

    progress.start(1)
    try:
        finetune(train_of(tmp_path, "schedule.num_train_steps=1", "sample_every=0"), tmp_path / "run", [])
    finally:
        progress.stop()
    shown = capsys.readouterr().err
    assert "fine-tuning:" not in shown and "class pictures:" not in shown


def test_a_word_of_the_embedded_models_language_is_no_identifier(world, tmp_path):
    train = train_of(tmp_path, "subject.identifier=blossom")
    with pytest.raises(InputError, match="'blossom' is a common word of the embedded"):
        finetune(train, tmp_path / "run", [])


@pytest.mark.parametrize("how", ["dry_run=true", "dry_run=false"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("prior_class.folder=/nowhere",), "class folder /nowhere does not exist"),
        (("model.mixed_precision=fp16", "device=cpu"), "float16 does not run on the CPU"),
        (("device=tpu",), "device=tpu is unknown"),
    ],
)
def test_what_cannot_be_done_is_said_before_a_run_is_opened(world, tmp_path, monkeypatch, how, options, message):
    monkeypatch.setattr(module.tracking, "start_run", lambda *args, **kwargs: pytest.fail("a run was opened"))
    with pytest.raises(InputError, match=message):
        finetune(train_of(tmp_path, *options, how), tmp_path / "run", [])


def test_an_unfinished_run_with_other_settings_beside_it_is_named(world, tmp_path, capsys):
    then, now = (train_of(tmp_path, f"schedule.learning_rate={rate}", "dry_run=true") for rate in (0.01, 0.02))
    job = spell_out(then, [])
    identity = storage.identity(models.weights_id(job.base), job.concepts, job.settings)
    (job.folder / "checkpoint-2").mkdir(parents=True)
    (job.folder / "checkpoint-2" / "state.json").write_text(json.dumps({"identity": identity}))
    finetune(now, tmp_path / "run", [])
    shown = capsys.readouterr().out
    assert f"{job.folder.name} beside it is unfinished" in shown
    assert "(settings.learning_rate: 0.01 -> 0.02; then -> now). Restore them" in shown
    finetune(then, tmp_path / "run", [])
    with storage.locked(job.folder):
        finetune(now, tmp_path / "run", [])
    assert "is unfinished" not in capsys.readouterr().out, "neither of itself nor of one that is being trained"


def test_without_the_judges_a_training_says_so_and_a_ladder_refuses(tmp_path, tiny_sd, monkeypatch, capsys):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    model = ("model=sd15", f"model.source={tiny_sd}", "dry_run=true")
    finetune(train_of(tmp_path, *model), tmp_path / "run", [])
    shown = capsys.readouterr().out
    assert "bleeding are not measured" in shown and "clip-vit-large-patch14" in shown and "would train tuki" in shown
    with pytest.raises(InputError, match="clip-vit-large-patch14"):
        finetune(train_of(tmp_path, *model, "schedule=find", "schedule.ladder=2"), tmp_path / "run", [])


@pytest.fixture
def grid(world, tmp_path):
    """Health of a subject known from one photo, and pictures of a base model for every prompt."""
    train = train_of(tmp_path, "subject=tuki")
    photos = place.photos_of(train.subject)[:1]
    roles = roles_of(train, train.subject, photos, [train.subject.class_word])
    noise = torch.Generator().manual_seed(0)
    base = {
        prompt: [Image.fromarray(torch.randint(256, (128, 128, 3), generator=noise, dtype=torch.uint8).numpy())] * 2
        for prompt in roles.prompts
    }
    return Health([roles], "embedded", "cpu"), roles, base


def test_roles_of_prompts(grid, tmp_path):
    _, roles, _ = grid
    assert roles.prior == ("photo of justin bieber",)
    assert roles.other == ("photo of a man", "photo of a woman", "photo of keanu reeves")
    assert all("tuki" in prompt for prompt in roles.own) and len(roles.own) == 3
    train = train_of(tmp_path, "sample_prompts=[drawing of tuki justin bieber, photo of a man]")
    assert roles_of(train, train.subject, [], ["justin bieber", "man"]).other == (
        "photo of a woman", "photo of keanu reeves"
    )  # fmt: skip
    assert roles_of(train, train.subject, [], []).own == ("drawing of tuki justin bieber",)
    train.sample_prompts = ["photo of a man"]
    assert roles_of(train, train.subject, [], []).own == ("photo of tuki justin bieber",)


def test_other_classes_that_turn_into_the_subject_are_bleeding(grid):
    health, roles, base = grid
    photo = crop_photo(open_photo(roles.photos[0].path), 128, None)
    bled = base | {prompt: [photo] * 2 for prompt in roles.other}
    values = health(dreambooth.Samples(5, bled, base))
    assert values["health/other_drift_lpips"] > 0.01 and values["health/other_bleed_clip_i"] > 0.001
    assert values["health/other_bleed_identity"] == pytest.approx(1, abs=1e-3), "all the way to the subject"
    assert values["health/prior_drift_lpips"] == pytest.approx(0, abs=1e-5), "its own class was left alone"
    assert values["health/prior_bleed_clip_i"] == pytest.approx(0, abs=1e-5)
    drifted = base | {prompt: [photo] * 2 for prompt in roles.prior}
    values = health(dreambooth.Samples(5, drifted, base))
    assert values["health/prior_drift_lpips"] > 0.01
    assert values["health/other_bleed_clip_i"] == pytest.approx(0, abs=1e-5)
    learnt = base | {prompt: [photo] * 2 for prompt in roles.own}
    nearer = health(dreambooth.Samples(5, learnt, base))
    assert nearer["health/subject_clip_i"] == pytest.approx(1, abs=1e-4)
    assert values["health/subject_clip_i"] < 0.999
    name = "health/subject_identity_distance"
    assert nearer[name] < 0.1 * values[name]


def test_a_class_whose_pictures_grow_alike_has_lost_diversity(grid):
    health, roles, _ = grid
    noise = torch.Generator().manual_seed(1)

    def picture():
        return Image.fromarray(torch.randint(256, (128, 128, 3), generator=noise, dtype=torch.uint8).numpy())

    varied = {prompt: [picture(), picture(), picture()] for prompt in roles.prompts}
    alike = varied | {prompt: [varied[prompt][0]] * 3 for prompt in roles.prior}
    before = health(dreambooth.Samples(0, varied, varied))
    judge = metrics.build_subject("embedded", device="cpu")
    each = [
        float(judge.diversity(torch.stack([to_tensor(p) for p in varied[prompt]]))["diversity_lpips"])
        for prompt in roles.other
    ]
    assert before["health/other_diversity_lpips"] == pytest.approx(sum(each) / len(each), rel=1e-4)
    assert before["health/prior_diversity_lpips"] > 0.001
    after = health(dreambooth.Samples(5, alike, varied))
    assert after["health/prior_diversity_lpips"] == pytest.approx(0, abs=1e-6)
    assert after["health/other_diversity_lpips"] == pytest.approx(before["health/other_diversity_lpips"], rel=1e-4)
    health.seen.clear()
    one = {prompt: images[:1] for prompt, images in varied.items()}
    assert "health/prior_diversity_lpips" not in health(dreambooth.Samples(5, one, one))


def row(likeness, shown, drift, bleed):
    names = ("subject_clip_i", "subject_clip_t", "prior_drift_lpips", "other_bleed_clip_i")
    values = zip(names, (likeness, shown, drift, bleed), strict=True)
    return {f"health/{n}": v for n, v in values} | {"train/loss": 1.0}


def test_the_knee_is_where_more_costs_more_than_it_brings():
    rows = {
        0: row(0.50, 0.30, 0.00, 0.00),
        100: row(0.60, 0.30, 0.05, 0.01),
        200: row(0.79, 0.29, 0.10, 0.02),
        300: row(0.81, 0.25, 0.30, 0.10),
        400: row(0.82, 0.20, 0.50, 0.30),
    }
    scored = ladder.score(rows)
    assert scored.knee == 200 and not scored.notices
    assert scored.rungs[0].gain == scored.rungs[0].cost == 0 and scored.rungs[-1].gain == scored.rungs[-1].cost == 1
    assert scored.columns["bleeding"] == "other_bleed_clip_i"
    rising = {step: row(0.5 + step / 1000, 0.3, 0.0, 0.0) for step in (0, 100, 200)}
    assert ladder.score(rising).knee == 200 and "beyond" in ladder.score(rising).notices[0]
    lost = {step: row(0.5 - step / 1000, 0.3, 0.0, 0.0) for step in (0, 100, 200)}
    assert "nearer to the subject" in ladder.score(lost).notices[0]


def test_of_equal_checkpoints_the_shortest_is_the_knee_and_one_alone_is_no_choice():
    rows = {0: row(0.5, 0.3, 0.0, 0.0)} | {s: row(0.8, 0.3, 0.0, 0.0) for s in (100, 200, 300)}
    rows[300]["health/subject_clip_i"] += 1e-9  # what arithmetic makes of an equal value
    assert ladder.score(rows).knee == 100
    alone = ladder.score({step: rows[step] for step in (0, 100)})
    assert alone.knee == 100 and "one checkpoint" in alone.notices[0] and len(alone.notices) == 1
    with pytest.raises(InputError, match="lacks step 0, 200"):
        ladder.rows_of({100: rows[100]}, [100, 200])


def test_what_was_not_measured_everywhere_is_not_scored_and_said():
    """Of one subject only, or missing at one checkpoint: its mean would change without the pictures."""
    of_both = ("subject_clip_i", "subject_clip_t")
    rows = {}
    for step, likeness in ((0, 0.5), (100, 0.7), (200, 0.9)):
        rows[step] = {f"health/{who}/{name}": likeness for who in "ab" for name in of_both}
        rows[step] |= {"health/a/prior_drift_lpips": likeness, "health/a/subject_identity_distance": 0.1}
    del rows[100]["health/b/subject_clip_t"]
    scored = ladder.score(rows)
    assert scored.columns == {"likeness": "subject_clip_i"} and scored.knee == 200
    assert [n.split(" was not measured")[0] for n in scored.notices[1:]] == [
        "prompt fidelity", "prior drift", "bleeding"
    ]  # fmt: skip
    with pytest.raises(InputError, match="holds none of subject_identity_distance, subject_dino, subject_clip_i"):
        ladder.score({step: {"train/loss": 1.0} for step in rows})


def test_small_changes_are_no_cost_and_a_shorter_distance_is_a_gain():
    rows = {s: row(0.5, 0.3, 1e-4 * s / 100, 0.0) for s in (0, 100, 200)}
    for step, distance in ((0, 0.9), (100, 0.5), (200, 0.4)):
        rows[step] |= {"health/a/subject_identity_distance": distance, "health/b/subject_identity_distance": distance}
    scored = ladder.score(rows)
    assert scored.columns["likeness"] == "subject_identity_distance" and scored.knee == 200
    assert scored.rungs[2].cost < 0.01 and scored.rungs[1].gain == pytest.approx(0.8)


LAUNCH = {  # accelerate's --cpu starts one process alone; --multi_gpu is its torchrun, on whatever device there is
    "torchrun": "torch.distributed.run --nproc_per_node=2 --standalone",
    "accelerate": "accelerate.commands.launch --multi_gpu --num_processes=2 --num_machines=1 --mixed_precision=no "
    "--dynamo_backend=no --main_process_port=0",
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("launcher", LAUNCH)
def test_two_processes_train_one_model_in_one_folder_with_one_tracked_run(world, tmp_path, launcher):
    """Rank 1 prints, tracks and writes nothing; class pictures are split between the processes."""
    command = [sys.executable, "-m", *LAUNCH[launcher].split(), "train.py"]
    options = [f"out={tmp_path}", *(o for o in SMALL if o != "logger=none"), "prior_class.num_class_images=16"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [*command, "subject=tuki", *options], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "models" / "paperdoll").iterdir()
    assert dreambooth.is_finished(folder) and set(history(folder)) == {0, 4}
    assert read_json(folder / "checkpoint-4" / "state.json")["world"] == 2
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "model.txt").read_text().strip() == str(folder.resolve())
    assert len(list((tmp_path / "wandb").rglob("offline-run-*"))) == 1
    assert len(list((tmp_path / "class_images").rglob("0*.png"))) == 16
    assert done.stdout.count("fine-tuned model:") == 1 and not list(root.glob("train.log"))


@pytest.mark.parametrize("offline", [True, False])
def test_a_tracked_run_is_told_the_past_only_where_it_is_a_new_one(offline):

    told = []
    run = SimpleNamespace(offline=offline, log=lambda values, step: told.append((step, values)))
    module._forward(dreambooth.Event("past", 3, {"train/loss": 0.5}), run)
    module._forward(dreambooth.Event("log", 4, {"train/loss": 0.4}), run)
    assert told == [(3, {"train/loss": 0.5})] * offline + [(4, {"train/loss": 0.4})]
