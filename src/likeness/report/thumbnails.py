"""Small WebP copies of pictures for a page: each kept once, the size chosen so that the page stays in a budget.

A cell's thumbnails are remembered in a hidden file in its folder, so that a report over old cells reads no PNG.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

PAGE = 19_000_000  # bytes of a page at most, as far as the smallest size allows; 20 MB is what people can still send
HTML, HTML_OF_CELL, HTML_OF_PICTURE = 40_000, 7_000, 1_000  # what stands around the thumbnails, measured
SEED = 11_000  # bytes of a page for one seed: three thumbnails worth looking at
FEWEST_SEEDS = 4  # of each cell, however many cells there are
SIZES = ((256, 84), (192, 80), (160, 78), (128, 78), (112, 70), (96, 60), (80, 50))  # longer side in px, WebP quality
SAMPLED = 32  # pictures on which a size is tried


def seeds_shown(cells: int, page: int = PAGE) -> int:
    """Return how many seeds of each cell a page of so many bytes has room for."""
    return max(FEWEST_SEEDS, page // SEED // max(1, cells))


class Thumbnails:
    """Collects pictures by path; `encode` turns all of them into base64 WebP for a page of so many bytes at once."""

    def __init__(self, page: int = PAGE) -> None:
        self.page = page
        self.places: dict[Path, list[str]] = {}  # cell folder -> names of its pictures

    def add(self, folder: Path, name: str) -> tuple[Path, str]:
        """Note a picture of a cell and return the key under which `encode` gives its place in the list."""
        self.places.setdefault(folder, []).append(name)
        return folder, name

    def encode(self) -> tuple[list[str], dict[tuple[Path, str], int]]:
        """Return distinct thumbnails as base64 WebP, and for every key its index; unreadable pictures are left out."""
        budget = self.budget()
        first = SIZES.index(choose(self.places, budget))
        for size in SIZES[first:]:
            distinct, indices = self._encoded(size)
            if sum(map(len, distinct)) * 3 / 4 <= budget:
                break
        return distinct, indices

    def budget(self) -> int:
        """Return the bytes of WebP that the page has room for beside its HTML; base64 makes a third more of them."""
        html = HTML + HTML_OF_CELL * len(self.places) + HTML_OF_PICTURE * sum(map(len, self.places.values()))
        return max(0, self.page - html) * 3 // 4

    def _encoded(self, size: tuple[int, int]) -> tuple[list[str], dict[tuple[Path, str], int]]:
        made: dict[bytes, str] = {}
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            encoded = pool.map(lambda item: of_cell(*item, size, made), self.places.items())
        distinct: dict[str, int] = {}
        indices = {}
        for folder, found in zip(self.places, encoded, strict=True):
            for name, text in found.items():
                indices[folder, name] = distinct.setdefault(text, len(distinct))
        return list(distinct), indices


def choose(places: dict[Path, list[str]], budget: int) -> tuple[int, int]:
    """Return the largest of SIZES at which all pictures together are expected to stay in a budget of bytes."""
    if not budget:
        return SIZES[-1]
    paths = [folder / name for folder, names in places.items() for name in names]
    sample = [picture for path in paths[:: len(paths) // SAMPLED + 1] if (picture := read(path)) is not None]
    for size in SIZES:
        used = sum(len(encode(picture, size)) for picture in sample)
        if not sample or used / len(sample) * len(paths) <= budget:
            return size
    return SIZES[-1]


def of_cell(folder: Path, names: Sequence[str], size: tuple[int, int], made: dict[bytes, str]) -> dict[str, str]:
    """Return a cell's thumbnails by name, from its hidden file where the pictures are unchanged since.

    `made` are those of this page by the hash of their file: the cells of a sweep share source pictures.
    """
    remembered = folder / f".thumbnails-{size[0]}-{size[1]}.json"
    try:
        known = json.loads(remembered.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        stamp = f"{status.st_size}-{status.st_mtime_ns}"
        if name in known and known[name][0] == stamp:
            found[name] = known[name]
        elif (text := thumbnail(folder / name, size, made)) is not None:
            found[name] = [stamp, text]
    if any(known.get(name) != entry for name, entry in found.items()):
        with contextlib.suppress(OSError):  # a folder that cannot be written is read again next time
            part = remembered.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({**known, **found}), encoding="utf-8")
            part.replace(remembered)
    return {name: text for name, (_, text) in found.items()}


def thumbnail(path: Path, size: tuple[int, int], made: dict[bytes, str]) -> str | None:
    """Return a picture's thumbnail as base64, None where it cannot be read; one in `made` is not made again."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    key = hashlib.sha256(content).digest()
    if key not in made:
        if (picture := read(io.BytesIO(content))) is None:
            return None
        made[key] = base64.b64encode(encode(picture, size)).decode()
    return made[key]


def read(file: Path | io.BytesIO) -> Image.Image | None:
    """Return a picture as RGB, None where it cannot be read."""
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture if picture.mode == "RGB" else picture.convert("RGB")
    except OSError:
        return None


def encode(picture: Image.Image, size: tuple[int, int]) -> bytes:
    """Return a picture as WebP no larger than a size (longer side in px, quality)."""
    side, quality = size
    scale = side / max(picture.size)
    if scale < 1:
        shape = tuple(max(1, round(v * scale)) for v in picture.size)
        picture = picture.resize(shape, Image.HAMMING, reducing_gap=2.0)  # as good as slower ones before WebP's loss
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=quality, method=2)
    return buffer.getvalue()
