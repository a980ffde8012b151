"""W&B runs are really written, offline where there is no login, and their absence breaks nothing."""

import subprocess
import sys

import pytest
from PIL import Image

from likeness.errors import InputError
from likeness.report import tracker

ABOUT = {"project": "likeness", "group": "sweep", "job_type": "edit", "tags": ["tuki"], "config": {"a": {"b": 1}}}


def test_an_offline_run_holds_what_was_logged(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    tracker._said.clear()
    picture = Image.new("RGB", (8, 8), (9, 9, 9))
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "weights").write_bytes(b"1")
    directories = []
    for name in ("one", "two"):  # as in a multirun: two runs in one process
        with tracker.start("auto", name=name, directory=tmp_path / "wandb", **ABOUT) as run:
            run.log({"train/loss": 0.5}, 3)
            run.images("samples/grid", [(picture, "a cake")], 3)
            run.table("edit/pictures", ["seed", "with"], [[0, picture]])
            run.summary({"edit/lpips": 0.25})
            run.artifact("tuki+bnh-lora", "model", tmp_path / "lora")
            run.artifact("tuki-model", "model", tmp_path / "lora", reference=True)
            directories.append(run.directory)
    assert len(set(directories)) == 2
    import wandb

    wandb.teardown()  # the client's own process has written everything when it is gone
    for directory in directories:
        (log,) = directory.glob("*.wandb")
        content = log.read_bytes()
        assert b"edit/lpips" in content and b"train/loss" in content and b"edit/pictures" in content
        assert list(directory.rglob("*.png"))
    assert capsys.readouterr().out.count("wandb sync") == 1


def test_none_imports_no_wandb_and_does_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from likeness.report import tracker\n"
        "with tracker.start('none', project='p', name='n', group='g', job_type='j', tags=[], config={},"
        f" directory=Path({str(tmp_path / 'w')!r})) as run:\n"
        "    run.log({'a': 1.0}, 1); run.table('t', ['x'], [[1]]); run.summary({})\n"
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert not (tmp_path / "w").exists()


def test_an_unreachable_server_turns_into_an_offline_run(tmp_path, monkeypatch, capsys):
    import wandb

    real, asked = wandb.init, []

    def init(**options):
        asked.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("no route to host\nmore")
        return real(**options)

    monkeypatch.setattr(wandb, "init", init)
    tracker._said.clear()
    with tracker.start("online", name="n", directory=tmp_path / "wandb", **ABOUT) as run:
        run.log({"train/loss": 1.0}, 1)
    assert asked == ["online", "offline"] and "no route to host" in capsys.readouterr().out


def test_an_unknown_mode_is_an_error(tmp_path):
    with pytest.raises(InputError, match="auto, online, offline"):
        tracker.start("on", name="n", directory=tmp_path, **ABOUT)
