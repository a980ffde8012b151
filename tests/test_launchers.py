"""One command on every launcher, what a missing one says, and how far a sweep is."""

import dataclasses
import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_study
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from likeness import launch
from likeness.errors import InputError
from likeness.study import cells, dry_run, evaluate_cells, failures
from likeness.study.cell import finished_cell
from likeness.study.plan import plan_edit
from likeness.study.progress import SweepProgress

ROOT = Path(__file__).parents[1]
LAUNCHERS = sorted(p.stem for p in (ROOT / "conf" / "hydra" / "launcher").glob("*.yaml"))
ABSENT = "import sys, runpy; sys.modules['hydra_plugins'] = None; runpy.run_path('sweep.py', run_name='__main__')"


@pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/")  # as launch.py does
@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_composes_and_names_the_extra_that_brings_it(name, monkeypatch):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        target = compose("sweep", [f"hydra/launcher={name}"], return_hydra_config=True).hydra.launcher._target_
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    extra = launch.launcher_missing(target).split("'")[-2].strip(".[]")
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    assert launch.launcher_missing(launch.IN_PROCESS) is None


def test_a_launcher_that_is_not_installed_is_one_line_with_the_command(tmp_path):
    command = [sys.executable, "-c", ABSENT, "-m", "hydra/launcher=joblib", "target=cake,pizza", f"out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.strip().splitlines() == [
        "error: Hydra's JoblibLauncher is not installed; run: uv pip install -e '.[joblib]'"
    ]


@pytest.mark.parametrize("name", ["sweep", "train"])
def test_launches_of_one_second_have_folders_of_their_own_that_sort_by_time(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        made = [compose(name, return_hydra_config=True, overrides=["hydra.job.num=3"]) for _ in range(2)]
    folders = [Path(cfg.hydra.run.dir).name for cfg in made]
    assert folders[0] < folders[1] and [Path(cfg.hydra.sweep.dir).name for cfg in made] == folders, "one per launch"
    assert all(re.fullmatch(rf"\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{{6}}_{name}", folder) for folder in folders)
    assert list(evaluate_cells.newest([Path(folder) for folder in folders])) == [name]


HEAVY = """
import atexit, runpy, sys
heavy = lambda: sorted({"torch", "diffusers", "transformers", "wandb", "scipy", "numpy"} & set(sys.modules))
atexit.register(lambda: print("HEAVY", heavy()))
runpy.run_path("sweep.py", run_name="__main__")
"""


@pytest.mark.parametrize(("argument", "most"), [("--help", 3.0), ("edit=globl", 2.0), ("edit.operator=swap", 2.0)])
def test_help_and_configuration_errors_are_quick_and_load_nothing_heavy(argument, most, tmp_path):
    def spent() -> float:  # seconds of processor time: the clock on the wall would measure who else is at work
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before, command = spent(), [sys.executable, "-c", HEAVY, argument, f"out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stdout and "Traceback" not in done.stderr
    assert spent() - before < most  # --help takes about 1.7 s, Hydra's listing of groups most of it


@pytest.mark.parametrize(
    ("arguments", "params", "jobs"),
    [
        (["edit=local", "target=cake,pizza"], {}, 2),
        (["seeds=[0,1],[2,3]", "style='a, b',c"], {}, 4),
        (["style=charcoal"], {"edit": "global,local", "style": "watercolor,charcoal"}, 2),
        (["weight=range(3)"], {}, 3),
        (["weight=interval(0,1)"], {}, None),
    ],
)
def test_jobs_are_counted_as_hydra_makes_them(arguments, params, jobs):
    assert launch.count_jobs(arguments, params) == jobs


def test_the_estimate_comes_from_drawn_cells_and_forgets_the_first():
    stream = io.StringIO()
    progress = SweepProgress(10, stream)
    progress.advance(0.1, drawn=False)
    assert progress.seconds_left() is None
    progress.advance(60.0, drawn=True)
    assert progress.seconds_left() == 8 * 60
    progress.advance(10.0, drawn=True)
    assert progress.seconds_left() == 7 * 10 and "cell 3 of 10" in stream.getvalue()
    assert "about 70 s left" in stream.getvalue().splitlines()[-1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_what_jobs_print_below_a_bar_reaches_a_log_and_on_a_terminal_stays_above_it(kind, monkeypatch):
    stdout, stderr = kind(), Terminal()
    monkeypatch.setattr("sys.stdout", stdout)
    progress = SweepProgress(2, stderr)
    try:
        print("outputs/cells/one")
        progress.advance(1.0, drawn=True)
    finally:
        progress.close()
    assert ("outputs/cells/one" in stdout.getvalue()) == (kind is io.StringIO)
    assert ("outputs/cells/one" in stderr.getvalue()) == (kind is Terminal)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_study.build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def out(world, tmp_path, monkeypatch):
    monkeypatch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(world))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny_study.pretend_to_finetune(tiny_study.sweep_of(tmp_path, "edit=local"))
    return tmp_path


def sweep(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    small = ("sampler.num_inference_steps=4", "seeds=[0]", "logger=none", f"out={out}")
    command = [sys.executable, "sweep.py", "-m", "edit=local", *small, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))


def finished(out: Path) -> int:
    return sum(cells.is_done(folder) for folder in (out / "cells").glob("[!.]*"))


def written(out: Path) -> dict[str, int]:
    """Return when each record was written, by its cell."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (out / "cells").glob("[!.]*/record.json")}


def assert_one_of_three_failed(out: Path, done: subprocess.CompletedProcess, *, at_once: bool = True) -> None:
    shown = done.stdout + done.stderr
    assert done.returncode != 0 and finished(out) == 2, shown
    said = re.search(r"^FAILED cell 2: Replace needs prompts with the same number of words", done.stderr, re.M)
    assert bool(said) == at_once, shown
    assert "1 of 3 cells failed" in shown and "same number of words" in shown and "Traceback" not in shown
    (report,) = out.glob("runs/*/report.html")
    assert "a b c" in report.read_text()


@pytest.mark.slow
def test_a_failed_cell_is_reported_the_rest_goes_on_and_the_exit_code_says_so(out):
    done = sweep(out, "target=cake,a b c,lasagne")
    assert_one_of_three_failed(out, done)
    assert "cell 3 of 3" in done.stderr


def test_a_refused_configuration_is_one_failed_cell_of_its_sweep(out):
    done = sweep(out, "sampler.num_inference_steps=0,-1")
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    (run,) = (out / "runs").iterdir()
    left = [json.loads((run / job / "failed.json").read_text()) for job in "01"]
    assert all("at least 1" in each["error"] and each["config"] is None for each in left)
    assert "sampler.num_inference_steps=-1" in left[1]["command"] and "cell 2 of 2" in done.stderr
    assert re.search(r"FAILED cell 1: .*at least 1", done.stderr) and "FAILED cell 2: " in done.stderr
    assert done.stderr.index("FAILED cell 1") < done.stderr.index("cell 1 of 2") < done.stderr.index("FAILED cell 2")
    assert "2 of 2 cells failed" in done.stdout
    again = sweep(out, "seeds=[1,1]", f"hydra.sweep.dir={run}")
    assert again.returncode != 0 and "cells failed" not in again.stdout, "one job: the other is an earlier launch's"
    assert failures.jobs(run) == [run / "0"]


@pytest.mark.parametrize("error", [InputError("no such word\nchoose another"), RuntimeError("no such word")])
def test_a_cell_that_fails_says_so_at_once_and_above_the_bar(out, error, monkeypatch):
    from likeness.study import cell, progress

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(cell, "_prepare", lambda *_: (_ for _ in ()).throw(error))
    progress.start(3)
    try:
        with pytest.raises(type(error)):
            cell.run_cell(tiny_study.sweep_of(out, "edit=local"), out / "run" / "1", ["edit=local"])
        shown = terminal.getvalue()
        kind = "" if isinstance(error, InputError) else "RuntimeError: "
        assert f"FAILED cell 2: {kind}no such word\n" in shown and "choose another" not in shown
        with pytest.raises(type(error)):
            cell.run_cell(tiny_study.sweep_of(out, "edit=local"), out / "run", ["edit=local"])
        assert terminal.getvalue().count("FAILED") == 1, "a single job says so itself"
    finally:
        progress.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "plugin"), [("joblib", "joblib"), ("submitit_local", "submitit")])
def test_launchers_with_processes_of_their_own(out, launcher, plugin):
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    done = sweep(out, "target=cake,a b c,lasagne", f"hydra/launcher={launcher}")
    assert_one_of_three_failed(out, done, at_once=plugin == "joblib")  # Slurm's jobs write into their own logs
    before = written(out)
    again = sweep(out, "target=cake,lasagne", f"hydra/launcher={launcher}")
    assert again.returncode == 0 and finished(out) == 2, again.stderr
    assert written(out) == before and len(before) == 2, "the second run draws nothing"


@pytest.mark.slow
def test_joblibs_workers_draw_what_is_missing_and_nothing_else(out):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    from likeness.study.cell import run_cell

    run_cell(tiny_study.sweep_of(out, "edit=local", "target=cake"), out / "run", ["edit=local", "target=cake"])
    before = written(out)
    done = sweep(out, "target=cake,lasagne", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0 and finished(out) == 2, done.stderr
    assert before.items() <= written(out).items() and len(before) == 1, "what was there is not drawn again"


@pytest.mark.slow
def test_ray_where_it_runs(out):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    done = sweep(out, "target=cake,lasagne", "hydra/launcher=ray")
    assert done.returncode == 0 and finished(out) == 2, done.stderr


def test_a_dry_run_knows_what_is_there_what_is_missing_and_what_cells_took(out, capsys, monkeypatch):
    from likeness.study.cell import run_cell

    monkeypatch.setattr(dry_run, "TOTAL", dry_run.Total())
    dry_run.records.cache_clear()
    there = tiny_study.sweep_of(out, "edit=local", "target=cake")
    folder = run_cell(there, out / "run", [])
    capsys.readouterr()
    missing = tiny_study.sweep_of(out, "edit=local", "target=pizza", "subject=bnh")
    for cell in (there, missing):
        cell.dry_run = True
        assert run_cell(cell, out / "dry", ["edit=local", f"subject={cell.subject.name}"]) is None
    dry_run.print_total()
    shown = capsys.readouterr().out
    assert f"already there in {folder}" in shown and "target  A painting of a bnh keanu reeves eating a pizza" in shown
    assert "make it: python train.py subject=bnh" in shown and "(median of 1 recorded cells)" in shown
    assert "2 cells: 1 there, 1 to draw, about" in shown and not (out / "dry").exists()


def test_a_dry_run_counts_the_models_that_would_be_trained(out, capsys, monkeypatch):
    monkeypatch.setattr(dry_run, "TOTAL", dry_run.Total())
    for arguments in (("target=cake",), ("target=pizza", "subject=bnh"), ("target=cake", "subject=bnh")):
        cell = tiny_study.sweep_of(out, "edit=local", "dry_run=true", "train_missing=true", *arguments)
        dry_run.dry_run(cell, plan_edit(cell), "python train.py", finished_cell)
    dry_run.print_total()
    assert "3 to draw, about" in (shown := capsys.readouterr().out) and "plus 1 training, time not known" in shown


def test_a_dry_run_takes_for_finished_what_a_run_does(out, capsys):
    from likeness.study.cell import run_cell

    cell = tiny_study.sweep_of(out, "edit=local", "target=cake")
    folder = run_cell(cell, out / "run", [])
    cell.dry_run = True

    def draws(**changed: bool) -> bool:
        capsys.readouterr()
        run_cell(dataclasses.replace(cell, **changed), out / "dry", ["edit=local"])
        return "draws   nothing" not in capsys.readouterr().out

    assert not draws() and draws(overwrite=True)
    (folder / "images" / "seed0000-with.png").unlink()
    assert draws()


def test_a_dry_run_counts_refused_cells_says_every_reason_and_leaves_no_folder(out):
    new = out / "new" / "out"
    words = ("edit=reweight", "word=blosom,blossom,bloom", "seeds=[0],[1,1]", "dry_run=true", f"out={new}")
    done = sweep(out, *words)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "6 cells: 0 there, 1 to draw, 5 refused, about" in done.stdout
    assert re.search(r"^REFUSED cell 1: .*'blosom'", done.stdout, re.M)
    reasons = re.findall(r"^refused(?: \((\d) cells\))?: (.*)", done.stdout, re.M)
    assert [count for count, _ in reasons] == ["", "", "3"], "the last is that of the seeds, with whatever word"
    assert all(word in reason for word, (_, reason) in zip(("'blosom'", "'bloom'", "seeds"), reasons, strict=True))
    assert not new.parent.exists() and not (out / "runs").exists()


def test_a_single_dry_run_that_is_refused_is_the_error_alone_and_leaves_no_folder(out):
    words = ("edit=reweight", "word=blosom", "dry_run=true", "logger=none", f"out={out}")
    done = subprocess.run([sys.executable, "sweep.py", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "'blosom'" in done.stderr and not done.stdout, done.stdout
    assert not (out / "runs").exists() and (out / "models").is_dir()


@pytest.mark.parametrize("other", ["note.txt", "0/note.txt", "0/hydra/note.txt", "mine/", None])
def test_of_a_dry_run_nothing_is_removed_that_hydra_did_not_write(other, tmp_path):
    run = tmp_path / "out" / "runs" / "one"
    settings = {"output_subdir": "hydra", "job": {"name": "sweep"}}
    cfg = OmegaConf.create({"dry_run": True, "hydra": settings})
    (tmp_path / "out").mkdir()
    launched = launch.Launch()
    launched.meet(run, cfg)
    own = ["multirun.yaml", *(f"0/{name}" for name in ("sweep.log", "hydra/config.yaml", "hydra/overrides.yaml"))]
    for name in [*own, *([other] if other else [])]:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).mkdir() if name.endswith("/") else (run / name).touch()
    launched.leave_no_dry_folder()
    assert (tmp_path / "out").is_dir(), "it was there before"
    if other is None:
        assert not (tmp_path / "out" / "runs").exists()
    else:
        assert all((run / name).exists() for name in [*own, other])


def test_a_dry_run_into_a_folder_that_is_there_removes_nothing(tmp_path):
    settings = {"output_subdir": "hydra", "job": {"name": "sweep"}}
    launched = launch.Launch()
    launched.meet(tmp_path, OmegaConf.create({"dry_run": True, "hydra": settings}))
    launched.leave_no_dry_folder()
    assert tmp_path.is_dir()


@pytest.mark.slow
def test_a_dry_run_needs_no_launcher_and_adds_up_in_one_place(out):
    done = sweep(out, "target=cake,pizza", "hydra/launcher=joblib", "dry_run=true")
    assert done.returncode == 0 and "2 cells: 0 there, 2 to draw" in done.stdout, done.stdout + done.stderr
