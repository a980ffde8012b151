"""The sweep's one progress bar: cells done of all, time gone, and an estimate of the time left.

Only where all jobs run in one process. The estimate is the mean time of the cells drawn so far, so that cells which
were there already do not make it rosy; once there are others, the first, which also loads the models, is left out.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path
from statistics import mean
from typing import TextIO


def own_bars() -> None:
    """Have tqdm's bars take turns within this process alone.

    For bars of several it makes a semaphore, of which Python complains where a launcher's worker is stopped.
    """
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


class SweepProgress:
    """A bar that stays below what jobs print on a terminal; elsewhere one line per cell."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self.total, self.stream = total, stream
        self.done, self.taken = 0, []  # seconds of each cell drawn
        self.started = time.perf_counter()
        self.bar = self._bar() if stream.isatty() else None

    def _bar(self):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("sweep"), BarColumn(), TextColumn("{task.fields[state]}"))
        bar = Progress(
            *columns,
            console=Console(file=self.stream),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # elsewhere, as in a log, what jobs print stays where it was sent
        )
        self.task = bar.add_task("sweep", total=self.total, state=self.state())
        bar.start()
        return bar

    def advance(self, seconds: float, drawn: bool) -> None:
        """Count one cell; `drawn` says whether its time tells anything about the next."""
        self.done += 1
        if drawn:
            self.taken.append(seconds)
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, state=self.state())
        else:
            print(self.state(), file=self.stream, flush=True)

    def state(self) -> str:
        """Return "cell 3 of 12 · 40 s gone · about 2 min left"."""
        text = f"cell {self.done} of {self.total} · {duration(time.perf_counter() - self.started)} gone"
        left = self.seconds_left()
        return text if left is None or self.done >= self.total else f"{text} · about {duration(left)} left"

    def seconds_left(self) -> float | None:
        """Return the estimate; None before the first cell was drawn."""
        return (self.total - self.done) * mean(self.taken[1:] or self.taken) if self.taken else None

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


_current: SweepProgress | None = None


def start(total: int) -> None:
    """Show the progress of the sweep that begins in this process."""
    global _current
    _current = SweepProgress(total, sys.stderr)


def shown() -> bool:
    """Say whether a sweep's bar is up, so that inner bars keep quiet."""
    return _current is not None


def advance(seconds: float, drawn: bool) -> None:
    """Count one cell of the running sweep; does nothing outside one."""
    if _current is not None:
        _current.advance(seconds, drawn)


def failed(job: Path, error: str) -> None:
    """Say at once that a numbered job of a sweep failed, in any process; a single job says so itself, at its end."""
    if job.name.isdigit():
        with contextlib.suppress(OSError):  # errors go to a file on the disk that is full
            print(f"FAILED {named(job, error)}", file=sys.stderr, flush=True)  # above a bar, if there is one


def named(job: Path, error: str) -> str:
    """Return "cell 3: ..." for an error's first line in the job's folder, counted from 1 as the bar does."""
    return f"cell {int(job.name) + 1 if job.name.isdigit() else job.name}: {(error.strip() or '?').splitlines()[0]}"


def stop() -> None:
    """Take the bar down."""
    global _current
    if _current is not None:
        _current.close()
        _current = None


def duration(seconds: float) -> str:
    """Return "45 s", "3 min" or "2 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
