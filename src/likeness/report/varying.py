"""What sets the cells of a sweep apart beside subject and prompts: injection windows, training steps, sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from likeness.report.records import CellResult

# Where a setting is in a record's configuration -> what tables and plots call it.
EDITING = {
    "edit.cross_replace_steps": "cross",
    "edit.self_replace_steps": "self",
    "edit.self_replace_resolution": "self up to",
    "edit.blend.threshold": "blend",
    "edit.blend.start": "blend from",
    "edit.behaviour": "behaviour",
}
DRAWING = {
    "model.name": "model",
    "method.name": "method",
    "prior_class.name": "prior class",
    "schedule.num_train_steps": "training steps",
    "schedule.learning_rate": "learning rate",
    "schedule.seed": "training seed",
    "sampler.scheduler": "sampler",
    "sampler.num_inference_steps": "sampling steps",
    "sampler.guidance_scale": "guidance",
    "sampler.negative_prompt": "negative prompt",
}  # these decide the pictures of re-prompting too
NAMES = DRAWING | EDITING


def setting(cell: CellResult, path: str) -> str:
    """Return a setting of a cell as a short text; a dash where the cell has no such thing."""
    value: Any = cell.record.get("config")
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, list) and len(value) == 2:
        return f"{value[0]:g}–{value[1]:g}"
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def varying(cells: Sequence[CellResult]) -> list[str]:
    """Return the settings that differ between cells of the same subject, what re-prompting shares first.

    What differs only between subjects, as the prior class does, belongs to the subject.
    """
    found = []
    for path in NAMES:
        values: dict[str, set[str]] = {}
        for cell in cells:
            if isinstance(cell.record.get("config"), dict):
                values.setdefault(cell.axes["subject"], set()).add(setting(cell, path))
        if any(len(of_subject) > 1 for of_subject in values.values()):
            found.append(path)
    return found


def told_apart(cells: Sequence[CellResult]) -> list[CellResult]:
    """Return the cells with the settings in which they differ in their labels: "cake, cross 0–0.8"."""
    paths = varying(cells)

    def settings(cell: CellResult) -> str:
        found = ((NAMES[path], setting(cell, path)) for path in paths)
        return ", ".join(f"{name} {value}" for name, value in found if value != "–")

    return [replace(cell, settings=settings(cell)) for cell in cells]


def number_of(text: str) -> tuple[float, str]:
    """Return a key that sorts "0–0.4" and "200" by their last number."""
    try:
        return float(text.rsplit("–", 1)[-1]), text
    except ValueError:
        return float("-inf"), text
