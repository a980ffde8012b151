"""Edit one fine-tuned subject with and without Prompt-to-Prompt; one job of `-m` is one cell of a sweep."""

import shlex
import sys
from pathlib import Path

import hydra

from likeness import command_line, config, launch
from likeness.errors import InputError, Stopped


@hydra.main(version_base="1.3", config_path="conf", config_name="sweep")
def main(cfg) -> None:
    job = launch.job()
    try:
        try:
            sweep = config.to_sweep(cfg)
        except InputError as error:
            record_refused(cfg, job, error)
            raise
        from likeness.study.cell import run_cell

        run_cell(sweep, job.directory, job.overrides)
    except InputError as error:
        if not (cfg.dry_run and job.one_of_many):
            raise launch.one_line(error) from error
        from likeness.study import dry_run

        dry_run.refuse(job.directory, str(error))  # all are said with the total, which also sets the exit code


def record_refused(cfg, job: launch.RunningJob, error: InputError) -> None:
    """Leave a refused configuration in its job's folder, and count the job; run_cell does both for all others."""
    from likeness.study import failures, progress

    if not cfg.dry_run:
        try:
            failures.write(job.directory, None, job.overrides, str(error))
        except OSError as second:
            print(f"note: the failure could not be recorded: {second}", file=sys.stderr)
        progress.failed(job.directory, str(error))
        progress.advance(0.0, drawn=False)


def begin(folder: Path, jobs: int | None, here: bool) -> None:
    """Make the run folder this launch's own, and put up the bar of a sweep whose jobs all run here."""
    from likeness.study import failures, progress

    try:
        failures.begin(folder, jobs)
    except OSError as error:
        raise SystemExit(f"error: cannot write into the run folder {folder}: {error.strerror or error}.") from error
    if jobs and here:
        progress.start(jobs)


def gather_launched() -> None:
    """Write table and report of what this process launched; also after failed jobs, silent where nothing ran."""
    folder = launch.LAUNCH.folder
    if "likeness.study.progress" in sys.modules:
        sys.modules["likeness.study.progress"].stop()
    if folder is not None and has_jobs(folder):
        from likeness.study.gather import gather

        try:
            gather(folder)
        except OSError as error:
            raise SystemExit(
                f"error: table and report of {folder} are not written: {error.strerror or error}. The cells are kept; "
                f"free some space, then run: python -m likeness.study.gather {shlex.quote(str(folder))}"
            ) from error
    if "likeness.study.dry_run" in sys.modules:
        sys.modules["likeness.study.dry_run"].print_total()


def refused_dry() -> bool:
    """Say whether a dry run of this process refused a cell."""
    module = sys.modules.get("likeness.study.dry_run")
    return bool(module and module.TOTAL.refused)


def sweep_and_gather() -> None:
    """Do what was launched, and bring it together also after failed jobs or Ctrl-C."""
    try:
        main()
    except KeyboardInterrupt as stop:
        gather_launched()  # which another Ctrl-C skips
        raise Stopped(last_words()) from stop
    except BaseException:
        gather_launched()
        raise
    gather_launched()
    if refused_dry():
        raise SystemExit(1)


def last_words() -> str:
    """Say after Ctrl-C what the same command does."""
    folder = launch.LAUNCH.folder
    if folder is None or launch.LAUNCH.dry:
        return "stopped"
    from likeness.study.gather import what_next

    if launch.LAUNCH.goes_on:
        return f"stopped waiting; jobs that Slurm has go on (scancel ends them), then {what_next(folder)}"
    return f"stopped; {what_next(folder)}"


def has_jobs(folder: Path) -> bool:
    """Say whether a launch left anything to gather; a single job that was refused has said so itself."""
    return (folder / "cell.txt").is_file() or any(p.is_dir() and p.name.isdigit() for p in folder.glob("*"))


if __name__ == "__main__":
    command_line.check(sys.argv[1:], "sweep.py")
    launch.LAUNCH.started = begin
    launch.one_line_when_stopped(sweep_and_gather)
