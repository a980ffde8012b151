"""What the page shows of one cell, as plain values for the template: pictures by seed, words, metrics, commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from likeness.metrics.statistics import holm
from likeness.report.commands import replay_command, seed_commands
from likeness.report.comparisons import judged
from likeness.report.metric_names import STRUCTURE, interval, named, number
from likeness.report.records import CellResult
from likeness.report.thumbnails import Thumbnails

ARMS = ("source", "without", "with")
Key = tuple[Path, str]


@dataclass(frozen=True)
class Picture:
    """A picture on the page: the key of its thumbnail, the link to its original, and what is said beside it."""

    key: Key
    link: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Seed:
    """The three arms of one seed, by name, and the command that draws them again."""

    seed: int
    arms: dict[str, Picture]
    command: str


@dataclass(frozen=True)
class Card:
    """Everything the page shows of one cell; `more` seeds are only in its folder."""

    number: int
    cell: CellResult
    facets: dict[str, str]
    link: str
    seeds: list[Seed]
    more: int
    words: list[tuple[str, list[Picture]]]
    masks: list[Picture]
    metrics: list[dict[str, Any]]
    replay: str


def make_card(cell: CellResult, number_: int, page: Path, thumbnails: Thumbnails, most_seeds: int) -> Card:
    """Return a cell's card; links are relative to the folder `page`, and its pictures are noted for thumbnails.

    Of more than `most_seeds` seeds the first are shown.
    """
    link = relative(cell.folder, page)

    def picture(name: str, text: str, note: str = "") -> Picture:
        return Picture(thumbnails.add(cell.folder, name), f"{link}/{quote(name)}", text, note)

    shown = seeds(cell, picture, most_seeds)
    return Card(
        number=number_,
        cell=cell,
        facets=facets(cell),
        link=link,
        seeds=shown,
        more=len({row["seed"] for row in cell.rows}) - len(shown),
        words=words(cell, picture),
        masks=[picture(path.name, f"mask, {path.stem[5:]}") for path in sorted(cell.folder.glob("mask-*.png"))],
        metrics=metric_rows(cell),
        replay=replay_command(cell.folder),
    )


def relative(path: Path, start: Path) -> str:
    """Return a link from a page in folder `start`, usable as an attribute of a file opened from disk."""
    return quote(Path(os.path.relpath(path.resolve(), start.resolve())).as_posix())


def facets(cell: CellResult) -> dict[str, str]:
    """Return what a cell can be filtered by."""
    names = (
        "subject",
        "edit",
        "style",
        "scene",
        "target",
        "addition",
        "word",
        "weight",
        "photo",
        "method",
        "schedule",
        "model",
    )
    found = {name: cell.axes.get(name) for name in names} | {"settings": cell.settings or None}
    return {k: "–" if v is None else f"{v:g}" if isinstance(v, float) else str(v) for k, v in found.items()}


def seeds(cell: CellResult, picture: Callable[..., Picture], most: int) -> list[Seed]:
    """Return the cell's pictures of its first seeds, in the order of its rows."""
    by_seed: dict[int, dict[str, dict[str, str]]] = {}
    for row in cell.rows:
        by_seed.setdefault(int(row["seed"]), {})[row["arm"]] = row
    found = []
    shown = list(by_seed.items())[:most]
    commands = seed_commands(cell.record["command"], [seed for seed, _ in shown])
    for (seed, rows), command in zip(shown, commands, strict=True):
        arms = {
            arm: picture(rows[arm]["image"], f"{arm}, seed {seed}", "" if arm == "source" else outcome(rows[arm]))
            for arm in ARMS
            if arm in rows
        }
        found.append(Seed(seed, arms, command))
    return found


def outcome(row: dict[str, str]) -> str:
    """Return what a picture's row says in short: whether the edit happened, how much of the source is lost."""
    parts = []
    if row.get("edit_success") not in (None, ""):
        parts.append("✓ edited" if float(row["edit_success"]) >= 0.5 else "✗ not edited")
    if row.get(STRUCTURE) not in (None, ""):
        parts.append(f"LPIPS {float(row[STRUCTURE]):.2f}")
    return " · ".join(parts)


def words(cell: CellResult, picture: Callable[..., Picture]) -> list[tuple[str, list[Picture]]]:
    """Return, where the cell drew attention maps, each prompt's words in order with their overlays."""
    found = []
    for side in ("source", "target"):
        spoken = list(dict.fromkeys(cell.record[f"{side}_prompt"].split()))
        kept = set(cell.record["source_prompt"].split()) - {cell.axes.get("word")}
        overlays = sorted(cell.folder.glob(f"attention/{side}-[0-9][0-9]-*.png"))
        numbered = {int(path.name.split("-")[1]): f"attention/{path.name}" for path in overlays}
        shown = [
            picture(numbered[n], word, "" if word in kept else "changed")
            for n, word in enumerate(spoken)
            if n in numbered
        ]
        if shown:
            found.append((side, shown))
    return found


def metric_rows(cell: CellResult) -> list[dict[str, Any]]:
    """Return the metrics of a cell: both arms, the paired difference with its effect size and p, the backbone."""
    metrics = cell.summary["metrics"]
    corrected = holm([entry["difference"].get("p") for entry in metrics.values()])
    rows = []
    for (name, entry), p in zip(metrics.items(), corrected, strict=True):
        effect, p_value = judged(entry["difference"], p)
        rows.append(
            {
                "name": named(name, cell.record["directions"].get(name, "neutral")),
                "with": number(name, entry["with"]),
                "without": number(name, entry["without"]),
                "difference": interval(name, entry["difference"]),
                "effect": effect.text,
                "p": p_value.text,
                "n": entry["difference"]["n"],
                "backbone": cell.record["backbones"].get(name, ""),
            }
        )
    return rows
