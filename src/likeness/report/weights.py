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

    @property
    def rising(self) -> bool:
        """Say whether every weight from 0 up draws more than the one below it."""
        return all(self.amounts[a] < self.amounts[b] for a, b in pairwise(w for w in self.amounts if w >= 0))


def weight_curves(cells: Sequence[CellResult]) -> list[Curve]:
    """Return a curve for each subject and word that was drawn with several weights and whose amount is read."""
    groups: dict[tuple[str, str, str, str], dict[float, CellResult]] = {}
    for cell in cells:
        word, weight = cell.axes.get("word"), cell.axes.get("weight")
        if word in cell.summary["metrics"] and weight is not None:
            key = (str(cell.axes["subject"]), str(word), cell.record["source_prompt"], cell.settings)
            groups.setdefault(key, {})[float(weight)] = cell
    return [_curve(*key[:2], dict(sorted(found.items()))) for key, found in groups.items() if len(found) > 1]


def _curve(subject: str, word: str, cells: dict[float, CellResult]) -> Curve:
    amounts = {weight: cell.summary["metrics"][word]["with"] for weight, cell in cells.items()}
    read = {
        weight: dict(zip(cell.record["seeds"], values([cell], word, "with"), strict=True))
        for weight, cell in cells.items()
        if weight >= 0
    }
    seeds = set.intersection(*(set(found) for found in read.values())) if len(read) > 2 else set()
    series = [[found[seed] for found in read.values()] for seed in sorted(seeds)]
    n = min(cell.summary["n"] for cell in cells.values())
    return Curve(subject, word, n, amounts, median_rank_correlation(list(read), series) if series else None)


def weight_table(curves: Sequence[Curve]) -> Table:
    """Return one line per curve, one column per weight."""
    weights = sorted({weight for curve in curves for weight in curve.amounts})
    columns = ["subject", "word", "n", *(f"weight {weight:g}" for weight in weights), "rises", "rank correlation"]
    lines = []
    for curve in curves:
        amounts = [curve.amounts.get(weight) for weight in weights]
        shown = [Value("–" if amount is None else f"{amount:.3f}", amount) for amount in amounts]
        rank = Value("–" if curve.rank is None else f"{curve.rank:+.2f}", curve.rank)
        words = [text(curve.subject), text(curve.word), Value(str(curve.n), curve.n)]
        lines.append(Line(None, [*words, *shown, text("yes" if curve.rising else "no"), rank]))
    return Table("How much is drawn, by weight", columns, lines, words=2)


def weight_markdown(curves: Sequence[Curve]) -> str:
    """Return the same as a Markdown table."""
    table = weight_table(curves)
    lines = [[value.text for value in line.values] for line in table.lines]
    rows = [table.columns, ["---"] * len(table.columns), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
