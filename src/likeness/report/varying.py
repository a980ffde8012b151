"""What sets the cells of a sweep apart beside subject and prompts: injection windows, training steps, sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from likeness.report.records import AXES, CellResult

# Where a setting is in a record's configuration -> what tables and plots call it.
EDITING = {
    "edit.cross_replace_steps": "cross",
    "edit.self_replace_steps": "self",
    "edit.self_replace_resolution": "self up to",
    "edit.blend.threshold": "blend",
    "edit.blend.start": "blend from",
    "edit.behaviour": "behaviour",
    "edit.word_windows": "word windows",
    "edit.weights": "weights",
}
DRAWING = {
    "model.name": "model",
    "model.source": "base model",
    "finetuned": "fine-tuned model",
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
ASKED = {"source_prompt": "source", "seeds": "seeds"}  # of the record itself: what cells of one name may differ in
# Column of the tidy table -> where it is in a record's configuration; a number picks one end of a window.
COLUMNS = {
    "cross_start": ("edit.cross_replace_steps", 0),
    "cross_end": ("edit.cross_replace_steps", 1),
    "self_start": ("edit.self_replace_steps", 0),
    "self_end": ("edit.self_replace_steps", 1),
    "self_resolution": ("edit.self_replace_resolution", None),
    "blend_threshold": ("edit.blend.threshold", None),
    "blend_start": ("edit.blend.start", None),
    "behaviour": ("edit.behaviour", None),
    "word_windows": ("edit.word_windows", None),
    "weights": ("edit.weights", None),
    "scheduler": ("sampler.scheduler", None),
    "num_inference_steps": ("sampler.num_inference_steps", None),
    "guidance_scale": ("sampler.guidance_scale", None),
    "num_train_steps": ("schedule.num_train_steps", None),
}


def columns(cell: CellResult) -> dict[str, str]:
    """Return what a cell asked for and its settings, by column of the tidy table; "" where it has no such thing."""
    asked = {axis: _short(cell.axes.get(axis)) for axis in AXES}
    found = {}
    for name, (path, end) in COLUMNS.items():
        value = _value(cell, path)
        window = end is not None and isinstance(value, list) and len(value) == 2
        found[name] = _short(value[end] if window else None if end is not None else value)
    return asked | found


def setting(cell: CellResult, path: str) -> str:
    """Return a setting of a cell as a short text; a dash where the cell has no such thing."""
    if path == "seeds":
        return _range(cell.record["seeds"])
    text = _short(cell.record[path] if path in ASKED else _value(cell, path)) or "–"
    return text.rpartition("/")[2] if path == "finetuned" else text  # a folder by its name


def _range(seeds: Sequence[int]) -> str:
    """Return seeds as "0–31" where they follow one another."""
    together = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]}–{seeds[-1]}" if together else " ".join(map(str, seeds))


def _value(cell: CellResult, path: str) -> Any:
    value: Any = cell.record.get("config")
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _short(value: Any) -> str:
    """Return a value of a configuration as a text, windows as "0–0.8"; "" for none and for what is empty."""
    if isinstance(value, dict):
        return " ".join(f"{name} {_short(part)}" for name, part in value.items())
    if isinstance(value, list):
        between = "–" if len(value) == 2 else " "
        return between.join(map(_short, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return f"{value:g}"


def varying(cells: Sequence[CellResult]) -> list[str]:
    """Return the settings that differ between cells of the same subject and edit, what re-prompting shares first.

    What differs only between subjects, as the prior class does, belongs to the subject; what differs only between
    edits, as their injection windows may, to the edit.
    """
    found = []
    for path in NAMES:
        values: dict[tuple[str, str], set[str]] = {}
        for cell in cells:
            if isinstance(cell.record.get("config"), dict):
                values.setdefault((cell.axes["subject"], cell.axes["edit"]), set()).add(setting(cell, path))
        if any(len(alike) > 1 for alike in values.values()):
            found.append(path)
    return found


def told_apart(cells: Sequence[CellResult]) -> list[CellResult]:
    """Return the cells with the settings in which they differ in their labels: "cake, cross 0–0.8".

    Cells that still share a name are told apart by source prompt and seeds, and if those agree by the hash that ends
    their folder's name.
    """
    paths = varying(cells)
    named = [replace(cell, settings=_settings(cell, paths)) for cell in cells]
    shared = _shared(named)
    asked: dict[tuple[str, str], list[str]] = {}  # subject and edit of cells that share a name -> what else differs
    for members in shared.values():
        kind = (members[0].axes["subject"], members[0].axes["edit"])
        differing = [path for path in ASKED if len({setting(cell, path) for cell in members}) > 1]
        asked[kind] = list(dict.fromkeys([*asked.get(kind, ()), *differing]))
    more = [asked.get((cell.axes["subject"], cell.axes["edit"]), ()) for cell in cells]
    named = [
        replace(cell, settings=_settings(cell, [*paths, *extra])) for cell, extra in zip(cells, more, strict=True)
    ]
    shared = _shared(named)
    return [replace(cell, twin=cell.folder.name.rsplit("-", 1)[-1]) if cell.name in shared else cell for cell in named]


def _settings(cell: CellResult, paths: Sequence[str]) -> str:
    found = (((NAMES | ASKED)[path], setting(cell, path)) for path in paths)
    return ", ".join(f"{name} {value}" for name, value in found if value != "–")


def _shared(cells: Sequence[CellResult]) -> dict[str, list[CellResult]]:
    """Return the cells of every name that more than one of them has."""
    by_name: dict[str, list[CellResult]] = {}
    for cell in cells:
        by_name.setdefault(cell.name, []).append(cell)
    return {name: members for name, members in by_name.items() if len(members) > 1}


def number_of(text: str) -> tuple[float, str]:
    """Return a key that sorts "0–0.4" and "200" by their last number."""
    try:
        return float(text.rsplit("–", 1)[-1]), text
    except ValueError:
        return float("-inf"), text
