"""A subject's photos in, tensors out: checks, captions, seeded crops, and the class pictures of the prior.

DreamBooth (Ruiz et al. 2023, sec. 3.2-3.3). Knows no training loop; torch is imported only where tensors are.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from likeness.errors import InputError

if TYPE_CHECKING:
    import torch

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini"})
SMALLEST_SIDE = 64  # pixels; anything smaller cannot show a subject (assumption)
CROP_RANGE = (0.85, 1.0)  # side of a seeded crop as a share of the short side (assumption)
MARK = "likeness"  # name of the text in a class picture's PNG that says what it was drawn for
CLASS_NOISE = 77  # marks the random key of class pictures
BLOCK = 8  # class pictures are always drawn in these blocks, so that no picture depends on who asks for it


@dataclass(frozen=True)
class Photo:
    """One photo and its caption, read from a same-stem .txt (None: the instance prompt is used)."""

    path: Path
    caption: str | None = None


def seeded(*key: int) -> torch.Generator:
    """Return a CPU generator that depends on these integers alone."""
    import torch

    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + int(part) + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(seed)


def find_photos(folder: str | Path, *, resolution: int | None = None) -> list[Photo]:
    """List a folder's photos in name order, each decoded once; name every file that is wrong.

    Warns (UserWarning) about fewer than 3 photos, duplicates, and photos under `resolution` pixels.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"photo folder {folder} does not exist. Put about 12 photos of the subject there.")
    files = [f for f in sorted(folder.iterdir()) if f.name[0] != "." and f.name.lower() not in IGNORED_NAMES]
    images = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise InputError(f"photo folder {folder} holds no photos ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    _refuse_strangers(folder, files, images)
    sizes, thumbnails = _inspect(folder, images)
    _warn_about(images, sizes, thumbnails, resolution)
    return [Photo(image, _caption(image)) for image in images]


def photo_at(path: Path) -> Photo:
    """Return one photo with its caption; InputError where the file is no picture, or a very small one."""
    _inspect(path.parent, [path])
    return Photo(path, _caption(path))


def open_photo(path: Path) -> Image.Image:
    """Open as upright 8-bit RGB: EXIF rotation applied, alpha laid over white, grey and CMYK converted."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey: convert() would clip, not scale
            image = image.convert("I").point(lambda value: value / 257).convert("L")
        if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")


def crop_photo(image: Image.Image, resolution: int, key: Sequence[int] | None, flip: bool = False) -> Image.Image:
    """Cut a square and resize it: the centre, or (with a key) the crop those integers decide."""
    width, height = image.size
    side = float(min(width, height))
    left, top = (width - side) / 2, (height - side) / 2
    if key is not None:
        draw = random.Random(":".join(map(str, key)))
        side *= draw.uniform(*CROP_RANGE)
        left, top = draw.uniform(0, width - side), draw.uniform(0, height - side)
    box = (left, top, left + side, top + side)
    image = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return ImageOps.mirror(image) if flip else image


def load_photos(
    photos: Sequence[Photo | Path], resolution: int, *, crops: int = 0, flip: bool = False, seed: int = 0
) -> torch.Tensor:
    """Return (n * variants, 3, resolution, resolution) in [0, 1], the variants of one photo side by side.

    Variants are `crops` seeded crops (0: the one centre crop), each followed by its mirror image if `flip`.
    """
    import torch

    return torch.stack(list(each_picture(photos, resolution, crops=crops, flip=flip, seed=seed)))


def each_picture(
    photos: Sequence[Photo | Path], resolution: int, *, crops: int = 0, flip: bool = False, seed: int = 0
) -> Iterator[torch.Tensor]:
    """Yield what `load_photos` stacks one by one, so that many large photos are never all in memory."""
    for index, photo in enumerate(photos):
        image = open_photo(photo.path if isinstance(photo, Photo) else photo)
        keys = [(seed, index, crop) for crop in range(crops)] if crops else [None]
        for key, mirrored in itertools.product(keys, (False, True) if flip else (False,)):
            yield to_tensor(crop_photo(image, resolution, key, mirrored))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Turn RGB into (3, h, w) in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def photos_hash(photos: Sequence[Photo]) -> str:
    """Hash the photos' bytes and captions, in order (12 hex digits); names and places do not matter."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(hashlib.sha256(photo.path.read_bytes()).digest())
        digest.update(repr(photo.caption).encode())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class ClassRequest:
    """What decides a set of class pictures: picture k shows prompts[k % len] from noise (seed, k).

    `device` is its type, such as cuda: each rounds in its own way.
    """

    model_id: str
    prompts: tuple[str, ...]
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    resolution: int = 512
    dtype: str = "float32"
    seed: int = 0
    device: str = "cpu"

    def folder(self, root: Path) -> Path:
        """Name the content-keyed folder; the number of pictures is not in the key, so a set can grow."""
        key = hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()[:10]
        return Path(root) / f"{re.sub(r'[^a-z0-9]+', '-', self.prompts[0].lower()).strip('-')[:40]}-{key}"

    def mark(self, number: int, picture: Image.Image) -> str:
        """Hash a picture with what it was drawn for; stored within its PNG, it tells any other picture from it."""
        about = json.dumps([vars(self), number, picture.mode, picture.size], sort_keys=True)
        return hashlib.sha256(about.encode() + picture.tobytes()).hexdigest()[:16]


def class_images(
    request: ClassRequest,
    count: int,
    root: Path,
    draw: Callable[[list[str], torch.Tensor], list[Image.Image]],
    latent_shape: tuple[int, int, int],
    *,
    rank: int = 0,
    world: int = 1,
    bar: bool = True,
) -> list[Path]:
    """Return `count` class pictures, drawing the missing ones; with several processes, this one's share.

    `draw(prompts, noise)` draws one block. Interrupted, it goes on where it stopped with the same pictures. Warns
    (UserWarning) about a picture that is not the one drawn, and draws it again.
    """
    import torch
    from tqdm import tqdm

    folder = request.folder(root)
    paths = [folder / f"{k:05d}.png" for k in range(-(-count // BLOCK) * BLOCK)]
    make_folder(folder)
    for block in tqdm(range(rank, len(paths) // BLOCK, world), desc="class pictures", disable=rank > 0 or not bar):
        numbers = range(block * BLOCK, (block + 1) * BLOCK)
        missing = [k for k in numbers if not _is_drawn(request, k, paths[k])]
        if not missing:
            continue
        noise = torch.stack(
            [torch.randn(latent_shape, generator=seeded(request.seed, CLASS_NOISE, k)) for k in numbers]
        )
        pictures = draw([request.prompts[k % len(request.prompts)] for k in numbers], noise)
        for k in missing:
            picture = pictures[k - numbers.start]
            write_png(picture, paths[k], request.mark(k, picture))
    if rank == 0:
        fresh = folder / f".class.json.{os.getpid()}"
        fresh.write_text(json.dumps(vars(request), indent=1))
        fresh.replace(folder / "class.json")
    return paths[:count]


def drawn_class_images(request: ClassRequest, count: int, root: Path) -> tuple[int, int]:
    """Return how many of `count` class pictures are there, and how many `class_images` would draw, in whole blocks."""
    folder = request.folder(root)
    there = [_is_drawn(request, k, folder / f"{k:05d}.png") for k in range(-(-count // BLOCK) * BLOCK)]
    return sum(there[:count]), there.count(False)


def _is_drawn(request: ClassRequest, number: int, path: Path) -> bool:
    """Say whether a class picture is there, whole, and the one that was drawn."""
    try:
        with Image.open(path) as image:
            image.load()
            drawn = image.info.get(MARK) == request.mark(number, image)
    except (OSError, ValueError, SyntaxError):
        return False
    if not drawn:
        warnings.warn(f"{path} is not the class picture drawn for this training: drawn again", stacklevel=3)
    return drawn


def check_class_dir(folder: str | Path, count: int) -> list[Path]:
    """Return the first `count` pictures of a user's own class folder, or say what is wrong with it."""
    images = _class_dir_images(folder)
    if len(images) < count:
        raise InputError(
            f"class folder {folder} holds {len(images)} pictures, num_class_images={count} are needed. "
            "Add pictures, or lower num_class_images."
        )
    bad = [f.name for f in images[:count] if not is_readable(f)]
    if bad:
        raise InputError(f"class folder {folder}: cannot read {', '.join(bad)}. Remove or replace them.")
    return images[:count]


def unused_pictures(folder: str | Path, count: int) -> int:
    """Return how many pictures of a user's own class folder come after the first `count`."""
    return max(0, len(_class_dir_images(folder)) - count)


def class_dir_hash(folder: str | Path, count: int) -> str:
    """Hash the bytes of the first `count` pictures of a user's own class folder, in order (12 hex digits)."""
    digest = hashlib.sha256()
    for image in _class_dir_images(folder)[:count]:
        digest.update(hashlib.sha256(image.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _class_dir_images(folder: str | Path) -> list[Path]:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"class folder {folder} does not exist; leave it empty to have pictures drawn.")
    return [f for f in sorted(folder.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES and f.name[0] != "."]


def make_folder(folder: Path) -> None:
    """Create a folder that can be written to, or say why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}. Choose another folder.") from error


def _refuse_strangers(folder: Path, files: list[Path], images: list[Path]) -> None:
    strangers = [f.name for f in files if f not in set(images) and f.suffix.lower() != ".txt"]
    if strangers:
        raise InputError(f"photo folder {folder}: not photos: {', '.join(strangers)}. Move them elsewhere.")
    stems = [f.stem for f in images]
    orphans = [f.name for f in files if f.suffix.lower() == ".txt" and f.stem not in stems]
    if orphans:
        raise InputError(f"photo folder {folder}: captions without a photo: {', '.join(orphans)}.")
    twice = sorted({s for s in stems if stems.count(s) > 1 and (folder / f"{s}.txt").exists()})
    if twice:
        raise InputError(f"photo folder {folder}: {twice[0]}.txt could belong to two photos; rename one.")


def _inspect(folder: Path, images: list[Path]) -> tuple[list[tuple[int, int]], list[bytes]]:
    sizes, thumbnails, unreadable = [], [], []
    for image in images:
        try:
            stat = image.stat()
            size, thumbnail = _decoded(image, stat.st_size, stat.st_mtime_ns)
            sizes.append(size)
            thumbnails.append(thumbnail)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            unreadable.append(f"{image.name} ({str(error).splitlines()[0][:80]})")
    if unreadable:
        raise InputError(f"photo folder {folder}: cannot read {', '.join(unreadable)}. Replace them.")
    tiny = _under(SMALLEST_SIDE, images, sizes)
    if tiny:
        raise InputError(f"photo folder {folder}: under {SMALLEST_SIDE} pixels: {', '.join(tiny)}. Remove them.")
    return sizes, thumbnails


@functools.lru_cache(maxsize=4096)
def _decoded(image: Path, file_size: int, changed: int) -> tuple[tuple[int, int], bytes]:
    """Return a photo's size and a thumbnail; decoded once per process, as long as the file stays as it is."""
    with Image.open(image) as opened:
        size = opened.size
        opened.draft("RGB", (256, 256))
        return size, opened.convert("RGB").resize((24, 24)).tobytes()


def _warn_about(
    images: list[Path], sizes: list[tuple[int, int]], thumbnails: list[bytes], resolution: int | None
) -> None:
    if len(images) < 3:
        warnings.warn(f"only {len(images)} photo(s); 8 to 20 varied ones give a better likeness", stacklevel=3)
    for (a, one), (b, other) in itertools.combinations(zip(images, thumbnails, strict=True), 2):
        if sum(abs(p - q) for p, q in zip(one, other, strict=True)) <= len(one):  # mean under 1 of 255
            warnings.warn(f"{a.name} and {b.name} show the same picture; keep one of them", stacklevel=3)
    small = _under(resolution or 0, images, sizes)
    if small:
        warnings.warn(f"smaller than the model's {resolution} pixels: {', '.join(small)}", stacklevel=3)


def _under(side: int, images: list[Path], sizes: list[tuple[int, int]]) -> list[str]:
    return [f"{i.name} ({w}x{h})" for i, (w, h) in zip(images, sizes, strict=True) if min(w, h) < side]


def small_photos(photos: Sequence[Photo], resolution: int) -> list[str]:
    """Name the photos with a side under `resolution` pixels, as "00.png (96x96)"."""
    sizes = []
    for photo in photos:
        with Image.open(photo.path) as image:
            sizes.append(image.size)
    return _under(resolution, [photo.path for photo in photos], sizes)


def _caption(image: Path) -> str | None:
    text = image.with_suffix(".txt")
    if not text.exists():
        return None
    try:
        caption = " ".join(text.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise InputError(f"caption {text} is not UTF-8 text.") from error
    if not caption:
        raise InputError(f"caption {text} is empty; write a caption or delete the file.")
    return caption


def is_readable(path: Path) -> bool:
    """Say whether a picture is there and whole."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def write_png(image: Image.Image, path: Path, mark: str = "") -> None:
    """Write a PNG atomically, with a mark in it if there is one."""
    fresh, about = path.with_name(f".{path.name}.{os.getpid()}"), PngInfo()
    if mark:
        about.add_text(MARK, mark)
    try:
        image.save(fresh, format="PNG", pnginfo=about)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}. Start again with space.") from error
