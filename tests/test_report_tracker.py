"""W&B runs are really written, offline where there is no login, and their absence breaks nothing."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cells_on_disk import write_cell
from PIL import Image

from likeness.errors import InputError
from likeness.report import tracker
from likeness.report.records import read_cells
from likeness.study import tracking
from likeness.study.tracking import log_cell

ABOUT = {"project": "likeness", "group": "sweep", "job_type": "edit", "tags": ["tuki"], "config": {"a": {"b": 1}}}


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    tracker._said.clear()


@pytest.fixture
def no_account(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def inspect(directory, *options):
    """Return what the client's own reader finds in an offline run: its records, or with --summary one object."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(directory)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out) if options else [json.loads(line) for line in out.splitlines()]


def test_an_offline_run_holds_what_was_logged(tmp_path, no_account, capsys):
    folder = write_cell(tmp_path, "tuki-local-cake-00000000")
    Image.new("RGB", (30, 20)).save(folder / "attention.png")
    (cell,), _ = read_cells([folder])
    rows = [{**row, "seed": int(row["seed"])} for row in cell.rows]
    rows = [{k: float(v) if k in ("lpips", "edit_success") and v else v for k, v in row.items()} for row in rows]
    picture = Image.new("RGB", (8, 8), (9, 9, 9))
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "weights").write_bytes(b"1")
    directories = []
    with tracker.start("auto", name="train", directory=tmp_path / "wandb", **ABOUT | {"job_type": "train"}) as run:
        for step, loss in ((1, 0.5), (2, 0.25), (3, 0.75)):
            run.log({"train/loss": loss, "validation/loss": loss}, step)
        run.images("samples/grid", [(picture, "a cake")], 3)
        run.artifact("tuki+bnh-lora-1234", "model", tmp_path / "lora")
        run.artifact("tuki-model-1234", "model", tmp_path / "lora", reference=True)
        run.summary({"train/loss": 0.75, "validation/loss": 0.75})
        directories.append(run.directory)
    with tracker.start("auto", name="edit", directory=tmp_path / "wandb", **ABOUT) as run:  # in the same process
        run.uses("tuki-model-1234", "model")  # nothing to link to offline: no error
        log_cell(run, folder, cell.record, rows, cell.summary)
        directories.append(run.directory)
    assert len(set(directories)) == 2 and capsys.readouterr().out.count("python -m likeness.report.sync") == 1
    import wandb

    wandb.teardown()  # the client's own process has written everything when it is gone
    check_training(inspect(directories[0], "--summary"), inspect(directories[0]))
    check_editing(inspect(directories[1], "--summary"), inspect(directories[1]), cell)


def history(records, key):
    """Return the values logged under a key, in order."""
    return [r["history"]["item"][key] for r in records if r["type"] == "history" and key in r["history"]["item"]]


def check_training(found, records):
    assert found["summary"]["train/loss"] == 0.75 and found["summary"]["validation/loss"] == {"min": 0.25}
    assert history(records, "train/loss") == [0.5, 0.25, 0.75] and history(records, "train/step")[:3] == [1, 2, 3]
    artifacts = json.dumps([r for r in records if r["type"] == "artifact"])
    assert "tuki-bnh-lora-1234" in artifacts and "tuki-model-1234" in artifacts and "file://" in artifacts


def check_editing(found, records, cell):
    (run,) = [r["run"] for r in records if r["type"] == "run"]
    assert (run["run_group"], run["job_type"], run["display_name"]) == ("sweep", "edit", "edit")
    assert found["tags"] == ["tuki"] and found["config"] == {"a": {"b": 1}} and found["exit_code"] == 0
    entry, numbers = cell.summary["metrics"]["lpips"], found["summary"]
    assert numbers["edit/lpips"] == entry["with"] and numbers["edit/lpips_without"] == entry["without"]
    assert numbers["edit/lpips_difference_low"] == entry["difference"]["low"] and numbers["edit/n"] == 4
    assert numbers["seed/lpips"] == {"mean": pytest.approx(entry["with"])}  # what W&B computes of the seeds agrees
    assert history(records, "seed/seed") == [0, 1, 2, 3]
    (files,) = [r["artifact"]["manifest"]["contents"] for r in records if r["type"] == "artifact"]
    files = {file["path"]: Path(file["local_path"]) for file in files}
    table = json.loads(files["edit/pictures.table.json"].read_text())
    row = dict(zip(table["columns"], table["data"][2], strict=True))
    for arm in ("source", "without", "with"):  # side by side, and really the pictures
        logged = Image.open(files[row[arm]["path"]]).convert("RGB")
        assert logged.tobytes() == Image.open(cell.folder / f"images/seed0002-{arm}.png").convert("RGB").tobytes()
    assert {"lpips/with", "lpips/without", "edit_success/with"} <= set(row) and len(table["data"]) == 4
    wanted = next(r for r in cell.rows if r["seed"] == "2" and r["arm"] == "with")
    assert row["seed"] == 2 and row["lpips/with"] == float(wanted["lpips"])
    assert numbers["edit/grid"]["count"] == numbers["edit/attention"]["count"] == 1


class Remembered(tracker.Run):
    """Remembers the table and what is linked."""

    def table(self, key, columns, rows):
        self.tables = {key: len(rows)}

    def uses(self, name, kind):
        self.used = (name, kind)


def test_a_cell_is_easy_to_find_among_runs(tmp_path, monkeypatch):
    run, asked = Remembered(), {}
    monkeypatch.setattr(tracker, "start", lambda mode, **options: asked.update(options, mode=mode) or run)
    monkeypatch.setattr(tracking, "to_plain", lambda _: {"edit": {"name": "global"}})
    axes = {"edit": "global", "style": "van gogh", "target": None, "method": "lora", "model": "paperdoll"}
    folder = write_cell(tmp_path, "tuki-global-van_gogh-lora-0123abcd", axes=axes, weights="w@1")
    (cell,), _ = read_cells([folder])
    rows = [{**row, "seed": int(row["seed"]), "lpips": 0.1, "edit_success": 1.0} for row in cell.rows]
    sweep = SimpleNamespace(logger=SimpleNamespace(mode="auto", project="mine", entity="ours"), out=str(tmp_path))
    run_dir, finetuned = tmp_path / "2026_sweep" / "3", tmp_path / "tuki-lora-9"
    tracking.track_cell(sweep, run_dir, folder, cell.record, rows, cell.summary, finetuned)
    assert (asked["name"], asked["group"], asked["job_type"]) == (
        "tuki-global-van_gogh-lora-0123abcd",
        "2026_sweep",
        "edit",
    )
    assert asked["tags"] == ["tuki", "global", "lora", "paperdoll", "van gogh"] and asked["project"] == "mine"
    assert asked["entity"] == "ours"
    about = asked["config"]["cell"]
    assert about["style"] == "van gogh" and about["weights"] == "w@1" and about["finetuned"] == "tuki-lora-9"
    assert about["alike"] == tracking.alike(cell.record)
    assert asked["config"]["edit"] == {"name": "global"}
    assert run.used == ("tuki-lora-9", "model") and run.tables == {"edit/pictures": 4}


def test_none_imports_no_wandb_and_does_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from likeness.report import tracker\n"
        "with tracker.start('none', project='p', name='n', group='g', job_type='j', tags=[], config={},"
        f" directory=Path({str(tmp_path / 'w')!r})) as run:\n"
        "    run.log({'a': 1.0}, 1); run.table('t', ['x'], [[1]]); run.summary({}); run.uses('m', 'model')\n"
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
    with tracker.start("online", name="n", directory=tmp_path / "wandb", **ABOUT) as run:
        run.log({"train/loss": 1.0}, 1)
    assert asked == ["online", "offline"] and "no route to host" in capsys.readouterr().out


def test_interrupted_work_goes_on_in_the_same_run(tmp_path, monkeypatch):
    import wandb

    asked = []

    def init(**options):
        asked.append((options.get("id"), options.get("resume")))
        return SimpleNamespace(
            url="u", dir=str(tmp_path / "x" / "files"), define_metric=lambda *_, **__: None, finish=lambda **_: None
        )

    monkeypatch.setattr(wandb, "init", init)
    for mode, folder in (("online", "a"), ("online", "a"), ("online", "b"), ("offline", "a")):
        file = tmp_path / folder / "wandb-run.txt"
        with tracker.start(mode, name="n", directory=tmp_path / "wandb", **ABOUT, continued=file):
            pass
    (first, how), again, other, offline = asked
    assert again == (first, "allow") == (first, how) and first and other[0] not in (first, None)
    assert offline == (None, None), "W&B cannot continue a run offline"


def test_where_nothing_can_be_written_nothing_is_recorded(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    with tracker.start("offline", name="n", directory=tmp_path / "file" / "wandb", **ABOUT) as run:
        run.log({"train/loss": 1.0}, 1)
    assert type(run) is tracker.Run and "recording nothing" in capsys.readouterr().out


def test_a_tag_that_wandb_refuses_costs_no_run(tmp_path):
    import wandb

    style = "an oil painting in the manner of a master whose name is longer than a tag may be"
    given = ABOUT | {"tags": ["tuki", style, "", " ", "tuki"]}
    with tracker.start("offline", name="n", directory=tmp_path / "wandb", **given) as run:
        run.log({"train/loss": 1.0}, 1)
    wandb.teardown()
    assert inspect(run.directory, "--summary")["tags"] == ["tuki", style[:64].strip()]


def test_a_failing_login_goes_offline_and_says_so(tmp_path, no_account, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    with tracker.start("auto", name="n", directory=tmp_path / "wandb", **ABOUT) as run:
        run.log({"train/loss": 1.0}, 1)
    said = capsys.readouterr().out
    assert run.offline and said.count("the W&B login failed") == 1 and "WANDB_API_KEY" in said


def staged_files(run):
    """Return the files that an offline run's artifacts, tables included, are uploaded from."""
    manifests = [r["artifact"]["manifest"]["contents"] for r in inspect(run.directory) if r["type"] == "artifact"]
    return [Path(file["local_path"]) for files in manifests for file in files if "local_path" in file]


@pytest.mark.parametrize("named", [False, True])
def test_an_offline_run_leaves_nothing_outside_its_folder(tmp_path, monkeypatch, named):
    import wandb

    elsewhere = tmp_path / "elsewhere"
    monkeypatch.delenv("WANDB_DATA_DIR")
    if named:
        monkeypatch.setenv("WANDB_DATA_DIR", str(elsewhere))
    (tmp_path / "weights").write_bytes(b"1")
    for out in ("first", "second"):  # in one process
        folder = tmp_path / out / "wandb"
        with tracker.start("offline", name="n", directory=folder, **ABOUT) as run:
            run.table("edit/pictures", ["with"], [[Image.new("RGB", (8, 8), (9, 9, len(out)))]])
            run.artifact("model", "model", tmp_path / "weights")
        wandb.teardown()
        files = staged_files(run)
        assert len(files) == 3 and all(file.is_file() for file in files)  # the table, its picture, the weights
        within = [file.is_relative_to(folder) for file in files]
        assert all(within) if not named else not all(within)
        assert elsewhere.exists() == named


def test_any_error_of_starting_a_run_is_a_failing_connection(tmp_path, monkeypatch, capsys):
    import wandb

    def init(**options):
        raise ValueError(f"1 validation error, {options['mode']}\nmore")

    monkeypatch.setattr(wandb, "init", init)
    for _ in range(2):
        assert type(tracker.start("online", name="n", directory=tmp_path, **ABOUT)) is tracker.Run
    said = capsys.readouterr().out
    assert said.count("validation error, online") == said.count("validation error, offline") == 1
    assert "more" not in said and "recording nothing" in said


class Broken:
    """A wandb run whose connection died: everything raises."""

    url, dir = "https://wandb.ai/x", "/nowhere/files"

    def define_metric(self, *_, **__):
        pass

    def __getattr__(self, name):
        raise ConnectionError("service gone\nmore")


def test_a_run_that_breaks_costs_no_result(tmp_path, capsys):
    picture = Image.new("RGB", (8, 8))
    with tracker.WandbRun(Broken(), offline=False) as run:
        for _ in range(2):
            run.log({"train/loss": 1.0}, 1)
            run.images("samples/grid", [(picture, "")], 1)
            run.table("edit/pictures", ["with"], [[picture]])
            run.summary({"edit/lpips": 1.0})
            run.artifact("m", "model", tmp_path)
            run.uses("m", "model")
        done = True
    said = capsys.readouterr().out
    assert done and said.count("service gone") == 7 and "likeness.report.sync" in said  # each once


def test_online_runs_are_linked_to_the_model_they_use():
    used = []
    run = tracker.WandbRun(
        SimpleNamespace(
            url="u", dir="/x/files", define_metric=lambda *_, **__: None,
            use_artifact=lambda name, type: used.append((name, type)),
        ),
        offline=False,
    )  # fmt: skip
    run.uses("tuki+bnh-full", "model")
    assert used == [("tuki-bnh-full:latest", "model")]


def test_an_unknown_mode_is_an_error(tmp_path):
    with pytest.raises(InputError, match="auto, online, offline"):
        tracker.start("on", name="n", directory=tmp_path, **ABOUT)
