"""Run the committed experiments and rewrite their tables: python -m likeness.reproduce [002_local_edits ...].

An experiment is a folder experiments/NNN_slug with a README.md that holds a question, one command, a place for the
table between markers, and a verdict. Command and records decide what is written; verdicts are written by people.
The command is a sweep, whose cells are tabled here, or a module that writes its page itself; in the latter,
`outputs/runs/RUN ...` stands for the newest run folder of every sweep. A sweep's line in the results table of the
README beside experiments/ is written too, and after all experiments the table of the judge in experiments/README.md.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from likeness.errors import InputError
from likeness.report.effects import effects, overall
from likeness.report.metric_names import interval, number
from likeness.report.notebook import fill_page, read_page, table_of
from likeness.report.records import CellResult, measured_alike, read_cells
from likeness.report.varying import EDITING, varying
from likeness.study.environment import short_commit

COMMAND = re.compile(r"^```\n(python (?:sweep\.py|-m likeness\.\S+).*)\n```$", re.MULTILINE)
RUNS_FOLDER = "outputs/runs/"
RUNS = [f"{RUNS_FOLDER}RUN", "..."]


@dataclass(frozen=True)
class Experiment:
    """One folder of the lab notebook."""

    folder: Path
    command: str

    @property
    def page(self) -> Path:
        return self.folder / "README.md"

    @property
    def is_sweep(self) -> bool:
        return self.command.startswith("python sweep.py")


def read_experiment(folder: Path) -> Experiment:
    """Read a notebook folder; InputError where command or markers are missing."""
    page = folder / "README.md"
    if not page.is_file():
        raise InputError(f"{folder} holds no README.md, so there is no experiment in it.")
    commands = COMMAND.findall(read_page(page))
    if len(commands) != 1:
        raise InputError(
            f"{page} needs exactly one fenced `python sweep.py ...` or `python -m likeness...` line; "
            f"it has {len(commands)}."
        )
    return Experiment(folder, commands[0])


def find(root: Path, names: list[str]) -> list[Experiment]:
    """Return the experiments under a folder in the order of their numbers, or those named."""
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: run this where the repository was checked out.")
    folders = sorted(page.parent for page in root.glob("[0-9]*/README.md"))
    known = [folder.name for folder in folders]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"there is no experiment {unknown[0]!r}; there are {', '.join(known) or 'none'}.")
    return [read_experiment(folder) for folder in folders if not names or folder.name in names]


def run(experiment: Experiment, out: Path, overrides: list[str]) -> tuple[Path, int]:
    """Run the experiment's command; return its run folder and the exit code of the sweep."""
    run_dir = out / "runs" / f"{datetime.now().strftime('%Y-%m-%d_%H-%M-%S-%f')}_{experiment.folder.name}"
    words = [*shlex.split(experiment.command)[1:], f"out={out}", f"hydra.sweep.dir={run_dir}", *overrides]
    return run_dir, subprocess.run([sys.executable, *words], check=False).returncode


def run_module(experiment: Experiment, out: Path) -> int:
    """Run a command that writes its page itself; return its exit code. InputError where it needs runs and has none."""
    words = shlex.split(experiment.command)[1:]
    if words[-2:] == RUNS:
        newest = {folder.name.split("_", 2)[-1]: str(folder) for folder in sorted((out / "runs").glob("*_[0-9]*_*"))}
        words[-2:] = runs = [newest[name] for name in sorted(newest) if (experiment.folder.parent / name).is_dir()]
        if not runs:
            raise InputError(f"no experiment was run into {out / 'runs'} yet: run the notebook's sweeps first.")
    return subprocess.run([sys.executable, *words], check=False).returncode


def fill(experiment: Experiment, run_dir: Path) -> None:
    """Write table and picture of what a run folder points at between the markers of the experiment's page.

    Also its line in the README's results table, where there is one.
    """
    from likeness.study.gather import cells_of

    done, failed = read_cells(cells_of(run_dir) if run_dir.is_dir() else [])
    if not done:
        raise InputError(f"{experiment.folder.name}: no finished cell in {run_dir}; its page is left as it is.")
    swept = set(varying(done)) & set(EDITING)  # a map is of windows and thresholds, with or without other settings
    shown = _map(experiment, done) if swept else _figure(experiment, done, run_dir)
    fill_page(experiment.page, [provenance(done, len(failed)), *shown])
    fill_result(experiment, done)


def fill_result(experiment: Experiment, cells: list[CellResult]) -> None:
    """Write an experiment's numbers into its line between the markers of the README beside the notebook.

    Its first column, written by people, and all other lines are kept. InputError where the README has no such markers,
    or the cells must not be pooled; without a README or a line of the experiment nothing is written.
    """
    page = experiment.folder.parent.parent / "README.md"
    if not page.is_file():
        return
    lines = table_of(page).splitlines()
    mine = f"({experiment.folder.parent.name}/{experiment.folder.name}/README.md)"
    if not any(mine in line for line in lines):
        return
    if len(groups := measured_alike(cells)) > 1:
        raise InputError(f"{page}: the cells of {experiment.folder.name} were not drawn alike: {'; '.join(groups)}.")
    for at, line in enumerate(lines):
        if mine in line:
            lines[at] = f"| {line.split('|')[1].strip()} | {' | '.join(result(cells))} |"
    fill_page(page, ["\n".join(lines)])
    print(f"written: {page}")


def result(cells: list[CellResult]) -> list[str]:
    """Return n, edit success, LPIPS, its difference, and the head's movement of cells measured alike, pooled."""
    found = overall(effects(cells, ("edit_success", "lpips", "head_shift_px")))

    def arms(metric: str) -> str:
        entry = found.get(metric)
        return " / ".join(number(metric, entry[arm]) for arm in ("with", "without")) if entry else "–"

    difference = (found.get("lpips") or {}).get("difference")
    n = max((entry["difference"]["n"] for entry in found.values()), default=0)
    return [str(n), arms("edit_success"), arms("lpips"), interval("lpips", difference), arms("head_shift_px")]


def judge_figures(page: Path, out: Path) -> int:
    """Run the command on the notebook's first page, which writes the judge's table there; return its exit code.

    The runs it names are looked for under `out`. Without such a page nothing is run.
    """
    commands = COMMAND.findall(page.read_text(encoding="utf-8")) if page.is_file() else []
    if not commands:
        return 0
    words = []
    for word in shlex.split(commands[0])[1:]:
        if word.startswith(RUNS_FOLDER):
            words += map(str, sorted((out / "runs").glob(word.removeprefix(RUNS_FOLDER))))
        else:
            words.append(str(page) if words[-1:] == ["--page"] else word)
    print(f"== {page}: {commands[0]}", flush=True)
    return subprocess.run([sys.executable, *words], check=False).returncode


def _map(experiment: Experiment, cells: list[CellResult]) -> list[str]:
    from likeness.report.settings_map import markdown, trade
    from likeness.report.tradeoff_plot import draw_map

    made = trade(cells)
    (experiment.folder / "map.svg").write_text(draw_map(made), encoding="utf-8")
    return ["![edit success against structure kept](map.svg)", markdown(made)]


def _figure(experiment: Experiment, cells: list[CellResult], run_dir: Path) -> list[str]:
    from likeness.results import markdown
    from likeness.study.overview import overview

    overview(run_dir, None, experiment.folder / "picture.jpg")
    return ["![source, re-prompting and Prompt-to-Prompt](picture.jpg)", markdown(cells)]


def provenance(cells: list[CellResult], failed: int) -> str:
    """Return where and with what the cells were drawn, from their records."""
    records = [cell.record for cell in cells]
    commits = {short_commit((record.get("environment") or {}).get("git")) for record in records}
    devices = {str(record.get("device")) for record in records}
    torch = {str((record["environment"].get("packages") or {}).get("torch")) for record in records}
    photos = all(record.get("photo") for record in records)
    each = "a photo" if photos else f"{', '.join(sorted({str(len(r['seeds'])) for r in records}))} seeds"
    text = (
        f"{len(cells)} cells of {each}, "
        f"commit {', '.join(sorted(commits))}, {', '.join(sorted(devices))}, torch {', '.join(sorted(torch))}."
    )
    return text + (f" {failed} cells failed and are not in it." if failed else "")


def reproduce(experiment: Experiment, arguments: argparse.Namespace) -> list[str]:
    """Run one experiment and write its page; return what went wrong."""
    run_dir, code, troubles = arguments.fill, 0, []
    try:
        if not experiment.is_sweep:
            code = run_module(experiment, arguments.out)
        elif run_dir is None:
            run_dir, code = run(experiment, arguments.out, arguments.override)
        if experiment.is_sweep:
            fill(experiment, run_dir)
            print(f"written: {experiment.page}")
    except InputError as error:
        troubles.append(str(error))
    if code:
        troubles.insert(0, f"{experiment.folder.name}: the command ended with exit code {code}")
    return troubles


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.reproduce", description=__doc__)
    parser.add_argument("names", nargs="*", help="folders under experiments/; all of them if none is given")
    parser.add_argument("--experiments", type=Path, default=Path("experiments"))
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    parser.add_argument(
        "--fill", type=Path, metavar="RUN_DIR", help="do not run: take this run folder of the one named"
    )
    parser.add_argument("--override", action="append", default=[], help="added to every sweep, e.g. logger=none")
    arguments = parser.parse_args(argv)
    try:
        experiments = find(arguments.experiments, arguments.names)
        if not arguments.fill and not Path("sweep.py").is_file():
            raise InputError("there is no sweep.py here: run this in the repository's folder.")
        if arguments.fill and len(experiments) != 1:
            raise InputError("--fill takes the run folder of one experiment: name it.")
        if arguments.fill and not experiments[0].is_sweep:
            raise InputError(f"{experiments[0].folder.name} is no sweep: its command writes the page, --fill cannot.")
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    troubles = []
    for experiment in experiments:
        print(f"== {experiment.folder.name}: {experiment.command}", flush=True)
        troubles += reproduce(experiment, arguments)
    if not arguments.names and (code := judge_figures(arguments.experiments / "README.md", arguments.out)):
        troubles.append(f"the judge's table: the command ended with exit code {code}")
    if troubles:
        raise SystemExit("\n".join(f"error: {trouble}" for trouble in troubles))


if __name__ == "__main__":
    main()
