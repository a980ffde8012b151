"""One self-contained page about a fine-tuning: pictures before and after, every number over the steps, the ladder.

Made from the files in the model's folder only.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from PIL import Image

# Heading -> beginnings of the names under it; a name stands under the first that fits.
GROUPS = {
    "Loss": ("train/loss", "validation/"),
    "The subject": ("subject_",),
    "Its class, against the untrained model": ("prior_",),
    "Other classes, against the untrained model": ("other_",),
    "Attention of the words": ("identifier_", "class_"),
    "Optimizer": ("train/",),
}
# What a name says, without "train/", "validation/" or the first word of a health's; an arrow to where it is better.
MEANINGS = {
    "loss": "sum of the two, other noise and timesteps at every step",
    "loss_instance": "of the photos ↓",
    "loss_prior": "of the class pictures ↓",
    "loss_class": "of the class pictures ↓",
    "grad_norm": "before clipping",
    "lr": "learning rate",
    "identity_distance": "identity as the probe reads it, distance to the photos' ↓",
    "clip_i": "likeness to the photos, CLIP ↑",
    "dino": "likeness to the photos, DINO ↑",
    "clip_t": "CLIP to the prompt without the identifier ↑",
    "asked_shown": "asked factors that the probe reads ↑",
    "drift_lpips": "moved from the untrained model's pictures, LPIPS ↓",
    "drift_clip": "the same, 1 - cosine of CLIP ↓",
    "drift_identity": "the same, identity ↓",
    "drift_who": "read as another class than before ↓",
    "diversity_lpips": "how much pictures of one prompt differ, LPIPS ↑",
    "pres_clip_i": "likeness to the subject's photos, CLIP",
    "pres_dino": "likeness to the subject's photos, DINO",
    "pres_identity_distance": "identity, distance to the subject's photos",
    "bleed_clip_i": "come nearer to the subject, CLIP ↓",
    "bleed_dino": "come nearer to the subject, DINO ↓",
    "bleed_identity": "share of the way to the subject's identity ↓",
    "class_read": "read as the class that was asked ↑",
    "entropy": "how evenly the word's attention is spread; 1 over all the picture",
    "entropy_change": "the same, against the untrained model",
    "focus": "share of it on the strongest tenth of the picture",
    "focus_change": "the same, against the untrained model",
    "mass": "share of all attention that the word has",
    "mass_change": "the same, against the untrained model",
}
PHOTOS, PHOTO = 12, 112  # shown at most, and the side of one in pixels
WIDTH, HEIGHT, EDGE = 220, 36, 3  # of a curve, pixels
WIDEST = 1400  # pixels of an embedded picture
Curve = list[tuple[int, float]]


def write_training_report(folder: Path, title: str, photos: Sequence[Image.Image] = ()) -> Path:
    """Write report.html into a fine-tuned model's folder and return it; it refers to nothing outside itself."""
    curves = read_curves(folder / "history.csv")
    body = [f"<h1>{escape(title)}</h1>", strip(photos), pictures(folder), ladder(folder / "ladder.csv")]
    left = dict(curves)
    for heading, starts in GROUPS.items():
        here = {n: left.pop(n) for n in list(left) if n.startswith(starts) or bare(n).startswith(starts)}
        body.append(table(heading, here))
    body.append(table("Other numbers", left))
    css = files("likeness.report").joinpath("page.css").read_text(encoding="utf-8")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{css}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )
    out = folder / "report.html"
    part = out.with_suffix(".part")
    part.write_text(page, encoding="utf-8")
    part.replace(out)
    return out


def read_curves(path: Path) -> dict[str, Curve]:
    """Return every number's (step, value) pairs, in order of steps."""
    curves: dict[str, Curve] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            step = int(row.pop("step"))
            for name, value in row.items():
                if value:
                    curves.setdefault(name, []).append((step, float(value)))
    return curves


def bare(name: str) -> str:
    """Return a name without "health/" and, with several subjects, the identifier."""
    return name.rsplit("/", 1)[-1] if name.startswith("health/") else name


def meaning(name: str) -> str:
    """Return what a number says, or ""."""
    last = name.rsplit("/", 1)[-1]
    return MEANINGS.get(last.split("_", 1)[-1] if name.startswith("health/") else last, "")


def table(heading: str, curves: dict[str, Curve]) -> str:
    """Return a table with a row per number: first, last, and its curve; "" without numbers."""
    rows = "".join(
        f"<tr><td>{escape(name.removeprefix('health/'))}</td><td>{curve[0][1]:.4g}</td><td>{curve[-1][1]:.4g}</td>"
        f"<td>{sparkline(name, curve)}</td><td class='told'>{escape(meaning(name))}</td></tr>"
        for name, curve in sorted(curves.items())
    )
    if not rows:
        return ""
    steps = {step for curve in curves.values() for step, _ in (curve[0], curve[-1])}
    head = f"<tr><th></th><th>first</th><th>last</th><th>steps {min(steps)} to {max(steps)}</th><th></th></tr>"
    return scrolling(heading, head, rows)


def scrolling(heading: str, head: str, rows: str) -> str:
    """Return a heading and a table that scrolls where it is too wide."""
    inside = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return f'<h2>{escape(heading)}</h2><div class="scroll">{inside}</div>'


def sparkline(name: str, curve: Curve) -> str:
    """Return a small SVG of a curve, scaled to its own range."""
    steps, values = [s for s, _ in curve], [v for _, v in curve]
    span, height = max(steps) - min(steps) or 1, max(values) - min(values) or 1
    points = " ".join(
        f"{EDGE + (s - min(steps)) / span * (WIDTH - 2 * EDGE):.1f},"
        f"{HEIGHT - EDGE - (v - min(values)) / height * (HEIGHT - 2 * EDGE):.1f}"
        for s, v in curve
    )
    said = escape(f"{name}: " + ", ".join(f"step {s}: {v:.4g}" for s, v in curve[:: max(1, len(curve) // 12)]))
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" style="width:{WIDTH}px;height:{HEIGHT}px"'
    return f'<svg {box} role="img" aria-label="{said}"><title>{said}</title>{line}</svg>'


def pictures(folder: Path) -> str:
    """Return the last sheet of pictures before and after, or the last plain grid."""
    sheets = sorted((folder / "samples").glob("before-after-*.png")) or sorted((folder / "samples").glob("step-*.png"))
    if not sheets:
        return ""
    with Image.open(sheets[-1]) as sheet:
        shown = embedded(sheet)
    caption = f"{sheets[-1].stem.replace('-', ' ')}; the same noise before and after"
    image = f'<img class="wide" alt="samples of the untrained and the fine-tuned model" src="{shown}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def ladder(path: Path) -> str:
    """Return the table of a ladder's checkpoints, the kept one marked; "" without one."""
    if not path.is_file():
        return ""
    with path.open(newline="", encoding="utf-8") as stream:
        names, *rows = csv.reader(stream)
    body = "".join(f"<tr>{cells(row)}</tr>" for row in rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in names[:-1])
    return scrolling("Checkpoints", f"<tr>{head}<th></th></tr>", body)


def cells(row: Sequence[str]) -> str:
    step, *numbers, mark = row
    shown = [step, *(f"{float(number):.3f}" for number in numbers)]
    return "".join(f"<td>{escape(text)}</td>" for text in shown) + f"<td>{'<mark>kept</mark>' if mark else ''}</td>"


def strip(photos: Sequence[Image.Image]) -> str:
    """Return a row of the photos the subject was learnt from; "" without any."""
    if not photos:
        return ""
    from diffusers.utils import make_image_grid

    small = [photo.convert("RGB").resize((PHOTO, PHOTO), Image.LANCZOS) for photo in photos[:PHOTOS]]
    image = f'<img class="wide" alt="photos of the subject" src="{embedded(make_image_grid(small, 1, len(small)))}">'
    return f"<figure>{image}<figcaption>{len(photos)} photos</figcaption></figure>"


def embedded(picture: Image.Image) -> str:
    """Return a picture as a data URI, scaled down if it is very wide."""
    shown = picture.convert("RGB")
    if shown.width > WIDEST:
        shown = shown.resize((WIDEST, round(shown.height * WIDEST / shown.width)), Image.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, format="WEBP", quality=88, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
