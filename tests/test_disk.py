"""What an output folder holds, and what is freed of it: nothing that a run still needs."""

import json

import pytest

from likeness import disk
from likeness.dreambooth import is_finished, storage


def write(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def model(out, name, finished):
    folder = out / "models" / "paperdoll" / name
    write(folder / "history.csv", 10)
    for step, size in ((200, 1000), (1000, 2000)):
        write(folder / f"checkpoint-{step}" / "unet.safetensors", size)
    if finished:
        write(folder / "model" / "model_index.json", 20)
        record = {"finished": True, "identity": {"settings": {"method": "full"}}}
        (folder / "settings.json").write_text(json.dumps(record))
        assert is_finished(folder)
    return folder


@pytest.fixture
def out(tmp_path):
    model(tmp_path, "done", True)
    model(tmp_path, "killed", False)
    (tmp_path / "models" / "paperdoll" / ".done.lock").touch()
    write(tmp_path / "pictures" / "0123" / "seed0000.png", 300)
    write(tmp_path / "cells" / "one" / "record.json", 40)
    return tmp_path


def checkpoints(out, name):
    return [f.name for f in storage.checkpoints(out / "models" / "paperdoll" / name)]


def test_everything_is_listed_with_its_size_and_nothing_is_deleted(out, capsys):
    before = sorted(out.rglob("*"))
    disk.main([str(out)])
    assert sorted(out.rglob("*")) == before
    found = {part.what: part for part in disk.held(out)}
    assert list(found) == [
        "paperdoll/done", "  2 checkpoints", "paperdoll/killed", "cells", "pictures",
    ]  # fmt: skip
    sizes = [(part.what, part.size, part.free) for part in disk.held(out)]
    assert ("  2 checkpoints", 3000, "checkpoints") in sizes and ("  2 checkpoints", 3000, None) in sizes
    assert ("pictures", 300, "pictures") in sizes and ("cells", 40, None) in sizes
    shown = capsys.readouterr().out
    assert "unfinished: its command goes on, or delete the folder" in shown
    assert f"can be freed: python -m likeness.disk {out} --free checkpoints" in shown
    assert sum(part.size for part in disk.held(out)) == disk.size_of(out)


def test_only_what_is_named_and_not_needed_is_freed(out, capsys):
    disk.main([str(out), "--free", "checkpoints"])
    assert not checkpoints(out, "done") and checkpoints(out, "killed") == ["checkpoint-1000", "checkpoint-200"]
    assert is_finished(out / "models" / "paperdoll" / "done") and (out / "pictures" / "0123").is_dir()
    assert "  0.0 MB  freed" in capsys.readouterr().out  # 3,000 bytes
    disk.main([str(out), "--free", "pictures"])
    assert not (out / "pictures").exists() and (out / "cells" / "one" / "record.json").is_file()


def test_a_model_that_is_being_trained_keeps_its_checkpoints(out):
    folder = out / "models" / "paperdoll" / "done"
    found = disk.held(out)
    with storage.locked(folder):
        assert [part.free for part in disk.held(out)][:2] == [None, None]
        with pytest.raises(disk.InputError, match="another training is running"):
            disk.free(found, ["checkpoints"])  # it began after the list was made
    assert len(checkpoints(out, "done")) == 2


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="holds no models, cells or runs: give the folder"):
        disk.main([str(tmp_path)])
    with pytest.raises(SystemExit):
        disk.main([str(tmp_path), "--free", "cells"])
