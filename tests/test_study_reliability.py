"""Sweeps killed, run twice at once, out of disk or with broken files: what is there afterwards is whole."""

import contextlib
import json
import os
import resource
import shutil
from pathlib import Path

import cells_on_disk
import pytest
import tiny_study

from likeness import metrics
from likeness.errors import InputError
from likeness.report.folders import cells_under, pointed_at
from likeness.report.records import read_cells
from likeness.study import cells, draw, failures
from likeness.study.cell import run_cell
from likeness.study.gather import gather
from likeness.study.gather import main as gather_command


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_study.build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def out(world, tmp_path, monkeypatch):
    """An output folder whose model is there."""
    monkeypatch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(world))
    metrics.forget()
    draw.load_cached.cache_clear()
    yield tmp_path / "out"
    metrics.forget()
    draw.load_cached.cache_clear()


@pytest.fixture
def one(out):
    """The configuration of one cell that can be drawn."""
    sweep = tiny_study.sweep_of(out, "edit=local", "target=a cake")
    tiny_study.pretend_to_finetune(sweep)
    return sweep


def assert_whole(out: Path, count: int) -> None:
    """Every cell is there once, and none is torn."""
    folders = sorted((out / "cells").glob("[!.]*"))
    assert (
        len(folders) == count and len({json.loads((f / "record.json").read_text())["hash"] for f in folders}) == count
    )
    assert all(cells.is_done(folder) for folder in folders)
    done, failed = read_cells(folders)
    assert not failed and all(len(cell.rows) == 3 for cell in done)
    pointers = {pointed_at(p) for p in (out / "runs").glob("*/cell.txt")}
    assert pointers == {folder.resolve() for folder in folders}


def test_a_sweep_killed_at_random_is_completed_by_running_it_again(out):
    assert tiny_study.kill_again_and_again(out, count=7, kills=3, seed=0) >= 2
    assert_whole(out, 7)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_forty_cells_killed_ten_times(out, seed):
    assert tiny_study.kill_again_and_again(out, count=40, kills=10, seed=seed) >= 8
    assert_whole(out, 40)


def test_two_processes_that_draw_the_same_cells_at_once_lose_nothing(out):
    configurations = [(tiny_study.sweep_of(out, "edit=local", t), t) for t in tiny_study.targets(3)]
    tiny_study.pretend_to_finetune(configurations[0][0])
    tiny_study.draw_all(out, out / "runs", configurations[:1])
    work = [lambda order=order: tiny_study.draw_all(out, out / "runs", configurations[::order]) for order in (1, -1)]
    children = [tiny_study.child(each) for each in work]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    tiny_study.draw_all(out, out / "runs", configurations)  # the pointers in order again
    assert_whole(out, 3)


def test_cells_that_share_a_model_load_it_once(out, monkeypatch):
    from likeness import dreambooth

    loaded, real = [], dreambooth.load_finetuned
    monkeypatch.setattr(dreambooth, "load_finetuned", lambda *args: loaded.append(args) or real(*args))
    configurations = [(tiny_study.sweep_of(out, "edit=local", t), t) for t in tiny_study.targets(8)]
    tiny_study.pretend_to_finetune(configurations[0][0])
    tiny_study.draw_all(out, out / "runs", configurations)
    assert_whole(out, 8)
    assert len(loaded) == 1


def test_a_finished_cell_is_kept_and_overwrite_replaces_it(one, out):
    folder = run_cell(one, out / "run", [])
    first = (folder / "record.json").stat().st_mtime_ns
    run_cell(one, out / "run", [])
    assert (folder / "record.json").stat().st_mtime_ns == first
    one.overwrite = True
    run_cell(one, out / "run", [])
    assert (folder / "record.json").stat().st_mtime_ns > first and cells.is_done(folder)


def test_a_negative_prompt_acts_on_all_three_arms(one, out):
    plain = run_cell(one, out / "run", [])
    one.sampler.negative_prompt = "a burger"
    kept_out = run_cell(one, out / "run", [])
    assert kept_out != plain
    for arm in cells.ARMS:
        pictures = [(folder / cells.picture_file(0, arm)).read_bytes() for folder in (plain, kept_out)]
        assert pictures[0] != pictures[1], arm


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 1, "status": "done"}'])
def test_a_corrupt_record_is_named_and_its_cell_drawn_again(one, out, damage, capsys):
    folder = run_cell(one, out / "run", [])
    (folder / "record.json").write_text(damage)
    capsys.readouterr()
    assert run_cell(one, out / "run", []) == folder and cells.is_done(folder)
    assert f"{folder.name} holds no readable cell" in capsys.readouterr().out


def test_a_broken_picture_in_the_cache_is_drawn_again(one, out):
    folder = run_cell(one, out / "run", [])
    before = (folder / "images" / "seed0000-without.png").read_bytes()
    (broken,) = [p for p in (out / "pictures").rglob("*.png") if p.read_bytes() == before]
    broken.write_bytes(before[:40])
    shutil.rmtree(folder)
    run_cell(one, out / "run", [])
    assert (folder / "images" / "seed0000-without.png").read_bytes() == before == broken.read_bytes()


def drawn_again(folder: Path, run) -> int:
    """Draw a cell anew that is gone; return how many pictures were drawn rather than taken from the cache."""
    shutil.rmtree(folder)
    return json.loads((run() / "record.json").read_text())["drawn"]


def test_the_cache_gives_no_picture_of_other_versions_and_overwrite_takes_none(one, out, monkeypatch):
    from likeness.study import environment

    def run() -> Path:
        return run_cell(one, out / "run", [])

    folder = run()
    assert drawn_again(folder, run) == 2
    now = environment.environment()
    other = now | {"packages": now["packages"] | {"diffusers": "0.0"}}
    with monkeypatch.context() as patch:
        patch.setattr(environment, "environment", lambda: other)
        assert drawn_again(folder, run) == 3
    one.overwrite = True
    assert drawn_again(folder, run) == 3


def test_one_subjects_missing_model_costs_only_its_cell(one, out, capsys):
    runs = out / "runs" / "sweep"
    folder = run_cell(one, runs / "0", ["subject=tuki", "edit=local"])
    other = tiny_study.sweep_of(out, "edit=local", "subject=bnh")
    with pytest.raises(InputError, match=r"bnh has not been fine-tuned(?s:.*)train\.py subject=bnh"):
        run_cell(other, runs / "1", ["subject=bnh", "edit=local"])
    left = json.loads((runs / "1" / "failed.json").read_text())
    assert (
        "bnh has not been fine-tuned" in left["error"] and left["command"] == "python sweep.py subject=bnh edit=local"
    )
    capsys.readouterr()
    page = gather(runs)
    shown = capsys.readouterr().out
    assert "1 of 2 cells failed" in shown and "failed: 1: bnh" in shown and "bnh has not been" in page.read_text()
    assert cells.is_done(folder)
    tiny_study.pretend_to_finetune(other)
    run_cell(other, runs / "1", ["subject=bnh", "edit=local"])  # the same again heals it
    assert not (runs / "1" / "failed.json").exists() and len(read_cells(folder.parent.glob("[!.]*"))[0]) == 2


def test_a_job_that_was_killed_before_it_could_say_so_is_reported(one, out, capsys):
    runs = out / "runs" / "sweep"
    run_cell(one, runs / "0", ["edit=local"])
    (runs / "1" / "hydra").mkdir(parents=True)
    (runs / "2" / "hydra").mkdir(parents=True)
    (runs / "2" / "hydra" / "config.yaml").write_text("seeds:\n- 0\ndry_run: true\n")
    page = gather(runs)
    shown = capsys.readouterr().out
    assert "1 of 2 cells not drawn" in shown and "\nnot drawn: 1: left nothing" in shown
    assert "killed or timed out" in page.read_text()


def test_jobs_that_never_began_are_counted_and_the_exit_code_says_so(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    failures.begin(run, 40)
    for number in range(2):
        failures.point_to(run / str(number), cells_on_disk.write_cell(tmp_path / "cells", f"cell{number}"))
    failures.write(run / "2", None, ["edit=local"], "boom")
    with pytest.raises(SystemExit) as ended:
        gather_command([str(run)])
    shown = capsys.readouterr().out
    assert ended.value.code == 1 and "1 of 40 cells failed, 37 not drawn; the same command" in shown
    assert "failed: 2: edit=local: boom" in shown and "not drawn: 3 and 36 more: left nothing" in shown
    page = (run / "report.html").read_text()
    assert page.count("left nothing") == 1 and "1 failed · 37 not drawn" in page and "Failed or not drawn" in page
    failures.begin(run, 1)
    failures.point_to(run / "0", tmp_path / "cells" / "cell0")
    gather_command([str(run)])
    assert "left nothing" not in capsys.readouterr().out


def test_outputs_that_were_moved_are_read_and_cells_that_are_gone_are_named(tmp_path, capsys):
    out, moved = tmp_path / "out", tmp_path / "elsewhere" / "out"
    made = [cells_on_disk.write_cell(out / "cells", f"cell{number}") for number in range(3)]
    for number, cell in enumerate(made[:2]):
        failures.point_to(out / "runs" / "sweep" / str(number), cell)
    failures.point_to(tmp_path / "far", made[0])
    assert (tmp_path / "far" / "cell.txt").read_text() == f"{made[0]}\n", "outside, where the folder cannot move along"
    (out / "runs" / "sweep" / "2").mkdir()
    (out / "runs" / "sweep" / "2" / "cell.txt").write_text(f"{made[2]}\n")  # as pointers were written before
    assert failures.jobs(out / "runs" / "sweep") == made
    moved.parent.mkdir()
    out.rename(moved)
    run = moved / "runs" / "sweep"
    assert failures.jobs(run) == [moved / "cells" / "cell0", moved / "cells" / "cell1", made[2]]
    gather(run)
    shown = capsys.readouterr().out
    assert "1 of 3 cells failed" in shown and f"failed: cell2: is not in {out / 'cells'}, where" in shown
    done, failed = read_cells(cells_under([run]))
    assert len(done) == 2 and "moved or removed" in failed[0].error


def test_a_run_folder_used_again_holds_the_jobs_of_the_last_launch_alone(tmp_path):
    runs, made = tmp_path / "runs", [tmp_path / name for name in ("cake", "pizza", "lasagne")]
    runs.mkdir()
    failures.begin(runs, 3)
    for number, cell in enumerate(made):
        cell.mkdir()
        failures.point_to(runs / str(number), cell)
    assert failures.jobs(runs) == made
    failures.begin(runs, 2)
    failures.point_to(runs / "0", made[2])
    assert failures.jobs(runs) == [made[2], runs / "1"], "job 1 of this launch has left nothing, job 2 is none of it"
    failures.begin(runs, 0)
    failures.point_to(runs, made[0])
    assert failures.jobs(runs) == [made[0]] and cells_under([runs]) == [made[0]]


def test_an_error_within_a_cell_is_recorded_with_it_and_the_next_attempt_replaces_it(one, out):
    """Windows that hold no step are refused only once the steps are known: in the middle of drawing."""
    one.edit.cross_replace_steps = one.edit.self_replace_steps = [0.0, 0.0]
    with pytest.raises(InputError, match="injects nothing"):
        run_cell(one, out / "runs" / "0", ["edit=local"])
    (folder,) = (out / "cells").glob("[!.]*")
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "failed" and "injects nothing" in record["error"] and record["traceback"] is None
    assert pointed_at(out / "runs" / "0" / "cell.txt") == folder.resolve()
    with contextlib.suppress(InputError):
        run_cell(one, out / "runs" / "0", ["edit=local"])
    assert len(list((out / "cells").glob("[!.]*"))) == 1


def test_a_finished_cell_that_cannot_be_drawn_again_is_kept_and_the_failure_is_reported(one, out, capsys, monkeypatch):
    runs = out / "runs" / "sweep"
    folder = run_cell(one, runs / "0", ["edit=local"])
    one.overwrite = True
    monkeypatch.setattr(draw, "draw_cell", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError):
        run_cell(one, runs / "0", ["edit=local", "overwrite=true"])
    assert cells.is_done(folder) and not (runs / "0" / "cell.txt").exists()
    left = json.loads((runs / "0" / "failed.json").read_text())
    assert "out of memory" in left["error"] and left["command"].endswith("overwrite=true")
    (runs / "1").mkdir()
    gather(runs)
    assert "failed: 0: tuki, edit=local: RuntimeError: out of memory" in capsys.readouterr().out


@contextlib.contextmanager
def no_room(size: int):
    """Let no file of this process grow beyond so many bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_names_the_cell_and_keeps_the_others(one, out):
    kept = run_cell(one, out / "runs" / "0", [])
    other = tiny_study.sweep_of(out, "edit=local", "target=a lasagne")
    with no_room(200), pytest.raises(InputError, match=r"cannot keep the picture of .*burger.*Free some space"):
        run_cell(other, out / "runs" / "1", [])
    assert cells.is_done(kept)
    folder = out / "cells" / "tuki-local-cake"
    with no_room(200), pytest.raises(InputError, match="cannot write the cell tuki-local-cake"):
        cells.write_failed(folder, {"format": 1, "status": "failed", "error": "x" * 300})
    assert not folder.exists() and not list(folder.parent.glob(".*"))
    assert cells.is_done(run_cell(other, out / "runs" / "1", []))


def test_a_run_folder_that_cannot_be_written_costs_the_pointer_and_not_the_cell(one, out):
    kept = run_cell(one, out / "runs" / "0", [])
    (out / "runs" / "1").write_text("in the way")
    with pytest.raises(InputError, match=r"is finished and kept, but .*runs/1 cannot point to it"):
        run_cell(one, out / "runs" / "1", [])
    assert cells.is_done(kept)


def test_an_output_folder_that_cannot_be_written_is_named(one, out):
    (out / "cells").write_text("in the way")
    with pytest.raises(InputError, match=rf"cannot write the cell .* into {out / 'cells'}"):
        run_cell(one, out / "runs" / "0", [])


def test_a_broken_wandb_costs_no_result(one, out, capsys, monkeypatch):
    monkeypatch.setattr("likeness.report.tracker._said", set())  # such things are said once per process
    one.logger.mode = "offline"
    (out / "wandb").write_text("not a folder")
    assert cells.is_done(run_cell(one, out / "runs" / "0", []))
    assert "W&B" in capsys.readouterr().out


def test_what_killed_processes_left_is_removed_later_and_not_before(tmp_path):
    part = tmp_path / ".tuki-local-cake-full-standard-0123abcd.x7_k2m1q"
    (part / "images").mkdir(parents=True)
    old = part.stat().st_mtime
    cells.sweep_up(tmp_path, older_than=old - 10)
    assert part.exists()
    cells.sweep_up(tmp_path, older_than=old + 10)
    assert not part.exists()
