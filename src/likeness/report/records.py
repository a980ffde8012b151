"""Read the records of cells, and pool them: only numbers measured and drawn alike are put together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from likeness.metrics.statistics import paired
from likeness.report.folders import FAILED
from likeness.report.spreadsheet import read_rows

AXES = ("style", "scene", "target", "addition", "word", "weight", "photo")
LEFT_NOTHING = (
    "left nothing: it is still running, never began, or was killed or timed out; "
    "the same command draws it again once it has ended"
)
GONE = "where its run folder points: it was moved or removed; move it back, or draw it again with the same command"


@dataclass(frozen=True)
class CellResult:
    """A finished cell: its record, its summary and one row per picture."""

    folder: Path
    record: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, str]]
    settings: str = ""  # what sets it apart from other cells beside what was asked; see varying.told_apart
    twin: str = ""  # of its folder's name, where another cell has the same settings too

    @property
    def axes(self) -> dict[str, Any]:
        return self.record["axes"]

    @property
    def label(self) -> str:
        """Return what the cell asked for, short: "cake", "blossom 4", "watercolor, 07.png"."""
        values = [self.axes.get(axis) for axis in AXES if axis != "photo"]
        shown = [f"{v:g}" if isinstance(v, float) else str(v) for v in values if v is not None]
        asked = " ".join(shown) or self.record["target_prompt"]
        parts = (asked, self.axes.get("photo"), self.settings, self.twin and f"cell {self.twin}")
        return ", ".join(filter(None, parts))

    @property
    def name(self) -> str:
        return f"{self.axes['subject']} · {self.axes['edit']} · {self.label}"

    @property
    def backbones(self) -> str:
        """Return the weights the numbers were measured with, as one line."""
        return ", ".join(dict.fromkeys(self.record["backbones"].values()))

    @property
    def compares(self) -> bool:
        """Say whether re-prompting is an edit here: with the source's own prompt it only draws the source again."""
        return self.record["source_prompt"] != self.record["target_prompt"]

    @cached_property
    def conditions(self) -> dict[str, str]:
        """Return what must agree before numbers of two cells are averaged, beside the trained weights themselves."""
        record, config = self.record, self.record.get("config") or {}
        training = {group: config.get(group, self.axes.get(group)) for group in ("method", "schedule")}
        training["prior_class"] = self.prior_class
        packages = (record.get("environment") or {}).get("packages") or {}
        return {
            "backbones": self.backbones,
            "model": " ".join(str(v) for v in (self.axes.get("model"), (record.get("data") or {}).get("base")) if v),
            "precision": str(record.get("dtype") or ""),
            "training": json.dumps(training, sort_keys=True),
            "versions": ", ".join(f"{name} {version}" for name, version in packages.items()),
        }

    @property
    def prior_class(self) -> Any:
        """Return the prior class as configured; the subject's own class is called "own", whatever its word."""
        config = self.record.get("config") or {}
        prior, word = (
            config.get("prior_class", self.axes.get("prior_class")),
            config.get("subject", {}).get("class_word"),
        )
        if isinstance(prior, dict) and word and prior.get("class_word") == word:
            return prior | {"name": "own", "class_word": "CLASS"}
        return prior

    def difference(self, metric: str) -> dict[str, Any] | None:
        """Return the paired difference with minus without, None where there is no such comparison."""
        entry = self.summary["metrics"].get(metric)
        return entry["difference"] if entry and self.compares else None

    def mean(self, metric: str, arm: str) -> float | None:
        """Return the mean of an arm ("with" or "without")."""
        entry = self.summary["metrics"].get(metric)
        return entry[arm] if entry else None


@dataclass(frozen=True)
class Failed:
    """A cell that did not finish, or a folder that is none."""

    folder: Path
    error: str
    command: str | None = None
    others: int = 0  # more jobs of which the same is to be said

    @property
    def silent(self) -> bool:
        """Say whether it is a job that left neither a cell nor an error."""
        return self.error == LEFT_NOTHING

    @property
    def name(self) -> str:
        return f"{self.folder.name} and {self.others} more" if self.others else self.folder.name


def listed(failed: Sequence[Failed]) -> list[Failed]:
    """Return what did not finish as a list for people: jobs that left nothing are one line at its end."""
    silent = [cell for cell in failed if cell.silent]
    named = [cell for cell in failed if not cell.silent]
    return [*named, replace(silent[0], others=len(silent) - 1)] if silent else named


def counted(failed: Sequence[Failed]) -> dict[str, int]:
    """Return how many "failed" and how many were "not drawn": interrupted, not begun or still running."""
    silent = sum(cell.silent for cell in failed)
    return {what: n for what, n in (("failed", len(failed) - silent), ("not drawn", silent)) if n}


NEEDED = {
    "record.json": ("axes", "directions", "environment", "seeds", "source_prompt", "target_prompt"),
    "summary.json": ("metrics", "n"),
}


def count_pairs(cells: Iterable[CellResult]) -> int:
    """Return how many pictures with and without are compared in these cells."""
    return sum(cell.summary["n"] for cell in cells if cell.compares)


def count_sources(cells: Iterable[CellResult]) -> int:
    """Return how many source pictures these pairs come from."""
    return len({(*source_of(cell), row["seed"]) for cell in cells if cell.compares for row in cell.rows})


def direction_of(cells: Sequence[CellResult], metric: str) -> str:
    """Return which way a metric points, as the cells that have it say."""
    return next((found for cell in cells if (found := cell.record["directions"].get(metric))), "neutral")


def read_cells(folders: Iterable[Path]) -> tuple[list[CellResult], list[Failed]]:
    """Read cell folders; what is unreadable, failed or left without a word comes back in the second list."""
    cells, failed = [], []
    for folder in folders:
        name = next((n for n in ("record.json", FAILED) if (folder / n).is_file()), None)
        if name is None and folder.name.isdigit():  # a job's folder, not a cell's
            failed.append(Failed(folder, LEFT_NOTHING))
            continue
        if not folder.is_dir():
            failed.append(Failed(folder, f"is not in {folder.parent}, {GONE}"))
            continue
        try:
            record = json.loads((folder / (name or FAILED)).read_text(encoding="utf-8"))
            if record.get("status") != "done":
                failed.append(Failed(folder, str(record.get("error")), record.get("command")))
                continue
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            for file, content in (("record.json", record), ("summary.json", summary)):
                if absent := [key for key in NEEDED[file] if key not in content]:
                    raise ValueError(f"{file} has no {', '.join(absent)}; overwrite=true draws the cell again.")
            cells.append(CellResult(folder, record, summary, read_rows(folder / "results.csv")))
        except (OSError, ValueError, AttributeError) as error:
            failed.append(Failed(folder, f"unreadable: {error}"))
    return cells, failed


def values(cells: Sequence[CellResult], metric: str, arm: str) -> list[float | None]:
    """Return one value per picture of an arm, in the order of cells and seeds; None where not measured."""
    return [_number(row.get(metric)) for cell in cells for row in cell.rows if row["arm"] == arm]


def _number(text: str | None) -> float | None:
    return float(text) if text not in (None, "") else None


def pairs(cells: Sequence[CellResult], metric: str) -> list[tuple[float, float, tuple[str, ...]]]:
    """Return (with, without, source picture) of every seed of every cell that was measured in both arms.

    Pairs with the same third entry edit the same source picture. Cells without a comparison, such as a word that is
    re-weighted in the same prompt, have none.
    """
    found = []
    for cell in (cell for cell in cells if cell.compares):
        drawn = {arm: {row["seed"]: row for row in cell.rows if row["arm"] == arm} for arm in ("with", "without")}
        source = source_of(cell)
        for seed, row in drawn["with"].items():
            value, other = _number(row.get(metric)), _number(drawn["without"].get(seed, {}).get(metric))
            if value is not None and other is not None:
                found.append((value, other, (*source, seed)))
    return found


def source_of(cell: CellResult) -> tuple[str, ...]:
    """Return what a cell's source pictures are drawn from, beside their seeds."""
    photo = [cell.record["photo"]] if cell.record.get("photo") else []
    return cell.axes["subject"], str(cell.record.get("weights")), cell.record["source_prompt"], *photo


def pooled(cells: Sequence[CellResult], metric: str) -> dict[str, Any] | None:
    """Return means and the paired difference over cells measured alike; None without pairs.

    Both means, their difference, interval and test are over source pictures: the edits of one are averaged first, so
    that each counts once however many edits it has. Raises ValueError for cells that were measured
    with different backbones for this metric, or drawn by different base models, weights or versions.
    """
    refuse_mixtures(cells, metric)
    refuse_weights(cells)
    both = pairs(cells, metric)
    if not both:
        return None
    with_, without, sources = zip(*both, strict=True)
    edits = Counter(sources)
    return {
        "with": sum(value / edits[source] for value, source in zip(with_, sources, strict=True)) / len(edits),
        "without": sum(value / edits[source] for value, source in zip(without, sources, strict=True)) / len(edits),
        "difference": paired(with_, without, groups=sources),
    }


def refuse_mixtures(cells: Sequence[CellResult], *metrics: str) -> None:
    """Raise ValueError for cells of which these metrics are of different backbones, or that were drawn otherwise.

    That is, by different base models, precisions or versions; the trained weights are `refuse_weights`' part.
    """
    for metric in metrics:
        if len({backbone for cell in cells if (backbone := cell.record["backbones"].get(metric))}) > 1:
            raise ValueError(f"{metric} was measured with different backbones; such numbers are not pooled.")
    for name in ("model", "precision", "versions"):
        if len(found := {cell.conditions[name] for cell in cells}) > 1:
            raise ValueError(f"cells of different {name} are not pooled: {'; '.join(sorted(found))}.")


def refuse_weights(cells: Sequence[CellResult]) -> None:
    """Raise ValueError where cells of one subject were drawn with different trained weights."""
    weights: dict[str, set[str]] = {}
    for cell in cells:
        weights.setdefault(cell.axes["subject"], set()).add(str(cell.record.get("weights")))
    for subject, found in weights.items():
        if len(found) > 1:
            raise ValueError(f"cells of {subject} drawn with different weights are not pooled: {sorted(found)}.")


def measured_alike(cells: Sequence[CellResult]) -> dict[str, list[CellResult]]:
    """Group cells that may be averaged, in order of appearance, by a text that tells the groups apart.

    The text names the backbones, and what else differs: base model, precision, training, versions. Two trainings of
    one subject with the same settings and other weights are in different groups.
    """
    trained: dict[tuple[str, ...], list[str]] = {}
    groups: dict[tuple[tuple[str, str], ...], list[CellResult]] = {}
    for cell in cells:
        conditions = dict(cell.conditions)
        known = trained.setdefault((*conditions.values(), cell.axes["subject"]), [])
        weights = str(cell.record.get("weights"))
        if weights not in known:
            known.append(weights)
        conditions["weights"] = f"weights no. {known.index(weights) + 1}"
        groups.setdefault(tuple(conditions.items()), []).append(cell)
    described = {key: dict(key) | {"training": _training(members[0])} for key, members in groups.items()}
    differing = [name for name in next(iter(described.values()), {}) if len({d[name] for d in described.values()}) > 1]
    named: dict[str, list[CellResult]] = {}
    for key, members in groups.items():
        conditions = described[key]
        text = " · ".join([conditions["backbones"], *(conditions[n] for n in differing if n != "backbones")])
        while text in named:  # differ in training settings that have the same name
            text += " · other settings"
        named[text] = members
    return named


def _training(cell: CellResult) -> str:
    prior = cell.prior_class
    names = [
        prior.get("name") if isinstance(prior, dict) else prior,
        cell.axes.get("method"),
        cell.axes.get("schedule"),
    ]
    return " ".join(str(name) for name in names if name)


def alike_but_training(groups: dict[str, list[CellResult]]) -> list[list[str]]:
    """Return the names of groups of `measured_alike`, those together whose cells differ in their training alone."""
    together: dict[tuple[str, ...], list[str]] = {}
    for name, members in groups.items():
        conditions = members[0].conditions
        together.setdefault(tuple(conditions[n] for n in conditions if n != "training"), []).append(name)
    return list(together.values())


def by_backbones(cells: Sequence[CellResult]) -> dict[str, list[CellResult]]:
    """Group cells by the weights they were measured with, in order of appearance."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        groups.setdefault(cell.backbones, []).append(cell)
    return groups
