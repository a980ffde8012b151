"""One figure of a sweep: photos of the subject, then each edit without and with Prompt-to-Prompt.

python -m likeness.study.overview outputs/demo --photos embedded:tuki
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from likeness.config import Subject
from likeness.errors import InputError
from likeness.report.by_photo import grouped, together
from likeness.report.grid import make_grid
from likeness.report.records import CellResult, read_cells
from likeness.report.varying import told_apart
from likeness.study import place
from likeness.study.cells import picture_file
from likeness.study.gather import cells_of

CELL = 192  # pixels; photos are larger
ARMS = {"source": "source", "without": "re-prompting, same seed", "with": "Prompt-to-Prompt"}


def overview(run_dir: Path, photos: str | None, out: Path, seeds: int = 2) -> Path:
    """Draw the figure from what a sweep's run folder points at, `seeds` seeds of every cell; None: without photos.

    Of an edit of several photos as many photos are shown, taken evenly.
    """
    cells, _ = read_cells(cells_of(run_dir))
    if not cells:
        raise InputError(f"{run_dir} points at no finished cell: run sweep.py first.")
    groups, lines = grouped(cells), told_apart(together(cells))
    drawn = [[(cell, seed) for cell in members for seed in cell.record["seeds"]] for members in groups]
    seeds = min(seeds, *map(len, drawn))
    columns = len(ARMS) * seeds
    rows, labels = [], []
    if photos is not None:
        subject = cells[0].axes["subject"]
        paths = [photo.path for photo in place.photos_of(Subject(name=subject, photos=photos))]
        rows.append([Image.open(path) for path in paths[:: max(1, len(paths) // columns)][:columns]])
        labels.append(f"photos of {subject}")
    for line, members, pictures in zip(lines, groups, drawn, strict=True):
        apart = len(pictures) // seeds if len(members) > 1 else 1
        rows.append([_picture(*picture, arm) for picture in pictures[::apart][:seeds] for arm in ARMS])
        labels.append(_label(line, several=len(members) > 1))
    heads = ARMS | ({"without": "re-prompting, same noise"} if all(cell.record.get("photo") for cell in cells) else {})
    figure = make_grid(rows, labels, list(heads.values()) * seeds, cell=CELL)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.save(out, optimize=True, quality=90)
    return out


def _picture(cell: CellResult, seed: int, arm: str) -> Image.Image:
    return Image.open(cell.folder / picture_file(seed, arm))


def _label(cell: CellResult, several: bool) -> str:
    weight = cell.axes.get("weight")
    if weight is not None:
        return f"{cell.record['source_prompt']}; {cell.axes['word']} x {weight:g}"
    return f"{cell.axes['subject'] if several else cell.record['source_prompt']} -> {cell.label}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--photos", required=True, help="a folder, or embedded:NAME")
    parser.add_argument("--out", type=Path, help="default: overview.png in the run folder")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    try:
        out = arguments.out or arguments.run_dir / "overview.png"
        print(overview(arguments.run_dir, arguments.photos, out, arguments.seeds))
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
