"""Upload what stayed offline: python -m likeness.report.sync [outputs/wandb]."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from likeness.errors import InputError
from likeness.report import tracker

SECONDS = 120.0  # for one run; those of a cell or a training take a few


def offline_runs(root: Path) -> list[Path]:
    """Return the offline runs under a folder that were not uploaded yet."""
    runs = sorted(root.rglob("offline-run-*"))
    return [run for run in runs if run.is_dir() and not list(run.glob("*.synced"))]


def sync(root: Path, timeout: float = SECONDS) -> int:
    """Upload every offline run with `wandb sync`; return how many failed, and say which.

    `timeout`: seconds for one run. The client tries a dead server again without end, so the first run that takes
    longer ends the upload.
    """
    runs = offline_runs(root)
    if not runs:
        raise InputError(f"no offline run under {root}: nothing to upload.")
    if not tracker.has_login():
        raise InputError(
            f"there is no W&B login: `wandb login`, or set WANDB_API_KEY, then upload the {len(runs)} again."
        )
    failed = []
    for number, run in enumerate(runs):
        try:
            done = subprocess.run([sys.executable, "-m", "wandb", "sync", str(run)], check=False, timeout=timeout)
        except subprocess.TimeoutExpired:
            print(
                f"no answer within {timeout:g} s: the W&B server cannot be reached, or the run is large; stopped. "
                "Check network and login, or give a larger --timeout, then run this again."
            )
            failed += runs[number:]
            break
        if done.returncode:
            failed.append(run)
    for run in failed:
        print(f"not uploaded: {run}")
    print(f"uploaded {len(runs) - len(failed)} of {len(runs)} runs")
    return len(failed)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.report.sync", description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path("outputs") / "wandb")
    parser.add_argument("--timeout", type=float, default=SECONDS, help="seconds for one run (default: %(default)g)")
    arguments = parser.parse_args(argv)
    try:
        raise SystemExit(1 if sync(arguments.root, arguments.timeout) else 0)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
