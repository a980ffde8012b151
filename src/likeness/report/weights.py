"""How much of a re-weighted word is drawn: its reading by weight, for words that something reads (blossom)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from likeness.metrics.statistics import median_rank_correlation
from likeness.report.comparisons import Line, Table, Value, text
from likeness.report.records import CellResult, values


@dataclass(frozen=True)
class Curve:
    """What was read over the weights of one word, all else alike; `rank` is the median over seeds, if defined.

    `rank` is Spearman's correlation of weight and reading, over weights from 0 up.
    """

    subject: str
    word: str
    n: int
    amounts: dict[float, float]  # weight -> mean reading over seeds
    rank: float | None
    settings: str = ""  # what sets it apart from other curves of its word, where there are several

    @property
    def rising(self) -> bool:
        """Say whether every weight from 0 up draws more than the one below it."""
        return all(self.amounts[a] < self.amounts[b] for a, b in pairwise(w for w in self.amounts if w >= 0))


Reading = dict[tuple[object, int], float | None]  # (photo, seed) -> what was read


def weight_curves(cells: Sequence[CellResult]) -> list[Curve]:
    """Return a curve for each subject, word and setting drawn with several weights whose amount is read.

    Photos count as seeds do. Cells told apart only by their folders make curves of their own, the first of each weight
    the first curve.
    """
    groups: dict[tuple[str, ...], dict[float, list[Reading]]] = {}
    for cell in cells:
        word, weight, photo = cell.axes.get("word"), cell.axes.get("weight"), cell.record.get("photo")
        if word in cell.summary["metrics"] and weight is not None:
            source = "photos" if photo else cell.record["source_prompt"]
            twins = groups.setdefault((str(cell.axes["subject"]), str(word), source, cell.settings), {})
            _add(twins.setdefault(float(weight), []), _read(cell, word), beside=photo is not None)
    curves = []
    for (subject, word, _, settings), found in groups.items():
        for number in range(max(map(len, found.values()))):
            members = {weight: twins[number] for weight, twins in sorted(found.items()) if number < len(twins)}
            told = ", ".join(filter(None, (settings, f"no. {number + 1}" if number else "")))
            if len(members) > 1:
                curves.append(_curve(subject, word, members, told))
    return curves


def _read(cell: CellResult, word: str) -> Reading:
    photo = cell.record.get("photo")
    return {(photo, s): v for s, v in zip(cell.record["seeds"], values([cell], word, "with"), strict=True)}


def _add(twins: list[Reading], read: Reading, beside: bool) -> None:
    """Add what was read with a weight: beside another photo's, or as another time with that weight."""
    room = next((twin for twin in twins if beside and not twin.keys() & read.keys()), None)
    if room is None:
        twins.append(read)
    else:
        room.update(read)


def _curve(subject: str, word: str, found: dict[float, Reading], settings: str) -> Curve:
    known = {weight: [value for value in read.values() if value is not None] for weight, read in found.items()}
    amounts = {weight: sum(amounts) / len(amounts) for weight, amounts in known.items() if amounts}
    ranked = {weight: read for weight, read in found.items() if weight >= 0}
    drawn = set.intersection(*map(set, ranked.values())) if len(ranked) > 2 else set()
    series = [[read[source] for read in ranked.values()] for source in sorted(drawn, key=str)]
    n = min(map(len, found.values()))
    rank = median_rank_correlation(list(ranked), series) if series else None
    return Curve(subject, word, n, amounts, rank, settings)


def weight_table(curves: Sequence[Curve]) -> Table:
    """Return one line per curve, one column per weight."""
    weights = sorted({weight for curve in curves for weight in curve.amounts})
    several = any(curve.settings for curve in curves)
    told = ["subject", "word", *["settings"] * several]
    columns = [*told, "n", *(f"weight {weight:g}" for weight in weights), "rises", "rank correlation"]
    lines = []
    for curve in curves:
        amounts = [curve.amounts.get(weight) for weight in weights]
        shown = [Value("–" if amount is None else f"{amount:.3f}", amount) for amount in amounts]
        rank = Value("–" if curve.rank is None else f"{curve.rank:+.2f}", curve.rank)
        words = [text(part) for part in (curve.subject, curve.word, *[curve.settings or "–"] * several)]
        n = Value(str(curve.n), curve.n)
        lines.append(Line(None, [*words, n, *shown, text("yes" if curve.rising else "no"), rank]))
    return Table("How much is drawn, by weight", columns, lines, words=len(told))
