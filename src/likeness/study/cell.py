"""One cell of a sweep: plan, draw three arms, measure, record. A cell already done is not drawn again."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from likeness import models
from likeness.config import RECORDED_AXES, Sweep, to_plain, train_of
from likeness.errors import InputError
from likeness.malloc import keep_freed_memory
from likeness.study import cells, edited, environment, failures, photo, place, progress
from likeness.study.idle import refuse_idle
from likeness.study.notices import plan_notices
from likeness.study.plan import EditPlan, plan_edit

log = logging.getLogger(__name__)
ABANDONED = 600  # seconds after which a half-written folder belongs to a process that was killed


def train_command(sweep: Sweep, overrides: list[str]) -> str:
    """Return the train.py command that makes the model this cell edits."""
    groups = ("subject", "prior_class", "model", "method", "schedule")
    sweeping = [f"model.{name}" for name in place.SWEEPING]
    names = {o: environment.option_name(o) for o in overrides}
    kept = [o for o, name in names.items() if name.split(".")[0] in groups and name not in sweeping]
    if not any(o.startswith("subject=") for o in kept):
        kept.insert(0, f"subject={sweep.subject.name}")
    if sweep.out != "outputs":
        kept.append(f"out={sweep.out}")
    return environment.entry_command("train.py", kept)


def run_cell(sweep: Sweep, run_dir: Path, overrides: list[str]) -> Path | None:
    """Draw and record one cell and point to it from the run folder; return its folder (None for a dry run).

    Whatever goes wrong is recorded with its error before it is raised: in the cell's folder, or in the job's where
    it went wrong before there was a cell or a finished one could not be drawn again. Running the same
    command again draws what is missing.
    """
    if sweep.dry_run:
        from likeness.study.dry_run import dry_run

        with _p2p_errors_are_ours():
            refuse_idle(sweep, overrides)
            sweep = photo.settled(edited.settled(sweep))
            dry_run(sweep, plan_edit(sweep), train_command(sweep, overrides), finished_cell)
        return None
    keep_freed_memory()
    progress.own_bars()
    started, cell = time.perf_counter(), None
    try:
        with _p2p_errors_are_ours():
            cell = _prepare(sweep, run_dir, overrides)
            drawn = cell.run(run_dir)
    except Exception as error:
        progress.failed(run_dir, _record_failure(sweep, cell, run_dir, overrides, error))
        progress.advance(time.perf_counter() - started, drawn=False)
        raise
    try:
        failures.point_to(run_dir, cell.folder)
    except OSError as error:
        shown = (
            f"the cell {cell.folder} is finished and kept, but {run_dir} cannot point to it: "
            f"{error.strerror or error}. Free some space, then run the same command again."
        )
        progress.failed(run_dir, shown)
        raise InputError(shown) from error
    finally:
        progress.advance(time.perf_counter() - started, drawn)
    return cell.folder


@contextlib.contextmanager
def _p2p_errors_are_ours() -> Iterator[None]:
    """Make InputError of Prompt-to-Prompt's ValueError, which knows nothing of ours: it is what the user typed."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise InputError(str(error)).with_traceback(error.__traceback__) from None


def _prepare(sweep: Sweep, run_dir: Path, overrides: list[str]) -> _Cell:
    """Check all that has to be there, cheapest first, and return the cell that can be drawn."""
    from likeness import metrics

    refuse_idle(sweep, overrides)
    sweep = photo.settled(edited.settled(sweep))
    plan = plan_edit(sweep)
    edited.check_base(sweep)
    metrics.check_available(sweep.metrics.name, lpips_net=sweep.metrics.lpips_net, subject=True)
    if sweep.train_missing and not edited.is_there(sweep):
        from likeness.study.finetune import finetune_missing

        finetune_missing(train_of(sweep), run_dir)
    return _Cell(sweep, plan, edited.find(sweep, train_command(sweep, overrides)), overrides)


def finished_cell(sweep: Sweep, plan: EditPlan) -> Path | None:
    """Return the finished cell that `run_cell` would leave as it is; None where it would draw.

    Raises InputError where the model is missing, or the device or precision is none of this machine's.
    """
    cell = _Cell(sweep, plan, edited.find(sweep, train_command(sweep, [])), [])
    return cell.folder if cell.is_kept() else None


def _record_failure(sweep: Sweep, cell: _Cell | None, run_dir: Path, overrides: list[str], error: Exception) -> str:
    """Record an error where it belongs, and return it as it is shown."""
    trace = None if isinstance(error, InputError) else "".join(traceback.format_exception(error))
    shown = str(error) if trace is None else f"{type(error).__name__}: {error}"
    if trace is not None:
        log.error("%s failed:\n%s", cell.folder.name if cell else " ".join(overrides), trace)
    try:
        if cell is None or cells.is_done(cell.folder):  # an earlier cell is kept, and has no place for the error
            failures.write(run_dir, sweep, overrides, shown, trace)
        else:
            cells.write_failed(cell.folder, cell.record("failed", error=shown, traceback=trace))
            failures.point_to(run_dir, cell.folder)
    except (InputError, OSError) as second:
        log.error("the failure could not be recorded either: %s", second)
    return shown


def redraw(sweep: Sweep, scratch: Path, overrides: list[str]) -> tuple[Any, dict[str, Any]]:
    """Draw a cell's pictures afresh, taking none from earlier; return them and the record of this drawing.

    `overrides`: those of the cell's command, for the command that makes its model where that is missing.
    """
    from likeness.study import draw

    sweep = edited.settled(sweep)
    plan = plan_edit(sweep)
    cell = _Cell(sweep, plan, edited.find(sweep, train_command(sweep, overrides)), overrides)
    pipe = draw.load_cached(cell.model, cell.weights, cell.dtype, cell.device)
    return draw.draw_cell(pipe, sweep, plan, draw.PictureCache(scratch, {})), cell.record("redrawn")


class _Cell:
    def __init__(self, sweep: Sweep, plan: EditPlan, model: edited.Edited, overrides: list[str]) -> None:
        from likeness.study import measure

        self.sweep, self.plan, self.model, self.overrides = sweep, plan, model, overrides
        self.device = models.resolve_device(sweep.device)
        self.dtype = models.resolve_dtype(sweep.model.dtype, self.device)
        self.suite = measure.suite_for(sweep, self.device)
        self.weights = model.weights()
        self.photo = photo.content_id(sweep)
        identity = cells.cell_identity(sweep, plan, self.weights, self.dtype, self.suite.backbones, self.photo)
        self.hash = place.short_hash(identity)
        self.folder = Path(sweep.out) / "cells" / cells.cell_name(sweep, plan, identity)

    def record(self, status: str, **more: Any) -> dict[str, Any]:
        sweep, plan = self.sweep, self.plan
        axes = {
            "subject": sweep.subject.name,
            "prior_class": sweep.prior_class.name,
            "model": sweep.model.name,
            "method": sweep.method.name,
            "schedule": sweep.schedule.name,
            "edit": sweep.edit.name,
            "operator": plan.operator,
            **{axis: plan.axes.get(axis) for axis in RECORDED_AXES},
        }
        return {
            "format": cells.FORMAT,
            "cell": self.folder.name,
            "hash": self.hash,
            "status": status,
            "error": None,
            "axes": axes,
            "source_prompt": plan.source_prompt,
            "target_prompt": plan.target_prompt,
            "instance": f"{sweep.subject.identifier} {sweep.subject.class_word}",
            "seeds": sweep.seeds,
            "photo": self.photo,
            "sampler": asdict(sweep.sampler),
            "edit": asdict(sweep.edit),
            "backbones": self.suite.backbones,
            "directions": self.suite.directions,
            "weights": self.weights,
            "data": self.model.made_from(),
            "dtype": self.dtype,
            "device": self.device,
            "hardware": environment.hardware(self.device),
            "command": environment.entry_command("sweep.py", self.overrides),
            "config": to_plain(sweep),
            "environment": environment.environment(),
            "timing": {},
            "notices": [],
            **more,
        }

    def is_kept(self) -> bool:
        """Say whether the cell is finished and nobody asked for it again."""
        return cells.is_done(self.folder) and not self.sweep.overwrite

    def run(self, run_dir: Path) -> bool:
        """Draw, measure and record, unless it is done already; return whether anything was drawn."""
        if self.is_kept():
            print(f"already there: {self.folder}")
            return False
        if cells.is_torn(self.folder):
            print(f"note: {self.folder} holds no readable cell; it is drawn again.")
        cells.sweep_up(self.folder.parent, older_than=time.time() - ABANDONED)
        from likeness.study import draw, measure

        started = time.perf_counter()
        pipe = draw.load_cached(self.model, self.weights, self.dtype, self.device)
        timing = {"load": time.perf_counter() - started}
        drawn = draw.draw_cell(pipe, self.sweep, self.plan, self._cache())
        started = time.perf_counter()
        measured = measure.measure(self.suite, drawn.pictures, self.plan, drawn.regions)
        timing |= drawn.timing | {"measure": time.perf_counter() - started}
        notices = drawn.notices + plan_notices(self.sweep, self.plan)
        named = self.suite.described(measured["with"])
        record = self.record("done", timing=timing, notices=notices, drawn=drawn.count, **named)
        with cells.CellWriter(self.folder, replace=self.sweep.overwrite) as writer:
            rows = measure.write_cell(writer, record, drawn, measured)
            writer.commit()
        for notice in notices:
            print(f"note: {notice}")
        self._track(run_dir, record, rows)
        print(f"{self.folder}   {sum(timing.values()):.0f} s")
        return True

    def _cache(self):
        from likeness.study.draw import PictureCache

        packages = environment.environment()["packages"]
        key = {
            "versions": {name: packages[name] for name in ("torch", "diffusers", "transformers")},
            "device": self.device.partition(":")[0],
            "weights": self.weights,
            "dtype": self.dtype,
            "resolution": self.sweep.model.resolution,
            "sampler": asdict(self.sweep.sampler) | {"name": None},
        }
        if self.photo is not None:  # "without" starts from its noise, which depends on what it was inverted as
            key["photo"] = [self.photo, self.plan.source_prompt]
        return PictureCache(Path(self.sweep.out) / "pictures", key, fresh=self.sweep.overwrite)

    def _track(self, run_dir: Path, record: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Log to W&B; whatever goes wrong there costs nothing here."""
        from likeness.study import tracking

        summary = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        try:
            tracking.track_cell(self.sweep, run_dir, self.folder, record, rows, summary, self.model.folder)
        except InputError:
            raise
        except Exception as error:
            log.debug("tracking failed", exc_info=True)
            print(f"W&B did not take {self.folder.name} ({type(error).__name__}: {error}); the cell itself is kept.")
