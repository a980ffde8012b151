"""One self-contained HTML page over cells: what was asked, what happened, what was kept. Made from records only."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from difflib import SequenceMatcher
from html import escape
from importlib.resources import files
from pathlib import Path

from PIL import Image

from likeness.report.plot import scatter
from likeness.report.records import CellResult, Failed, by_backbones, pooled, read_cells
from likeness.report.table import interval

METRICS = {
    "edit_success": "edit happened",
    "clip_t": "CLIP to the target prompt",
    "clip_dir": "directional CLIP",
    "lpips": "LPIPS to the source",
    "ssim": "SSIM to the source",
    "psnr": "PSNR to the source, dB",
    "head_shift_px": "head moved, px of 128",
    "size_change": "head size changed",
    "other_changed": "other factors changed",
    "identity_shift": "identity shifted",
    "blossom": "blossom drawn",
    "asked_shown": "asked factors shown",
}
ARROWS = {"higher": " ↑", "lower": " ↓", "neutral": ""}
WIDEST = 1400  # pixels of an embedded picture


def write_report(cells: Iterable[Path], out: Path, title: str) -> Path:
    """Write the page over cell folders to `out` and return it; it refers to nothing outside itself."""
    done, failed = read_cells(cells)
    groups = by_backbones(done)
    body = [f"<h1>{escape(title)}</h1>", meta(done, failed)]
    for backbones, members in groups.items():
        if len(groups) > 1:
            body.append(f"<h2>Measured with {escape(backbones)}</h2>")
        body.append(overview(members))
    body += [section(cell, number) for number, cell in enumerate(done)]
    body.append(failures(failed))
    css = files("likeness.report").joinpath("page.css").read_text(encoding="utf-8")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{css}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text(page, encoding="utf-8")
    part.replace(out)
    return out


def meta(done: Sequence[CellResult], failed: Sequence[Failed]) -> str:
    """Return the line of facts under the title, and links to the cells."""
    commits = {str((cell.record["environment"].get("git") or {}).get("commit", "unknown"))[:8] for cell in done}
    facts = [f"{len(done)} cells"] + ([f"{len(failed)} failed"] if failed else [])
    facts += [f"{sum(cell.summary['n'] for cell in done)} seeds in all", f"commit {', '.join(sorted(commits))}"]
    facts.append(datetime.now().strftime("%Y-%m-%d %H:%M"))
    links = "".join(f'<a href="#cell-{i}">{escape(cell.name)}</a>' for i, cell in enumerate(done))
    return f'<p class="meta">{escape(" · ".join(facts))}</p><nav>{links}</nav>'


def overview(cells: Sequence[CellResult]) -> str:
    """Return the summary in words, the plot and the tables of cells measured alike."""
    parts = [f'<p class="lead">{in_words(cells)}</p>', f"<figure>{scatter(cells)}</figure>"]
    if len(cells) > 1:
        parts.append("<h2>Per edit</h2>" + group_table(cells, lambda c: f"{c.axes['edit']}"))
        if len({c.axes["subject"] for c in cells}) > 1:
            parts.append("<h2>Per subject</h2>" + group_table(cells, lambda c: c.axes["subject"]))
        parts.append("<h2>Per cell</h2>" + group_table(cells, lambda c: c.name))
    parts.append(
        '<p class="small">Differences are with Prompt-to-Prompt minus re-prompting with the same seed, paired; '
        f"in brackets 95 % bootstrap intervals. Measured with: {escape(cells[0].backbones)}.</p>"
    )
    return "".join(parts)


def in_words(cells: Sequence[CellResult]) -> str:
    """Say in two sentences what the numbers say; computed, not chosen."""
    happened, lost = pooled(cells, "edit_success"), pooled(cells, "lpips")
    sentences = []
    if happened:
        n = happened["difference"]["n"]
        sentences.append(
            f'The asked edit happened in <span class="with">{happened["with"]:.0%}</span> of {n} pictures with '
            f'Prompt-to-Prompt and in <span class="without">{happened["without"]:.0%}</span> by re-prompting '
            "with the same seed."
        )
    if lost:
        low, high = lost["difference"]["low"], lost["difference"]["high"]
        sure = low is not None and (high < 0 or low > 0)
        verdict = ("less" if lost["difference"]["mean"] < 0 else "more") if sure else "not measurably less"
        sentences.append(
            f'LPIPS to the source was <span class="with">{lost["with"]:.3f}</span> against '
            f'<span class="without">{lost["without"]:.3f}</span>: Prompt-to-Prompt changed {verdict} of the picture '
            f"(difference {interval(lost['difference'])})."
        )
    return " ".join(sentences) or "Nothing was measured in both arms."


def group_table(cells: Sequence[CellResult], key: Callable[[CellResult], str]) -> str:
    """Return a table with one row per group of cells, numbers pooled over its pictures."""
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    names = [name for name in ("edit_success", "clip_t", "clip_dir", "lpips", "head_shift_px") if pooled(cells, name)]
    head = "".join(f"<th>{escape(METRICS[name])}</th>" for name in names)
    rows = []
    for name, members in groups.items():
        shown = []
        for metric in names:
            entry = pooled(members, metric)
            shown.append(f"<td>{pair(metric, entry)}</td>" if entry else "<td>–</td>")
        n = sum(member.summary["n"] for member in members)
        rows.append(f"<tr><td>{escape(name)}</td><td>{n}</td>{''.join(shown)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr><th></th><th>n</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def pair(metric: str, entry: dict) -> str:
    """Return "with / without" in the metric's own format."""
    form = "{:.0%}" if metric == "edit_success" else "{:.1f}" if metric in ("psnr", "head_shift_px") else "{:.3f}"
    with_, without = form.format(entry["with"]), form.format(entry["without"])
    return f'<span class="with">{with_}</span> / <span class="without">{without}</span>'


def section(cell: CellResult, number: int) -> str:
    """Return everything about one cell."""
    source, target = highlighted(cell.record["source_prompt"], cell.record["target_prompt"])
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in cell.record.get("notices", []))
    return (
        f'<section class="cell" id="cell-{number}"><h3>{escape(cell.name)}</h3>'
        f"<p>{source}<br>{target}{weight_note(cell)}</p>"
        f'<figure><img alt="source, without and with, one column per seed" src="{embedded(cell.folder / "grid.png")}">'
        f"</figure>{extras(cell.folder)}{metric_table(cell)}{notes}"
        f'<p class="small"><code>{escape(cell.record["command"])}</code> · {escape(cell.folder.name)}</p></section>'
    )


def weight_note(cell: CellResult) -> str:
    weight = cell.axes.get("weight")
    return "" if weight is None else f" <mark>({escape(str(cell.axes['word']))} × {weight:g})</mark>"


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


def metric_table(cell: CellResult) -> str:
    """Return the metrics of a cell: with, without, the paired difference and what it was measured with."""
    rows = []
    for name, entry in cell.summary["metrics"].items():
        label = escape(METRICS.get(name, name)) + ARROWS[cell.record["directions"].get(name, "neutral")]
        with_, without = (f"{entry[arm]:.3f}" for arm in ("with", "without"))
        difference = entry["difference"]
        rows.append(
            f'<tr><td>{label}</td><td class="with">{with_}</td><td class="without">{without}</td>'
            f"<td>{interval(difference)}</td><td>{difference['n']}</td>"
            f'<td class="small">{escape(cell.record["backbones"].get(name, ""))}</td></tr>'
        )
    return (
        '<div class="scroll"><table><thead><tr><th></th><th>with</th><th>without</th><th>difference</th><th>n</th>'
        f"<th>measured with</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def extras(folder: Path) -> str:
    """Return attention maps and masks, where the cell drew them."""
    pictures = sorted(folder.glob("mask-*.png"))
    figures = (
        f'<figure><img alt="" src="{embedded(path)}"><figcaption>{escape(path.stem.replace("-", " "))}'
        "</figcaption></figure>"
        for path in pictures
    )
    masks = f'<div class="maps">{"".join(figures)}</div>' if pictures else ""
    sheet = folder / "attention.png"
    words = f'<figure><img alt="attention maps of words" src="{embedded(sheet)}"></figure>' if sheet.is_file() else ""
    return words + masks


def embedded(path: Path) -> str:
    """Return a picture as a data URI, scaled down if it is very wide."""
    with Image.open(path) as picture:
        shown = picture.convert("RGB")
    if shown.width > WIDEST:
        shown = shown.resize((WIDEST, round(shown.height * WIDEST / shown.width)), Image.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, format="WEBP", quality=88, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def failures(failed: Sequence[Failed]) -> str:
    """Return the cells that did not finish, and how to run them again."""
    if not failed:
        return ""
    items = "".join(
        f'<p class="note"><b>{escape(cell.folder.name)}</b><br>{escape(cell.error)}'
        + (f"<br><code>{escape(cell.command)}</code>" if cell.command else "")
        + "</p>"
        for cell in failed
    )
    return f"<h2>Failed</h2>{items}"
