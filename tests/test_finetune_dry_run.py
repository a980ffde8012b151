"""What a dry run of train.py tells, from what it reads alone: it writes and downloads nothing."""

import json
import shutil

import pytest
import tiny_study
from tiny_training import train_of

from likeness import config, models
from likeness.dreambooth import storage
from likeness.errors import InputError
from likeness.paperdoll import photos as shipped
from likeness.study.finetune import finetune
from likeness.study.job import spell_out

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_tells_what_would_be_trained_and_writes_nothing(world, tmp_path, capsys):
    shutil.copytree(shipped.paths("tuki")[0].parent, tmp_path / "photos")
    for caption in sorted((tmp_path / "photos").glob("*.txt"))[3:]:
        caption.unlink()
    count = len(shipped.paths("tuki"))
    own = (f"subject.photos={tmp_path / 'photos'}", "schedule.num_train_steps=40", "model.train_text_encoder=0.5")
    before = files(tmp_path)
    folder = finetune(train_of(tmp_path, *own, "dry_run=true"), tmp_path / "run", [])
    assert files(tmp_path) == before and not folder.exists()
    shown = capsys.readouterr().out.splitlines()
    assert "tuki · paperdoll · full · standard" in shown and "  base    embedded: there" in shown
    captions = "3 with captions of their own; else: photo of tuki justin bieber"
    assert f"  photos  {count} of tuki justin bieber, {captions}" in shown
    assert any(line.startswith("  class   8 pictures: 0 there, 8 to draw, in ") for line in shown)
    assert "  steps   40, learning rate 0.01, of the text encoder 0.01 in the first 20 (cosine)" in shown
    assert "  starts  anew" in shown and shown[-1] == f"would train tuki for 40 steps into {folder}"
    finetune(train_of(tmp_path, *own, "dry_run=true", "prior_class=none"), tmp_path / "run", [])
    assert "  class   no pictures, no prior preservation" in capsys.readouterr().out


def test_a_dry_run_of_two_subjects_tells_of_both(world, tmp_path, capsys):
    subjects = [config.load_subject(tiny_study.CONF, name) for name in ("bnh", "tuki")]
    finetune(train_of(tmp_path, "subjects=[bnh,tuki]", "dry_run=true"), tmp_path / "run", subjects)
    shown = capsys.readouterr().out
    assert shown.count("  photos ") == 2 and shown.count("8 to draw") == 2, "each its own class"
    named = ("subjects=[bnh,tuki]", "prior_class=keanu_reeves", "dry_run=true")
    finetune(train_of(tmp_path, *named), tmp_path / "run", subjects)
    assert capsys.readouterr().out.count("8 to draw") == 1, "pictures of one class are drawn once"


def test_a_dry_run_knows_where_a_training_begins(world, tmp_path, capsys):
    train = train_of(tmp_path, "dry_run=true")
    job = spell_out(train, [])
    identity = storage.identity(models.weights_id(job.base), job.concepts, job.settings)

    def pretend(step, size, identity=identity):
        checkpoint = job.folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "trainable.safetensors").write_bytes(b"12345678")
        state = {"identity": identity, "files": {"trainable.safetensors": [size, "hash"]}}
        (checkpoint / "state.json").write_text(json.dumps(state))

    def start():
        before = files(tmp_path)
        finetune(train, tmp_path / "run", [])
        assert files(tmp_path) == before
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  starts"))

    pretend(9, 8), pretend(10, 8), pretend(11, 7)
    assert start().endswith("goes on from checkpoint-10"), "the newest by number that is not torn"
    with storage.locked(job.folder):
        assert "not now: another training is running" in start()
    pretend(10, 8, identity | {"model": "another"})
    assert "not: " in (refused := start()) and "holds a run with other settings (model: another -> " in refused


@pytest.mark.parametrize("offline", [True, False])
def test_a_dry_run_tells_whether_a_missing_base_model_would_be_downloaded(tmp_path, monkeypatch, capsys, offline):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
    model = ("model=sd15", "model.revision=fp16", "model.variant=fp16", "sample_every=0", "dry_run=true")
    folder = finetune(train_of(tmp_path, *model), tmp_path / "run", [])
    shown = capsys.readouterr().out
    assert "  MISSING base model stable-diffusion-v1-5/stable-diffusion-v1-5\n" in shown
    assert ("is not in the local cache and downloads are off" in shown) == offline
    assert ("will be downloaded before training" in shown) != offline
    assert "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --revision fp16 --include '*.fp16." in shown
    assert "8 pictures, drawn by the base model where they are not there yet" in shown
    assert "  starts  anew, once the base model is there" in shown and f"for 4 steps into {folder}" in shown
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="there is no file or folder /nowhere/model"):
        finetune(train_of(tmp_path, *model[:1], *model[-2:], "model.source=/nowhere/model"), tmp_path / "run", [])


def test_a_dry_run_downloads_nothing_to_name_a_single_file(tmp_path, monkeypatch, capsys):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(models, "_download", lambda *args, **kwargs: pytest.fail("it asked the hub"))
    file = tmp_path / "model.safetensors"
    file.write_bytes((2).to_bytes(8, "little") + b"{}")
    model = ("model=sd15", f"model.source={file}", "sample_every=0", "dry_run=true")
    assert finetune(train_of(tmp_path, *model), tmp_path / "run", []) is None
    shown = capsys.readouterr().out
    assert f"  MISSING base model {file}\n" in shown and "--include '*.json' 'tokenizer/*'" in shown
    assert "  starts  once the base model is there" in shown and "named by the hash of the base model" in shown
