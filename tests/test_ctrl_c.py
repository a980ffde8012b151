"""Ctrl-C: one line, exit code 130, nothing that is saved is harmed, and the same command goes on."""

import functools
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny_dreambooth as tiny
import tiny_study
import torch

from likeness import launch
from likeness.dreambooth import checkpoint, loop, storage
from likeness.errors import Stopped
from likeness.study import cells, failures, gather, progress
from likeness.study.cell import run_cell

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def stop_at(monkeypatch, where, name: str, calls: int) -> None:
    """Have Ctrl-C come at the given call of a function."""
    real, count = getattr(where, name), [0]

    def stopped(*arguments, **options):
        count[0] += 1
        if count[0] == calls:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(where, name, stopped)


@pytest.mark.parametrize(
    ("where", "name", "calls", "words"),
    [
        (loop, "dreambooth_loss", 2, "stopped at step 1; the same command starts anew: there is no checkpoint yet"),
        (loop, "dreambooth_loss", 4, "stopped at step 3; the same command goes on from checkpoint-2"),
        (checkpoint, "save_file", 4, "stopped at step 4; the same command goes on from checkpoint-2"),
        (storage, "_replace_folder", 2, "stopped at step 4; the same command goes on from checkpoint-2"),
        (loop, "write_card", 1, "stopped at step 6; the same command goes on from checkpoint-6"),
        (loop, "prepare_batches", 1, "stopped before the first step; the same command starts anew: there is no "),
    ],
    ids=["first steps", "a step", "a save", "before renaming", "the final save", "preparing"],
)
def test_a_training_that_is_stopped_says_where_and_ends_with_the_same_bits(
    tmp_path, monkeypatch, where, name, calls, words
):
    torch.set_num_threads(1)
    with monkeypatch.context() as patch:
        stop_at(patch, where, name, calls)
        with pytest.raises(Stopped, match=words):
            tiny.train_tiny(tmp_path / "run", validation_every=0)
    named = re.search(r"checkpoint-(\d+)$", words)
    assert tiny.train_tiny(tmp_path / "run", validation_every=0).resumed_from == (int(named[1]) if named else 0)
    tiny.train_tiny(tmp_path / "whole", class_root=tmp_path / "run-class", validation_every=0)
    assert tiny.same(tiny.weights(tmp_path / "run"), tiny.weights(tmp_path / "whole"))


def test_a_training_stopped_before_it_goes_on_names_the_checkpoint_it_has(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    for name, calls in (("dreambooth_loss", 4), ("prepare_batches", 1)):
        with monkeypatch.context() as patch, pytest.raises(Stopped, match=r"goes on from checkpoint-2$"):
            stop_at(patch, loop, name, calls)
            tiny.train_tiny(tmp_path / "run", validation_every=0)


@pytest.mark.parametrize("replace", [storage._replace_folder, None], ids=["a saved folder", "a cell"])
def test_what_is_being_replaced_goes_back_where_ctrl_c_comes_between(tmp_path, monkeypatch, replace):
    target = tmp_path / "cells" / "one"
    target.mkdir(parents=True)
    (target / "old").touch()
    stop_at(monkeypatch, Path, "rename", 2)
    if replace:
        (tmp_path / "cells" / "new").mkdir()
        with pytest.raises(KeyboardInterrupt):
            replace(tmp_path / "cells" / "new", target)
    else:
        with pytest.raises(KeyboardInterrupt), cells.CellWriter(target, replace=True) as writer:
            writer.commit()
    assert (target / "old").is_file()


def test_one_line_comes_from_the_main_process_alone_and_the_exit_code_is_130(monkeypatch, capsys):
    def work():
        raise Stopped("stopped at step 3; the same command goes on from checkpoint-2")

    before = signal.getsignal(signal.SIGINT)
    try:
        for rank, shown in (("0", "stopped at step 3; the same command goes on from checkpoint-2\n"), ("1", "")):
            monkeypatch.setenv("RANK", rank)
            with pytest.raises(SystemExit) as ended:
                launch.one_line_when_stopped(work)
            assert ended.value.code == 130 and capsys.readouterr().err == shown
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL, "a second one ends at once"
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def out(tmp_path, tmp_path_factory, monkeypatch):
    """An output folder whose model is there."""
    world = tiny_study.build_world(tmp_path_factory.mktemp("world"))
    monkeypatch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(world))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny_study.pretend_to_finetune(tiny_study.sweep_of(tmp_path, "edit=local"))
    return tmp_path


def test_a_cell_that_is_stopped_is_no_failure_and_counts_for_no_progress(out, monkeypatch, capsys):
    from likeness.study import draw

    run = out / "run"
    run.mkdir()
    failures.begin(run, 3)
    failures.write(run / "0", None, ["edit=local"], "boom")
    with monkeypatch.context() as patch:
        patch.setattr(progress, "advance", lambda *_, **__: pytest.fail("counted"))
        stop_at(patch, draw, "draw_cell", 1)
        with pytest.raises(KeyboardInterrupt):
            run_cell(tiny_study.sweep_of(out, "edit=local", "target=cake"), run / "1", ["edit=local"])
    gather.gather(run)
    shown = capsys.readouterr().out
    assert "1 of 3 cells failed, 2 not drawn; the same command" in shown and "not drawn: 1 and 1 more:" in shown
    assert gather.what_next(run) == "the same command draws the 3 cells that are not there"
    failures.begin(run, 0)
    assert gather.what_next(run) == "the same command draws the cell that is not there"


def test_bars_make_no_semaphore_that_a_stopped_worker_would_leave():
    from tqdm import tqdm
    from tqdm.std import TqdmDefaultWriteLock

    tqdm.set_lock(TqdmDefaultWriteLock())
    progress.own_bars()
    assert isinstance(tqdm.get_lock(), type(threading.RLock()))


def stop_when(said: str, command: list[str]) -> tuple[int, str, str]:
    """Start a command and send it SIGINT once it says so; return its exit code, stdout and stderr."""
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "cwd": ROOT,
        "text": True,
        "env": dict(os.environ),
    }
    # These tests may be children of a shell's background job, which ignores SIGINT and hands that down.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([sys.executable, *command], preexec_fn=heard, **options)
    lines: dict[str, list[str]] = {"out": [], "err": []}

    def read(name: str, stream) -> None:
        for line in stream:
            lines[name].append(line)
            if said in line and process.poll() is None:
                process.send_signal(signal.SIGINT)

    readers = [threading.Thread(target=read, args=pair) for pair in (("out", process.stdout), ("err", process.stderr))]
    for reader in readers:
        reader.start()
    code = process.wait(120)
    for reader in readers:
        reader.join()
    return code, "".join(lines["out"]), "".join(lines["err"])


def test_a_sweep_that_is_stopped_ends_with_its_report_and_one_line(out):
    small = ("sampler.num_inference_steps=4", "seeds=[0]", "logger=none", f"out={out}")
    sweep = ["sweep.py", "-m", "edit=local", "target=cake,lasagne,pizza,burger", *small]
    code, shown, errors = stop_when("cell 1 of 4", sweep)
    assert code == 130 and "Traceback" not in shown + errors, shown + errors
    (run,) = (out / "runs").iterdir()
    there = sum(cells.is_done(folder) for folder in (out / "cells").glob("[!.]*"))
    assert 1 <= there < 4 and (run / "report.html").is_file() and "failed" not in shown
    assert f"{4 - there} of 4 cells not drawn" in shown
    what = f"the {4 - there} cells that are" if there < 3 else "the cell that is"
    assert errors.splitlines()[-1] == f"stopped; the same command draws {what} not there"


def test_a_training_that_is_stopped_is_one_line(out):
    small = ("schedule.num_train_steps=2000", "prior_class.num_class_images=2", "prior_class.num_inference_steps=2")
    often = ("sample_every=0", "validation_every=0", "checkpoint_every=5", "logger=none", f"out={out}")
    code, shown, errors = stop_when("(checkpoint-10)", ["-c", ANNOUNCE, *small, *often])
    assert code == 130 and "Traceback" not in shown + errors, shown + errors
    assert re.fullmatch(r"stopped at step \d+; the same command goes on from checkpoint-\d+", errors.splitlines()[-1])


# train.py, which says aloud when a checkpoint is there
ANNOUNCE = """
import runpy, sys
from likeness.dreambooth import checkpoint
save = checkpoint.save
def aloud(*arguments):
    folder = save(*arguments)
    print(f"({folder.name})", flush=True)
    return folder
checkpoint.save = aloud
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""
