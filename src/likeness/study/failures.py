"""What a job leaves in its run folder: a pointer to its cell, or the error that came before there was a cell."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from likeness.config import Sweep, to_plain
from likeness.report.folders import FAILED, POINTER, pointed_at
from likeness.study import environment

JOBS = "jobs.txt"  # in a run folder: how many numbered jobs belong to it


def begin(run_dir: Path, jobs: int | None) -> None:
    """Forget what an earlier launch left in this run folder; its cells are kept where they are.

    `jobs`: how many numbered jobs follow, 0 for a single run; None where nobody knows.
    """
    for job in (run_dir, *(p for p in run_dir.glob("*") if p.name.isdigit())):
        for name in (POINTER, FAILED):
            (job / name).unlink(missing_ok=True)
    if jobs is None:
        (run_dir / JOBS).unlink(missing_ok=True)
    else:
        (run_dir / JOBS).write_text(f"{jobs}\n", encoding="utf-8")


def point_to(run_dir: Path, cell: Path) -> None:
    """Point from a job's folder to its cell, finished or failed.

    The path is relative where both lie in one output folder, so that this can be moved as a whole.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / FAILED).unlink(missing_ok=True)
    target, here = cell.resolve(), run_dir.resolve()
    shown = os.path.relpath(target, here) if here.is_relative_to(target.parent.parent) else target
    (run_dir / POINTER).write_text(f"{shown}\n", encoding="utf-8")


def write(run_dir: Path, sweep: Sweep | None, overrides: list[str], error: str, trace: str | None = None) -> None:
    """Record why a job came to no cell: a model that is missing, prompts that mean nothing, no space.

    `sweep` is None where its configuration itself was refused.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / POINTER).unlink(missing_ok=True)
    what = " ".join(overrides) if sweep is None else f"{sweep.subject.name}, edit={sweep.edit.name}"
    record = {
        "status": "failed",
        "error": f"{what}: {error}",
        "traceback": trace,
        "command": environment.entry_command("sweep.py", overrides),
        "config": None if sweep is None else to_plain(sweep),
        "environment": environment.environment(),
    }
    text = json.dumps(record, indent=1, ensure_ascii=True, default=str)
    (run_dir / FAILED).write_text(text + "\n", encoding="utf-8")


def jobs(run_dir: Path) -> list[Path]:
    """Return the cell that each job of a run folder points at, there or not, or the job's own folder where it failed.

    A numbered job that left neither was killed, is still running, or never began; then its folder is not there. A dry
    run leaves nothing and is no job. Jobs beyond those of the last launch are an earlier one's.
    """
    folders, count = [], _count(run_dir)
    numbered = {p for p in run_dir.glob("*") if p.is_dir()}
    if count < math.inf:
        numbered |= {run_dir / str(number) for number in range(int(count))}
    for job in (run_dir, *sorted(numbered, key=_number)):
        if job != run_dir and job.name.isdigit() and int(job.name) >= count:
            continue
        if (job / POINTER).is_file():
            folders.append(pointed_at(job / POINTER))
        elif (job / FAILED).is_file() or (job != run_dir and job.name.isdigit() and not _was_dry(job)):
            folders.append(job)
    return list(dict.fromkeys(folders))


def silent(run_dir: Path) -> list[Path]:
    """Return the numbered jobs of a run folder that left neither a cell nor an error."""
    return [job for job in jobs(run_dir) if job.parent == run_dir and not (job / FAILED).is_file()]


def is_single(run_dir: Path) -> bool:
    """Say whether the last launch into a run folder was one job, without a number."""
    return _count(run_dir) == 0


def _count(run_dir: Path) -> float:
    """Return how many numbered jobs the last launch into a run folder made; infinite where it did not say."""
    try:
        return int((run_dir / JOBS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return math.inf


def _was_dry(job: Path) -> bool:
    """Say whether Hydra's copy of the job's configuration asks for a dry run."""
    try:
        return "dry_run: true" in (job / "hydra" / "config.yaml").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False


def _number(job: Path) -> tuple[int, str]:
    return (int(job.name), job.name) if job.name.isdigit() else (1 << 30, job.name)
