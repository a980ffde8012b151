"""Every way to fine-tune, measured on one device: steps per second, memory, share of the device's matrix rate.

python -m likeness.study.training_table [--device cuda] [--ways compile lora] [--at-once 2]

Each row is a process of its own, and is written when it is measured; the same command goes on with those that are
missing. Rows that are prepared at once (compiling takes minutes) are timed one at a time, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from likeness.dreambooth.settings import PRECISION
from likeness.dreambooth.storage import write_text
from likeness.errors import InputError
from likeness.models import resolve_device, resolve_dtype
from likeness.study.environment import git_state, hardware, short_commit
from likeness.study.training_arms import Case
from likeness.study.training_turns import OutOfMemory, fits, turns

STEPS = 800  # of a usual fine-tuning
WAYS = {
    "scripts": ("uncached", {}),
    "default": ("ours", {}),
    "cuda_graph=false": ("ours", {"cuda_graph": False}),
    "compile=true": ("ours", {"compile": True}),
    "gradient_checkpointing=true": ("ours", {"gradient_checkpointing": True}),
}
ON_A_GPU = ("cuda_graph=false", "compile=true")
HEAD = "| trained | pictures | steps/s | GB | fits in | of the matrix rate | 800 steps |\n" + "|---" * 7 + "|"


def rows(shape: str, precision: str, device: str, batches: list[int], asked: list[str]) -> dict[str, tuple[str, Case]]:
    """Return loop and case of every row by its name, "lora compile=true 4+4"; InputError where none is as asked."""
    found = {}
    for method in ("full", "lora"):
        for way, (arm, options) in WAYS.items():
            if way in ON_A_GPU and not device.startswith("cuda"):
                continue
            for batch in batches:
                case = Case(shape, method, batch, precision, device=device, **options)
                found[f"{method} {way} {batch}+{batch}"] = (arm, case)
    kept = {name: row for name, row in found.items() if all(word in name for word in asked)}
    if not kept:
        raise InputError(f"no row holds {' and '.join(map(repr, asked))}; there are: {', '.join(found)}.")
    return kept


def read(out: Path) -> list[dict[str, Any]]:
    """Return the rows measured so far, on any machine; InputError where the file holds something else."""
    try:
        return json.loads(out.read_text())["rows"] if out.exists() else []
    except (json.JSONDecodeError, TypeError, KeyError):
        raise InputError(f"{out} is no table of this benchmark: give another --out, or remove it.") from None


def measure(group: dict[str, tuple[str, Case]], rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Return the figures of some rows; of one that does not fit, even alone, that it does not."""
    try:
        return _measure(group, rounds, steps)
    except OutOfMemory:
        if len(group) == 1:
            return {name: {"seconds": None, "peak GB": None} for name in group}
    alone = [measure({name: row}, rounds, steps) for name, row in group.items()]
    return {name: figures for found in alone for name, figures in found.items()}


def _measure(group: dict[str, tuple[str, Case]], rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Prepare the rows of a group at once, then time them in turns; nothing else runs while one is timed."""
    with turns(group) as started:
        for turn in started.values():
            turn.send("seconds", 3)  # loads, caches, compiles, records
        for turn in started.values():
            turn.answer()
        taken = {name: [] for name in group}
        for number in range(rounds + 1):
            for name, turn in started.items():
                seconds = turn.ask("seconds", steps)
                if number:  # the first round warms up again, alone
                    taken[name].append(seconds)
        peaks = {name: turn.ask("held") for name, turn in started.items()}
        return {
            name: {"seconds": taken[name], "peak GB": peaks[name]}
            | turn.ask("matrix_share", statistics.median(taken[name]))
            for name, turn in started.items()
        }


def table(found: list[dict[str, Any]]) -> str:
    """Return measured rows as Markdown, a table for each machine, shape and precision."""
    blocks: dict[str, list[str]] = {}
    for row in found:
        case, on = Case(**row["case"]), row["on"]
        head = f"{on['name']}, torch {on['torch']}, {case.shape}, {case.precision}, commit {on['commit']}:"
        named = [row["name"].rsplit(" ", 1)[0], f"{case.batch} + {case.batch}"]
        blocks.setdefault(head, [HEAD]).append(f"| {' | '.join(named + _figures(row))} |")
    return "\n\n".join("\n".join([head, "", *lines]) for head, lines in blocks.items())


def _figures(row: dict[str, Any]) -> list[str]:
    seconds, peak = row["seconds"], row["peak GB"]
    if seconds is None:
        return ["does not fit", *"–" * 4]
    return [
        f"{1 / statistics.median(seconds):.3g} ({1 / max(seconds):.3g} to {1 / min(seconds):.3g})",
        f"{peak:.1f}",
        fits(peak),
        f"{row['share of matrix rate']:.0%}",
        f"{STEPS * statistics.median(seconds):.0f} s",
    ]


def positive(text: str) -> int:
    """Return a number of the command line; ValueError, which argparse reports, where it is none above 0."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="likeness.study.training_table", description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shape", choices=["paperdoll", "sd15"], default="sd15")
    parser.add_argument("--precision", choices=list(PRECISION), default="bf16")
    parser.add_argument(
        "--batches", type=positive, nargs="+", default=[1, 4], help="photos, and as many class pictures"
    )
    parser.add_argument("--ways", nargs="+", default=[], help="only rows whose name holds all of these words")
    parser.add_argument("--at-once", type=positive, default=1, help="rows prepared at the same time, if memory allows")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--steps", type=positive, default=10, help="in a turn")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench-train.json"), help="goes on from it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    asked = parse(argv)
    device = resolve_device(asked.device)
    resolve_dtype(PRECISION[asked.precision], device)
    wanted = rows(asked.shape, asked.precision, device, asked.batches, asked.ways)
    found = read(asked.out)
    on = hardware(device) | {"torch": torch.__version__, "commit": short_commit(git_state())}
    how = {"rounds": asked.rounds, "steps": asked.steps}
    there = [(row["name"], row["case"]) for row in found if row["on"] == on and row["how"] == how]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    missing = [name for name, (_, case) in wanted.items() if (name, asdict(case)) not in there]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), desc="rows", unit="row") as bar:
        for first in range(0, len(missing), asked.at_once):
            group = {name: wanted[name] for name in missing[first : first + asked.at_once]}
            for name, figures in measure(group, asked.rounds, asked.steps).items():
                found.append({"name": name, "case": asdict(wanted[name][1]), "on": on, "how": how, **figures})
            write_text(asked.out, json.dumps({"rows": found}, indent=1) + "\n")
            bar.update(len(group))
    print(table(found))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
