"""Judge the cells of figures: did the edit happen, was structure kept where it did, does a weight set the amount?

python -m likeness.study.evaluate_cells outputs/runs/RUN [RUN ...] [--page experiments/README.md]: each place is one
figure. The judge reads the pictures; LPIPS is the one the cells were measured with.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from likeness.errors import InputError
from likeness.metrics.statistics import decided, median_rank_correlation, paired
from likeness.report.notebook import fill_page, read_page
from likeness.report.records import refuse_weights
from likeness.study.judged import Row, finished_cells, judged_rows

JUDGED_WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)  # negative weights are shown, not judged
TIMED = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(?:-\d{6})?_(.+)")  # the name of a run folder
READ = "blossom"  # the word whose amount the judge reads
Source = tuple[str, int]  # what a picture is an edit of: its source, its seed
MOVED = 3.0  # pixels of 128 beyond which a head has moved


def by_pair(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return (with, without) of every cell and seed."""
    arms = {(row["cell"], row["seed"], row["arm"]): row for row in rows}
    return [(row, arms[cell, seed, "without"]) for (cell, seed, arm), row in arms.items() if arm == "with"]


def figure(rows: Sequence[Row]) -> dict[str, Any]:
    """Measure the edits of one figure; empty if nothing was asked to change."""
    pairs = [(a, b) for a, b in by_pair(rows) if a["true_edit_success"] is not None]
    if not pairs:
        return {}
    happened = np.array([[row["true_edit_success"] for row in pair] for pair in pairs])
    lpips = np.array([[row["lpips"] for row in pair] for pair in pairs])
    moved = np.array([[row["true_head_shift_px"] for row in pair] for pair in pairs])
    edits = [pair[0]["edit"] for pair in pairs]
    single = {edit: happened[[e == edit for e in edits], 0].mean() for edit in dict.fromkeys(edits)}
    sources = [(pair[0]["source"], pair[0]["seed"]) for pair in pairs]
    difference = paired(lpips[:, 0], lpips[:, 1], groups=sources)
    far = moved[:, 1] > MOVED
    return {
        "pairs": len(pairs),
        "edit happened with": float(happened[:, 0].mean()),
        "edit happened without": float(happened[:, 1].mean()),
        "lowest single edit": float(min(single.values())),
        "happened and LPIPS lower": float(((happened[:, 0] == 1) & (lpips[:, 0] < lpips[:, 1])).mean()),
        "LPIPS difference": difference,
        "LPIPS interval leaves out 0": decided(difference),
        "head moved without px": float(moved[far, 1].mean()) if far.any() else None,
        "head moved with px": float(moved[far, 0].mean()) if far.any() else None,
        "single edits": {edit: float(value) for edit, value in single.items()},
    }


def reweighting(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return, for each subject, mean blossom over seeds for each weight, and the median per-seed rank correlation.

    Only the word that is read, blossom, is taken; several source prompts of a subject have a curve each, named after
    them too. The correlation is of seeds that were drawn with every judged weight; InputError where there is none, or
    where a seed was drawn twice with a weight.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["word"] == READ and row["weight"] is not None and row["arm"] == "with":
            groups.setdefault((row["subject"], row["source_prompt"]), []).append(row)
    subjects = [subject for subject, _ in groups]
    out: dict[str, dict[str, Any]] = {}
    for (subject, prompt), own in groups.items():
        name = subject if subjects.count(subject) == 1 else f"{subject}, {prompt}"
        amounts = _amounts(name, own)
        judged = [w for w in amounts if w in JUDGED_WEIGHTS]
        if len(judged) >= 3:
            out[name] = _curve(name, amounts, judged)
    return out


def _amounts(name: str, rows: Sequence[Row]) -> dict[float, dict[Source, float]]:
    """Return what was read of the word for each weight, by source picture."""
    amounts: dict[float, dict[Source, float]] = {weight: {} for weight in sorted({row["weight"] for row in rows})}
    for row in rows:
        source = (row["source"], row["seed"])
        if source in amounts[row["weight"]]:
            raise InputError(
                f"{name}: weight {row['weight']:g} of {READ} was drawn twice for seed {row['seed']}, with other "
                "settings. Name the run folder of a sweep over weights alone."
            )
        amounts[row["weight"]][source] = row[f"true_{READ}"]
    return amounts


def _curve(name: str, amounts: dict[float, dict[Source, float]], judged: Sequence[float]) -> dict[str, Any]:
    means = {weight: float(np.mean(list(values.values()))) for weight, values in amounts.items()}
    drawn = [seed for seed in amounts[judged[0]] if all(seed in amounts[w] for w in judged)]
    if not drawn:
        raise InputError(f"{name}: no seed was drawn with every weight ({', '.join(map(str, judged))}).")
    series = [[amounts[w][seed] for w in judged] for seed in drawn]
    return {
        "seeds": len(series),
        "means": means,
        "strictly increasing": all(means[a] < means[b] for a, b in pairwise(judged)),
        "median Spearman of weight and blossom": median_rank_correlation(judged, series),
    }


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table, one row per figure, the bars in its head."""
    lines = [
        "| figure | pairs | edit happened with (bar 90 %) / without | lowest single edit (80 %) "
        "| happened and LPIPS lower (80 %) | LPIPS with minus without [95 %] | head, where it moved > 3 px: "
        "with / without |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in figures.items():
        if "pairs" not in found:
            continue
        low_high = found["LPIPS difference"]
        span = "" if low_high["low"] is None else f" [{low_high['low']:+.3f}, {low_high['high']:+.3f}]"
        head = found["head moved without px"]
        moved = "–" if head is None else f"{found['head moved with px']:.1f} / {head:.1f} px"
        lines.append(
            f"| {name} | {found['pairs']} | {found['edit happened with']:.1%} / {found['edit happened without']:.1%} "
            f"| {found['lowest single edit']:.1%} | {found['happened and LPIPS lower']:.1%} "
            f"| {low_high['mean']:+.3f}{span} | {moved} |"
        )
    for name, found in figures.items():
        for subject, values in found.get("reweighting", {}).items():
            means = ", ".join(f"{w:g}: {m:.2f}" for w, m in values["means"].items())
            lines += [
                "",
                f"{name}, {subject}, {values['seeds']} seeds: mean blossom by weight {means}; "
                f"{'strictly increasing' if values['strictly increasing'] else 'not strictly increasing'} over "
                f"{', '.join(f'{w:g}' for w in values['means'] if w in JUDGED_WEIGHTS)}; median Spearman "
                f"{values['median Spearman of weight and blossom']:.2f} (bar 0.9).",
            ]
    return "\n".join(lines)


def newest(places: Sequence[Path]) -> dict[str, Path]:
    """Return places by the name of their figure: without the time of a run, of whose repetitions the last is taken."""
    timed = {place: TIMED.fullmatch(place.name) for place in sorted(places, key=lambda place: place.name)}
    latest = {found[1] if found else place.name: place for place, found in timed.items()}
    return dict(sorted(latest.items()))


def evaluate_figures(places: Sequence[Path], judge) -> dict[str, dict[str, Any]]:
    """Judge the cells under every place, which is one figure; see `newest`.

    InputError where the cells of a place must not be put together.
    """
    figures = {}
    for name, place in newest(places).items():
        cells = finished_cells([place])
        try:
            refuse_weights(cells)
        except ValueError as error:
            raise InputError(
                f"{name} is no figure: {error} Name a run folder whose subjects were trained once."
            ) from error
        rows = judged_rows(cells, judge)
        figures[name] = figure(rows)
        if weights := reweighting(rows):
            figures[name]["reweighting"] = weights
    return figures


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.study.evaluate_cells", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, help="run folders, one for each figure")
    parser.add_argument("--json", type=Path, help="also write every number here")
    parser.add_argument("--page", type=Path, help="also write the table between the markers of this page")
    arguments = parser.parse_args(argv)
    from likeness.paperdoll.judge import load_judge

    try:
        if arguments.page:
            read_page(arguments.page)  # refused before the work
        figures = evaluate_figures(arguments.places, load_judge())
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    print(table(figures))
    if arguments.page:
        runs = ", ".join(f"`{place.name}`" for place in newest(arguments.places).values())
        fill_page(arguments.page, [table(figures), f"Runs judged: {runs}."])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
