"""One self-contained HTML page over cells: what was asked, what happened, what was kept. Made from records only.

The page loads nothing: styles, script and thumbnails are in it, and a content security policy forbids the rest.
Everything a user typed is escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import SequenceMatcher
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from markupsafe import escape as shielded

from likeness.report.cards import Card, make_card
from likeness.report.comparisons import OVER, TITLES, Table, cell_table, group_table
from likeness.report.differences import Plot, difference_plot
from likeness.report.effects import Effect, effects, effects_table, overall, structure_verdict
from likeness.report.metric_names import DISTANCES, STRUCTURE, interval, named, number, verdict
from likeness.report.plot import scatter
from likeness.report.records import CellResult, Failed, counted, listed, measured_alike, read_cells
from likeness.report.settings_map import maps_by_group
from likeness.report.thumbnails import PAGE, Thumbnails, seeds_shown
from likeness.report.tradeoff_plot import draw_map
from likeness.report.varying import told_apart
from likeness.report.weights import Curve, weight_curves, weight_table

TILED = ("edit_success", STRUCTURE, *DISTANCES)  # the large numbers at the top
PLOTTED = (STRUCTURE, "edit_success", *DISTANCES, "lpips_outside_rendered", "clip_t",
           "clip_dir", "ssim", "head_shift_px", "identity_shift")  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Cells measured and drawn alike: numbers of different backbones, weights or versions are never put together."""

    backbones: str
    sentences: list[Markup]
    tiles: list[dict[str, str]]
    scatter: Markup
    plots: list[Plot]
    settings: Markup | None  # the map of those swept
    trainings: int  # of which the map tells
    tables: list[Table] = field(default_factory=list)


def write_report(cells: Iterable[Path], out: Path, title: str, size: int = PAGE) -> Path:
    """Read cell folders and write the page over them; see `write_page`."""
    return write_page(*read_cells(cells), out, title, size)


def write_page(done: Sequence[CellResult], failed: Sequence[Failed], out: Path, title: str, size: int = PAGE) -> Path:
    """Write the page over cells to `out` and return it; it refers to originals beside it by relative links.

    Thumbnails and the seeds shown of each cell are chosen so that it stays below `size` bytes. Where cells sweep
    windows or thresholds, the map of these settings is on the page and beside it, as map.svg; trainings that were
    swept with them are on the same map.
    """
    done = told_apart(done)
    thumbnails, most = Thumbnails(size), seeds_shown(len(done), size)
    cards = [make_card(cell, at, out.parent, thumbnails, most) for at, cell in enumerate(done)]
    alike = measured_alike(done)
    drawn = {name: (Markup(draw_map(made)), count) for name, (made, count) in maps_by_group(alike).items()}
    groups = [make_group(name, members, done, *drawn.get(name, (None, 0))) for name, members in alike.items()]
    pictures, places = thumbnails.encode()
    script = part_of_page("page.js")
    page = template().render(
        title=title,
        question=question(done),
        meta=meta(done, failed),
        groups=groups,
        over=OVER,
        titles=TITLES,
        cards=cards,
        failed=listed(failed),
        unfinished=" or ".join(counted(failed)).capitalize(),
        most_seeds=most if any(card.more for card in cards) else None,
        filters=filters(cards),
        index=[index_entry(card) for card in cards],
        pictures=pictures,
        place=places.get,
        css=Markup(part_of_page("page.css")),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    maps = [group.settings for group in groups if group.settings]
    for number_, svg in enumerate(maps, 1):
        replace_text(out.with_name("map.svg" if number_ == 1 else f"map-{number_}.svg"), svg)
    replace_text(out, page)
    return out


def replace_text(path: Path, text: str) -> None:
    """Put a text in the place of a file at once."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def part_of_page(name: str) -> str:
    """Return a file that lies beside this one."""
    return files("likeness.report").joinpath(name).read_text(encoding="utf-8")


def template():
    """Return the page's template, with what it calls."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"named": named, "highlighted": lambda pair: [Markup(t) for t in highlighted(*pair)]}
    return environment.from_string(part_of_page("page.html.j2"))


def meta(done: Sequence[CellResult], failed: Sequence[Failed]) -> str:
    """Return the line of facts under the title."""
    commits = {str((cell.record["environment"].get("git") or {}).get("commit", "unknown"))[:8] for cell in done}
    facts = [f"{len(done)} cell{'s' * (len(done) != 1)}"] + [f"{n} {what}" for what, n in counted(failed).items()]
    what = "edits of photos" if all(cell.record.get("photo") for cell in done) else "seeds in all"
    facts += [f"{sum(cell.summary['n'] for cell in done)} {what}", f"commit {', '.join(sorted(commits))}"]
    return " · ".join([*facts, datetime.now().strftime("%Y-%m-%d %H:%M")])


def question(done: Sequence[CellResult]) -> str:
    """Return the question the experiment asks, where all cells were drawn for the same one."""
    asked = {(cell.record.get("config") or {}).get("question", "") for cell in done}
    return asked.pop() if len(asked) == 1 else ""


def make_group(
    backbones: str, members: Sequence[CellResult], done: Sequence[CellResult], settings: Markup | None, trainings: int
) -> Group:
    """Return words, plots and tables over cells measured alike, with the map that was drawn of their settings."""
    at = {id(cell): number for number, cell in enumerate(done)}
    numbers = [at[id(cell)] for cell in members]
    changes = effects(members)
    curves = weight_curves(members)
    tables = [effects_table(changes)] if changes else []
    tables += [weight_table(curves)] if curves else []
    for axis in ("edit", "subject", "style"):
        if len({cell.axes.get(axis) for cell in members}) > 1:
            tables.append(group_table(f"Per {axis}", members, lambda cell, axis=axis: cell.axes.get(axis) or "–"))
    plots = [plot for metric in PLOTTED if (plot := difference_plot(members, numbers, metric))]
    drawn = Markup(scatter(members, numbers))
    words = in_words(changes) + weights_in_words(curves) or [Markup("Nothing here is compared: see the cells below.")]
    tables.append(cell_table(members, numbers))
    return Group(backbones, words, tiles(overall(changes), members), drawn, plots, settings, trainings, tables)


def in_words(changes: Sequence[Effect]) -> list[Markup]:
    """Say in two sentences what the numbers say; computed, not chosen, and sure only where the interval is."""
    sentences = []
    if happened := overall(changes).get("edit_success"):
        n, independent = happened["difference"]["n"], happened["difference"]["independent"]
        sources = "" if n == independent else f" (edits of {independent} source pictures, each counted once)"
        sentences.append(
            Markup(
                'The asked edit happened in <span class="with">{:.0%}</span> of {} pictures{} with Prompt-to-Prompt '
                'and in <span class="without">{:.0%}</span> by re-prompting from the same noise.'
            ).format(happened["with"], n, sources, happened["without"])
        )
    if kept := structure_verdict(changes):
        sentences.append(shielded(kept[1]))
    return sentences


def weights_in_words(curves: Sequence[Curve]) -> list[Markup]:
    """Say what each curve of a re-weighted word does over its weights from 0 up."""
    sentences = []
    for curve in curves:
        shown = {weight: amount for weight, amount in curve.amounts.items() if weight >= 0}
        if len(shown) < 2:
            continue
        (low, least), *_, (high, most) = shown.items()
        rises = "rises with every step of" if curve.rising else "does not rise with every step of"
        rank = "" if curve.rank is None else f", median rank correlation over seeds {curve.rank:+.2f}"
        name = f"{curve.subject}, {curve.settings}" if curve.settings else curve.subject
        said = "{}: what is read of <em>{}</em> {} its weight, from {:.2f} at {:g} to {:.2f} at {:g} (n = {}{})."
        sentences.append(Markup(said).format(name, curve.word, rises, least, low, most, high, curve.n, rank))
    return sentences


def tiles(found: dict[str, dict[str, Any]], cells: Sequence[CellResult]) -> list[dict[str, str]]:
    """Return the large numbers at the top."""
    directions = cells[0].record["directions"]
    return [
        {
            "name": named(metric, directions.get(metric, "neutral")),
            "with": number(metric, entry["with"]),
            "without": number(metric, entry["without"]),
            "difference": interval(metric, entry["difference"]),
            "verdict": verdict(entry["difference"], directions.get(metric, "neutral")),
            "n": str(entry["difference"]["n"]),
            "sources": str(entry["difference"]["independent"]),
        }
        for metric in TILED
        if (entry := found.get(metric))
    ]


def filters(cards: Sequence[Card]) -> list[tuple[str, list[str]]]:
    """Return each facet with more than one value, and its values; seeds last."""
    names = cards[0].facets if cards else {}
    choices = [(name, list(dict.fromkeys(card.facets[name] for card in cards))) for name in names]
    seeds = sorted({seed.seed for card in cards for seed in card.seeds})
    choices.append(("seed", [str(seed) for seed in seeds]))
    return [(name, values) for name, values in choices if len(values) > 1]


def index_entry(card: Card) -> dict[str, Any]:
    """Return what the page's script needs to know of a cell to filter it."""
    record = card.cell.record
    text = " ".join((card.cell.name, record["source_prompt"], record["target_prompt"])).casefold()
    return {**card.facets, "seeds": [str(seed.seed) for seed in card.seeds], "text": text}


@cache  # many cells of a sweep ask for the same
def highlighted(source: str, target: str) -> tuple[str, str]:
    """Return both prompts as HTML, what was taken out and what was put in marked."""
    a, b = source.split(), target.split()
    old, new = [], []
    for kind, i0, i1, j0, j1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        before, after = escape(" ".join(a[i0:i1])), escape(" ".join(b[j0:j1]))
        same = kind == "equal"
        old += [before if same else f"<del>{before}</del>"] if before else []
        new += [after if same else f"<mark>{after}</mark>"] if after else []
    return " ".join(old), " ".join(new)
