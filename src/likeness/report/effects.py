"""What Prompt-to-Prompt changed overall, by edit and by subject: paired differences with everything needed to judge.

Cells must have been measured alike. p-values are corrected over all rows of a table (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from likeness.metrics.statistics import holm
from likeness.report.comparisons import Line, Table, Value, judged, text
from likeness.report.metric_names import DISTANCES, KEPT, STRUCTURE, interval, named, number, verdict
from likeness.report.records import CellResult, direction_of, pooled

METRICS = ("edit_success", "clip_t", *DISTANCES, STRUCTURE, "head_shift_px")


@dataclass(frozen=True)
class Effect:
    """One metric over one group of cells: means of both arms and the paired difference."""

    group: str
    metric: str
    direction: str
    entry: dict[str, Any]
    corrected: float | None  # p, for the number of rows

    @property
    def difference(self) -> dict[str, Any]:
        return self.entry["difference"]


def effects(cells: Sequence[CellResult], metrics: Sequence[str] = METRICS) -> list[Effect]:
    """Return every metric overall, then by edit and by subject where there are several."""
    groups: dict[str, list[CellResult]] = {"overall": list(cells)}
    for axis in ("edit", "subject"):
        names = list(dict.fromkeys(str(cell.axes[axis]) for cell in cells))
        if len(names) > 1:
            groups |= {f"{axis} {name}": [c for c in cells if str(c.axes[axis]) == name] for name in names}
    rows = []
    for group, members in groups.items():
        for metric in metrics:
            entry = pooled(members, metric)
            if entry is not None:
                rows.append((group, metric, direction_of(members, metric), entry))
    corrected = holm([entry["difference"]["p"] for *_, entry in rows])
    return [Effect(*row, p) for row, p in zip(rows, corrected, strict=True)]


def effects_table(found: Sequence[Effect]) -> Table:
    """Return the effects as a table; `n` pairs from `sources` source pictures, over which everything else is."""
    columns = [
        "over",
        "metric",
        "n",
        "sources",
        "with / without",
        "difference [95 %]",
        "effect d",
        "p (Holm)",
        "with P2P",
    ]
    lines = []
    for effect in found:
        difference, metric = effect.difference, effect.metric
        arms = tuple(number(metric, effect.entry[arm]) for arm in ("with", "without"))
        word = verdict(difference, effect.direction)
        values = [text(effect.group), text(named(metric, effect.direction))]
        values += [Value(str(difference[count]), difference[count]) for count in ("n", "independent")]
        values += [
            Value("", effect.entry["with"], arms=arms),
            Value(interval(metric, difference), difference["mean"], verdict=word),
            *judged(difference, effect.corrected),
            Value("–" if word == "open" else word, word, verdict=word),
        ]
        lines.append(Line(None, values))
    return Table("What Prompt-to-Prompt changed", columns, lines, words=2)


def overall(found: Sequence[Effect]) -> dict[str, dict[str, Any]]:
    """Return the overall entry of each metric."""
    return {effect.metric: effect.entry for effect in found if effect.group == "overall"}


def structure_verdict(found: Sequence[Effect]) -> tuple[str, str] | None:
    """Return "more", "less" or "open", and the sentence on how much structure Prompt-to-Prompt keeps overall.

    The first metric of KEPT that was measured decides, in the report and everywhere else; None where none was.
    """
    entries = overall(found)
    metric = next((name for name in KEPT if name in entries), None)
    if metric is None:
        return None
    difference = entries[metric]["difference"]
    word = {"better": "more", "worse": "less"}.get(verdict(difference, "lower"), "open")
    kept = "does not measurably keep more" if word == "open" else f"keeps {word}"
    return word, (
        f"P2P {kept} structure than re-prompting: {named(metric)} differs by "
        f"{interval(metric, difference)}, n = {difference['n']} pairs of {difference['independent']} source pictures."
    )
