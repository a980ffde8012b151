"""The lab notebook: every experiment is runnable, and its page is filled from records and nothing else."""

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_study
from cells_on_disk import write_cell

from likeness import reproduce
from likeness.errors import InputError
from likeness.report.notebook import CLOSE, OPEN, table_of

ROOT = Path(__file__).parents[1]
FOLDERS = sorted((ROOT / "experiments").glob("[0-9]*"))
SWEEPS = [folder for folder in FOLDERS if reproduce.read_experiment(folder).is_sweep]


def question(name: str) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.load(ROOT / "conf" / "experiment" / f"{name}.yaml").question


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_every_experiment_has_a_command_that_exists_and_room_for_a_verdict(folder):
    experiment = reproduce.read_experiment(folder)
    assert "**Question.**" in experiment.page.read_text() and "**Verdict.**" in experiment.page.read_text()
    if not experiment.is_sweep:
        assert importlib.util.find_spec(experiment.command.split()[2])


@pytest.mark.parametrize("folder", SWEEPS, ids=lambda f: f.name)
def test_every_sweep_asks_its_configurations_question_and_is_in_the_index(folder):
    experiment = reproduce.read_experiment(folder)
    name = experiment.command.split("experiment=")[1].split()[0]
    assert f"**Question.** {question(name)}" in experiment.page.read_text()
    assert f"({folder.name}/README.md)" in (ROOT / "experiments" / "README.md").read_text()


def test_every_committed_configuration_has_its_page_figures_first():
    commands = [reproduce.read_experiment(folder).command for folder in SWEEPS]
    named = [command.split("experiment=")[1].split()[0] for command in commands]
    assert sorted(named) == sorted(p.stem for p in (ROOT / "conf" / "experiment").glob("*.yaml"))
    assert all(name.startswith("figure") for name in named[:5])


@pytest.fixture
def notebook(tmp_path):
    """A copy of one experiment, to be written to."""
    shutil.copytree(ROOT / "experiments" / "002_local_edits", tmp_path / "experiments" / "002_local_edits")
    return tmp_path / "experiments" / "002_local_edits"


def point(run_dir, *cells):
    for number, cell in enumerate(cells):
        (run_dir / str(number)).mkdir(parents=True)
        (run_dir / str(number) / "cell.txt").write_text(f"{cell.resolve()}\n")
    return run_dir


def test_a_page_gets_table_and_picture_and_keeps_the_rest(notebook, tmp_path, capsys):
    cells = [write_cell(tmp_path / "cells", "one"), write_cell(tmp_path / "cells", "two", target="lasagne")]
    broken = write_cell(tmp_path / "cells", "broken", status="failed", error="disk full")
    run_dir = point(tmp_path / "run", *cells, broken)
    before = (notebook / "README.md").read_text()
    arguments = ["002_local_edits", "--experiments", str(notebook.parent), "--fill", str(run_dir)]
    reproduce.main(arguments)
    page = (notebook / "README.md").read_text()
    assert "| tuki | local | lasagne | 4 |" in page and "commit abcdef12" in page and "1 cells failed" in page
    assert page.split(OPEN)[0] == before.split(OPEN)[0]
    assert page.split(CLOSE)[1] == before.split(CLOSE)[1]
    assert (notebook / "picture.jpg").is_file() and "(picture.jpg)" in page
    reproduce.main(arguments)
    assert (notebook / "README.md").read_text() == page


def test_a_sweep_over_settings_gets_the_map(notebook, tmp_path):
    def cell(name, end, lpips):
        config = {"edit": {"self_replace_steps": [0.0, end]}}
        return write_cell(tmp_path / "cells", name, lpips=(lpips, 0.6), config=config)

    run_dir = point(tmp_path / "run", cell("one", 0.2, 0.4), cell("two", 0.4, 0.2))
    reproduce.fill(reproduce.read_experiment(notebook), run_dir)
    page = (notebook / "README.md").read_text()
    assert "| 0–0.4 | 4 |" in page and "**chosen**" in page and (notebook / "map.svg").is_file()


LINE = "[burgers](experiments/002_local_edits/README.md), `experiment=figure2_local`"


def test_the_readmes_line_of_an_experiment_is_written_and_the_others_are_kept(notebook, tmp_path):
    readme = tmp_path / "README.md"
    kept = f"# Title\n{OPEN}\n| experiment | n |\n|---|---|\n| [other](experiments/001_other/README.md) | 7 |\n"
    readme.write_text(f"{kept}| {LINE} | 9 | old |\n{CLOSE}\nprose\n")
    cells = [write_cell(tmp_path / "cells", name, target=name) for name in ("cake", "lasagne")]
    experiment = reproduce.read_experiment(notebook)
    reproduce.fill(experiment, point(tmp_path / "run", *cells))
    text = readme.read_text()
    assert text.startswith(f"{kept}| {LINE} | 8 | 100% / 50% | 0.2") and text.endswith(f"] | – |\n{CLOSE}\nprose\n")
    other = write_cell(tmp_path / "cells", "other", clip="clip@2")
    with pytest.raises(InputError, match="were not drawn alike"):
        reproduce.fill(experiment, point(tmp_path / "mixed", *cells, other))
    assert readme.read_text() == text


def test_the_committed_results_are_those_of_the_experiments_pages():
    lines = [line for line in table_of(ROOT / "README.md").splitlines() if "](experiments/" in line]
    assert len(lines) == 4
    for line in lines:
        _, asked, *found, _ = (part.strip() for part in line.split("|"))
        page = (ROOT / asked.split("](")[1].split(")")[0]).read_text().splitlines()
        rows = [[part.strip() for part in row.split("|")] for row in page if row.startswith("| overall |")]
        happened, lost, moved = (next(r for r in rows if name in r[2]) for name in ("happened", "LPIPS", "head"))
        assert found == [happened[3], happened[5], lost[5], lost[6], moved[5]], asked


def test_the_judges_table_is_written_after_all_experiments_and_not_after_one(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    ran, front = [], notebook.parent / "README.md"
    shutil.copy(ROOT / "experiments" / "README.md", front)
    monkeypatch.setattr(reproduce, "reproduce", lambda *_: [])
    monkeypatch.setattr(
        reproduce.subprocess, "run", lambda words, check: ran.append(words) or SimpleNamespace(returncode=3)
    )
    for name in ("2026-01-02_10-00-00-000001_002_local_edits", "2026-01-03_10-00-00-000001_006_windows"):
        (tmp_path / "out" / "runs" / name).mkdir(parents=True)
    arguments = ["--experiments", str(notebook.parent), "--out", str(tmp_path / "out")]
    reproduce.main(["002_local_edits", *arguments])
    assert not ran
    with pytest.raises(SystemExit, match="the judge's table: the command ended with exit code 3"):
        reproduce.main(arguments)
    judged = tmp_path / "out" / "runs" / "2026-01-02_10-00-00-000001_002_local_edits"
    assert ran[0][1:] == ["-m", "likeness.study.evaluate_cells", str(judged), "--page", str(front)]


def test_what_cannot_be_filled_leaves_the_page_alone(notebook, tmp_path):
    before = (notebook / "README.md").read_text()
    with pytest.raises(InputError, match="no finished cell"):
        reproduce.fill(reproduce.read_experiment(notebook), tmp_path / "nothing")
    assert (notebook / "README.md").read_text() == before
    (notebook / "README.md").write_text(before.replace(CLOSE, ""))
    with pytest.raises(InputError, match="one pair of markers"):
        reproduce.read_experiment(notebook)
    (notebook / "README.md").write_text(before.replace("python sweep.py", "python other.py"))
    with pytest.raises(InputError, match="exactly one fenced"):
        reproduce.read_experiment(notebook)
    with pytest.raises(InputError, match="there are 002_local_edits"):
        reproduce.find(notebook.parent, ["003"])


def test_a_module_gets_the_newest_run_of_every_sweep(notebook, tmp_path):
    other = notebook.parent / "008_other"
    other.mkdir()
    page = (notebook / "README.md").read_text()
    command = reproduce.read_experiment(notebook).command
    (other / "README.md").write_text(page.replace(command, "python -m likeness.results outputs/runs/RUN ..."))
    for name in (
        "2026-01-01_10-00-00_002_local_edits",
        "2026-01-02_10-00-00-000001_002_local_edits",
        "2026-01-03_1_sweep",
    ):
        (tmp_path / "out" / "runs" / name).mkdir(parents=True)
    cell = write_cell(tmp_path / "cells", "one")
    point(tmp_path / "out" / "runs" / "2026-01-02_10-00-00-000001_002_local_edits", cell)
    experiment = reproduce.read_experiment(other)
    assert not experiment.is_sweep and reproduce.run_module(experiment, tmp_path / "out") == 0
    (tmp_path / "out" / "runs" / "2026-01-02_10-00-00-000001_002_local_edits" / "0" / "cell.txt").unlink()
    assert reproduce.run_module(experiment, tmp_path / "out") == 1  # nothing there: the older run is not taken


def test_a_module_is_not_filled_from_a_run_and_does_not_go_without_the_runs_it_asks_for(
    notebook, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    page = (notebook / "README.md").read_text()
    command = reproduce.read_experiment(notebook).command
    (notebook / "README.md").write_text(page.replace(command, "python -m likeness.results outputs/runs/RUN ..."))
    arguments = ["--experiments", str(notebook.parent), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="002_local_edits is no sweep"):
        reproduce.main([*arguments, "--fill", str(tmp_path)])
    with pytest.raises(SystemExit, match="no experiment was run into"):
        reproduce.main(arguments)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_experiment_runs_from_nothing_training_what_is_missing(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(tiny_study.build_world(tmp_path / "world")))
    monkeypatch.chdir(ROOT)
    small = ("schedule.num_train_steps=2", "prior_class.num_class_images=2", "prior_class.num_inference_steps=2",
             "sampler.num_inference_steps=2", "seeds=[0]", "logger=none", "subject=tuki")  # fmt: skip
    options = [word for override in small for word in ("--override", override)]
    reproduce.main(["--experiments", str(notebook.parent), "--out", str(tmp_path / "out"), *options])
    page = (notebook / "README.md").read_text()
    assert page.count("| tuki | local |") == 2
    assert len(list((tmp_path / "out" / "models" / "paperdoll").glob("[!.]*"))) == 1
