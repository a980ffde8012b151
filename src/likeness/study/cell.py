"""One cell of a sweep: plan, draw three arms, measure, record. A cell already done is not drawn again."""

from __future__ import annotations

import json
import logging
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from likeness import models
from likeness.config import AXES, Sweep, to_plain
from likeness.errors import InputError
from likeness.study import cells, environment, place
from likeness.study.plan import EditPlan, label, plan_edit

log = logging.getLogger(__name__)
# Measured on 2 CPU cores: pictures of 128 px drawn per second at 50 DDIM steps with guidance.
SECONDS_PER_PICTURE = {"paperdoll": 1.3}


def train_command(sweep: Sweep, overrides: list[str]) -> str:
    """Return the train.py command that makes the model this cell edits."""
    groups = ("subject", "prior_class", "model", "method", "schedule")
    kept = [o for o in overrides if o.lstrip("+").split("=")[0].split(".")[0] in groups]
    if not any(o.startswith("subject=") for o in kept):
        kept.insert(0, f"subject={sweep.subject.name}")
    if sweep.out != "outputs":
        kept.append(f"out={sweep.out}")
    return environment.entry_command("train.py", kept)


def run_cell(sweep: Sweep, run_dir: Path, overrides: list[str]) -> Path | None:
    """Draw and record one cell and point to it from the run folder; return its folder (None for a dry run)."""
    plan = plan_edit(sweep)
    command = train_command(sweep, overrides)
    if sweep.dry_run:
        _dry_run(sweep, plan, command)
        return None
    from likeness import metrics

    models.check_available(place.model_source(sweep.model))
    metrics.check_available(sweep.metrics.name, lpips_net=sweep.metrics.lpips_net)
    finetuned = place.need_finetuned(sweep, command)
    cell = _Cell(sweep, plan, finetuned, overrides)
    if cells.is_done(cell.folder) and not sweep.overwrite:
        print(f"already there: {cell.folder}")
    else:
        cell.run(run_dir)
    _point_to(run_dir, cell.folder)
    return cell.folder


def _dry_run(sweep: Sweep, plan: EditPlan, command: str) -> None:
    from likeness.dreambooth import is_finished

    folder = place.model_folder(sweep)
    seconds = SECONDS_PER_PICTURE.get(sweep.model.name)
    pictures = 3 * len(sweep.seeds)
    steps = sweep.sampler.num_inference_steps / 50
    print(f"{sweep.subject.name} · {sweep.edit.name} · {label(plan.axes)} · {plan.operator}")
    print(f"  source  {plan.source_prompt}")
    print(f"  target  {plan.target_prompt}" + "".join(f"   [{w} x {v:g}]" for w, v in plan.weights))
    print(f"  model   {folder}" + ("" if is_finished(folder) else f"   MISSING, make it with: {command}"))
    time_ = f"about {pictures * seconds * steps:.0f} s on 2 CPU cores" if seconds else "time not known for this model"
    print(f"  draws   {pictures} pictures ({len(sweep.seeds)} seeds x 3 arms), {time_}")


def _point_to(run_dir: Path, folder: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "cell.txt").write_text(f"{folder.resolve()}\n", encoding="utf-8")


def redraw(sweep: Sweep, scratch: Path) -> tuple[Any, str]:
    """Draw a cell's pictures afresh, taking none from earlier; return them and the id of the weights used."""
    from likeness.study import draw

    plan = plan_edit(sweep)
    cell = _Cell(sweep, plan, place.need_finetuned(sweep, train_command(sweep, [])), [])
    pipe = draw.load_cached(cell.base, cell.finetuned, cell.weights, cell.dtype, cell.device)
    return draw.draw_cell(pipe, sweep, plan, draw.PictureCache(scratch, {})), cell.weights


class _Cell:
    def __init__(self, sweep: Sweep, plan: EditPlan, finetuned: Path, overrides: list[str]) -> None:
        from likeness import metrics

        self.sweep, self.plan, self.finetuned, self.overrides = sweep, plan, finetuned, overrides
        self.base = place.model_source(sweep.model)
        self.device = models.resolve_device(sweep.device)
        self.dtype = models.resolve_dtype(sweep.model.dtype, self.device)
        self.suite = metrics.build(sweep.metrics.name, device=self.device, lpips_net=sweep.metrics.lpips_net)
        self.weights = self._weights()
        identity = cells.cell_identity(sweep, plan, self.weights, self.dtype, self.suite.backbones)
        self.hash = place.short_hash(identity)
        self.folder = Path(sweep.out) / "cells" / cells.cell_name(sweep, plan, identity)

    def _weights(self) -> str:
        if (self.finetuned / "model").is_dir():
            return models.weights_id(models.ModelSource("finetuned", str(self.finetuned / "model")))
        lora = models.ModelSource("lora", str(self.finetuned / "lora" / "pytorch_lora_weights.safetensors"))
        return f"{models.weights_id(self.base)}+{models.weights_id(lora)}"

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
            **{axis: plan.axes.get(axis) for axis in AXES},
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
            "sampler": asdict(sweep.sampler),
            "edit": asdict(sweep.edit),
            "backbones": self.suite.backbones,
            "directions": self.suite.directions,
            "weights": self.weights,
            "dtype": self.dtype,
            "device": self.device,
            "command": environment.entry_command("sweep.py", self.overrides),
            "config": to_plain(sweep),
            "environment": environment.environment(),
            "timing": {},
            "notices": [],
            **more,
        }

    def run(self, run_dir: Path) -> None:
        try:
            self._run(run_dir)
        except Exception as error:
            if type(error) is ValueError:  # Prompt-to-Prompt knows nothing of ours: what the user typed
                error = InputError(str(error)).with_traceback(error.__traceback__)
            cells.write_failed(self.folder, self.record("failed", error=f"{type(error).__name__}: {error}"))
            _point_to(run_dir, self.folder)
            if not isinstance(error, InputError):
                log.error("%s failed:\n%s", self.folder.name, traceback.format_exc())
            raise error

    def _run(self, run_dir: Path) -> None:
        from likeness.study import draw, measure

        started = time.perf_counter()
        pipe = draw.load_cached(self.base, self.finetuned, self.weights, self.dtype, self.device)
        timing = {"load": time.perf_counter() - started}
        sweep = self.sweep
        key = {
            "weights": self.weights,
            "dtype": self.dtype,
            "resolution": sweep.model.resolution,
            "sampler": asdict(sweep.sampler) | {"name": None},
        }
        cache = draw.PictureCache(Path(sweep.out) / "pictures", key)
        drawn = draw.draw_cell(pipe, sweep, self.plan, cache)
        started = time.perf_counter()
        measured = measure.measure(self.suite, drawn.pictures, self.plan)
        timing |= drawn.timing | {"measure": time.perf_counter() - started}
        notices = drawn.notices + measure.grammar_notices(sweep, self.plan)
        record = self.record("done", timing=timing, notices=notices)
        with cells.CellWriter(self.folder) as writer:
            rows = measure.write_cell(writer, record, drawn, measured)
            writer.commit()
        for notice in notices:
            print(f"note: {notice}")
        self._track(run_dir, record, rows)
        print(f"{self.folder}   {sum(timing.values()):.0f} s")

    def _track(self, run_dir: Path, record: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        from likeness.study import tracking

        summary = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        tracking.track_cell(self.sweep, run_dir, self.folder, record, rows, summary)
