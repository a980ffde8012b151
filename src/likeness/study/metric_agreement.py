"""Do the metrics measure it? Rank correlations of an edit's metrics with what is known to be true.

python -m likeness.study.metric_agreement [--sources 40] [--cells outputs/runs/RUN ...]: rendered pairs whose factors
are known, and, with --cells, generated edits as the judge reads them. Writes table, CSV and plot of experiment 008.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likeness.errors import InputError
from likeness.metrics.definitions import direction
from likeness.paperdoll import world
from likeness.report.notebook import fill_page, read_page
from likeness.study.judged import METRICS, Row, finished_cells, judged_rows, number
from likeness.study.known_pairs import Case, cases
from likeness.study.measure import to_tensor

# What is correlated with which truth among which pairs; the second of each holds the other truth still.
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "edit done, all pairs": ("success", {}),
    "edit done, structure kept": ("success", {"structure": "kept"}),
    "structure kept, all pairs": ("kept", {}),
    "structure kept, edit done right": ("kept", {"outcome": "right"}),
}
RESAMPLES = 999
FOLDER = Path("experiments/008_do_the_metrics_measure_it")
Found = dict[str, dict[str, dict[str, Any]]]  # question -> metric -> correlation


def rendered_rows(suite, made: Sequence[Case]) -> list[Row]:
    """Render every pair and measure it; one row per pair with its truth and the suite's metrics."""
    rows = []
    for index, case in enumerate(made):
        edited = torch.stack([picture(pair.factors) for pair in case.pairs])
        source = picture(case.source).expand_as(edited)
        values = suite.measure(source, edited, case.source_prompt, case.target_prompt)
        for position, pair in enumerate(case.pairs):
            rows.append(
                {
                    "pairs": "rendered", "source": f"{index:04d}", "edit": " and ".join(case.edit),
                    "outcome": pair.outcome, "structure": pair.structure, "success": pair.success, "kept": pair.kept,
                    "target_prompt": case.target_prompt,
                    **{name: number(values[name][position]) for name in METRICS if name in values},
                }
            )  # fmt: skip
    return rows


def picture(factors: world.Factors) -> torch.Tensor:
    """Return a rendering (3, 128, 128) in [0, 1]."""
    return to_tensor([world.render(factors)])[0]


def generated_rows(places: Sequence[Path], judge) -> list[Row]:
    """Return one row per edited picture of finished cells: the judge's truth beside the cell's metrics.

    `success` is 1 where the judge reads what was asked; `kept` is the head's shift in pixels, negative. Edits of
    one source picture, of one trained model, share their `source`. Only edits that ask for another factor are taken.
    """
    rows = []
    for row in judged_rows(finished_cells(places), judge):
        if row["true_edit_success"] is None:
            continue
        rows.append(
            {
                "pairs": "generated", "source": f"{row['source']} {row['seed']}", "edit": row["asked"],
                "outcome": "right" if row["true_edit_success"] else "wrong",
                "structure": row["arm"], "success": row["true_edit_success"], "kept": -row["true_head_shift_px"],
                "target_prompt": row["target_prompt"],
                **{name: row[name] for name in METRICS},
            }
        )  # fmt: skip
    return rows


def ranks_agree(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rank correlation, NaN where a side is constant."""
    from scipy.stats import rankdata

    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def correlation(rows: Sequence[Row], metric: str, truth: str, seed: int = 0) -> dict[str, Any]:
    """Return n, sources, Spearman's rho of a metric with a truth and its 95 % bootstrap interval.

    Positive means agreement: a metric that is better lower is turned round. Sources are resampled, not pairs,
    since pairs of one source are not independent. None where nothing varies.
    """
    usable = [row for row in rows if row.get(metric) is not None]
    sources = sorted({row["source"] for row in usable})
    sign = -1.0 if direction(metric) == "lower" else 1.0
    values = np.array([(sign * row[metric], row[truth]) for row in usable]).reshape(-1, 2)
    of = np.array([sources.index(row["source"]) for row in usable], dtype=int)
    groups = [np.flatnonzero(of == index) for index in range(len(sources))]
    result = {"n": len(usable), "sources": len(sources), "rho": None, "low": None, "high": None}
    if not np.isfinite(rho := ranks_agree(*values.T)):
        return result
    rng = np.random.default_rng(seed)
    again = []
    for _ in range(RESAMPLES if len(groups) > 1 else 0):
        chosen = rng.integers(len(groups), size=len(groups))
        again.append(ranks_agree(*values[np.concatenate([groups[i] for i in chosen])].T))
    again = [value for value in again if np.isfinite(value)]
    low, high = np.percentile(again, [2.5, 97.5]).tolist() if again else (None, None)
    return result | {"rho": rho, "low": low, "high": high}


def agreement(rows: Sequence[Row], questions: dict[str, tuple[str, dict[str, Any]]]) -> Found:
    """Return the correlation of every metric with the truth that each question names."""
    found: Found = {}
    for question, (truth, held) in questions.items():
        some = [row for row in rows if all(row[name] == value for name, value in held.items())]
        found[question] = {m: correlation(some, m, truth) for m in METRICS if any(r.get(m) is not None for r in some)}
    return found


def table(found: Found) -> str:
    """Return a Markdown table: one row per metric, one column per question."""
    questions = list(found)
    metrics = [m for m in METRICS if any(m in found[q] for q in questions)]
    lines = [f"| metric | {' | '.join(questions)} |", "|---" * (len(questions) + 1) + "|"]
    lines += [f"| `{m}` | {' | '.join(shown(found[q].get(m)) for q in questions)} |" for m in metrics]
    counts = [f"{q}: {max((c['n'] for c in found[q].values()), default=0)} pairs" for q in questions]
    return "\n".join([*lines, "", f"Spearman's rho [95 % bootstrap over sources]. {'; '.join(counts)}."])


def shown(result: dict[str, Any] | None) -> str:
    if result is None or result["rho"] is None:
        return "–"
    span = "" if result["low"] is None else f" [{result['low']:+.2f}, {result['high']:+.2f}]"
    return f"{result['rho']:+.2f}{span}"


def write(folder: Path, rows: Sequence[Row], parts: dict[str, Found], measured_with: str) -> None:
    """Write pairs.csv, agreement.png, and the tables between the markers of the folder's README.md."""
    from likeness.report.spreadsheet import write_rows
    from likeness.study.metric_agreement_plot import draw

    page = folder / "README.md"
    read_page(page)  # refused before anything is written
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_rows(folder / "pairs.csv", [{name: row.get(name, "") for name in names} for row in rows])
    draw(parts).save(folder / "agreement.png", optimize=True)
    body = ["![rank correlations with the truth](agreement.png)"]
    for title, found in parts.items():
        body += [f"**{title}**", table(found)]
    fill_page(page, [*body, f"Measured with {measured_with}."])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.study.metric_agreement", description=__doc__)
    parser.add_argument("--sources", type=int, default=40, help="rendered sources, 20 pairs each")
    parser.add_argument("--cells", nargs="*", type=Path, default=[], help="run folders or cells to judge as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args(argv)
    from likeness import metrics
    from likeness.paperdoll.judge import load_judge

    try:
        judge = load_judge() if arguments.cells else None  # missing? said before the long work
        suite = metrics.build("embedded")
        rows = rendered_rows(suite, cases(arguments.sources, arguments.seed))
        parts = {"Rendered pairs, truth known exactly": agreement(rows, QUESTIONS)}
        if arguments.cells:
            generated = generated_rows(arguments.cells, judge)
            plain = {"edit done": ("success", {}), "head kept in place": ("kept", {})}
            parts["Generated edits, truth read by the judge"] = agreement(generated, plain)
            rows += generated
        used = dict.fromkeys(suite.backbones[name] for name in METRICS)
        write(arguments.out, rows, parts, ", ".join(used))
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    for title, found in parts.items():
        print(f"{title}\n{table(found)}\n")


if __name__ == "__main__":
    main()
