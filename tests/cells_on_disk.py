"""Cells as study writes them, with invented numbers: what the report and the tools around it read."""

import csv
import json
import shlex

import numpy as np
from PIL import Image

from likeness.metrics.statistics import paired


def flat(seed, arm):
    """Draw a small picture without content, another one for each seed and arm."""
    return Image.new("RGB", (32, 32), (40 * seed, 90, {"source": 120, "without": 160, "with": 200}[arm]))


def write_cell(
    root, name, *, subject="tuki", target="cake", success=(1.0, 0.5), lpips=(0.2, 0.5), clip="clip@1", axes=None,
    picture=flat, command=None, spread=0.01, count=4, metrics=(), **more
):  # fmt: skip
    """Write a finished cell of `count` seeds and return its folder; `success` and `lpips` are (with, without).

    `axes` go over those of a local edit, `picture(seed, arm)` draws, `spread` is LPIPS' deviation over
    seeds, `metrics` are others to invent numbers for, `more` goes over the record.
    """
    folder = root / name
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    values = {
        arm: {
            "lpips": s + rng.normal(0, spread, count),
            "edit_success": np.repeat([1.0, 0.0], [round(count * p), count - round(count * p)]),
        }
        for arm, s, p in (("with", lpips[0], success[0]), ("without", lpips[1], success[1]))
    }  # fmt: skip
    for arm in values:
        values[arm] |= {name: rng.normal(size=count) for name in metrics}
    names = ("lpips", "edit_success", *metrics)
    rows = []
    for seed in range(count):
        for arm in ("source", "without", "with"):
            image = f"images/seed{seed:04d}-{arm}.png"
            picture(seed, arm).save(folder / image)
            numbers = {k: values[arm][k][seed] if arm in values else "" for k in names}
            rows.append({"subject": subject, "seed": seed, "arm": arm, **numbers, "image": image})
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    measured = {
        k: {
            "with": float(values["with"][k].mean()),
            "without": float(values["without"][k].mean()),
            "difference": paired(values["with"][k], values["without"][k]),
        }
        for k in names
    }
    record = {
        "format": 1, "cell": name, "hash": "00000000", "status": "done", "error": None,
        "axes": {"subject": subject, "edit": "local", "target": target, "word": None, "weight": None,
                 **(axes or {})},
        "source_prompt": f"A painting of a {subject} eating a burger",
        "target_prompt": f"A painting of a {subject} eating a {target}",
        "seeds": list(range(count)), "backbones": {"lpips": "trunk@2", "edit_success": "probe@3", "clip_t": clip},
        "directions": {"lpips": "lower", "edit_success": "higher"},
        "command": command or shlex.join(["python", "sweep.py", f"target={target}"]),
        "environment": {"git": {"commit": "abcdef123456"}}, "timing": {}, "notices": [],
        **more,
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record))
    success_shares = {"with": success[0], "without": success[1]}
    (folder / "summary.json").write_text(json.dumps({"n": count, "metrics": measured, "success": success_shares}))
    Image.new("RGB", (400, 300), (200, 200, 210)).save(folder / "grid.png")
    return folder
