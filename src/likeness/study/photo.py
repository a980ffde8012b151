"""A photo as the source of a cell: one of the subject's or any other. Its caption is the source prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from likeness.config import Sweep
from likeness.errors import InputError
from likeness.study import place
from likeness.subjects import Photo, open_photo, photo_at, photos_hash


def settled(sweep: Sweep) -> Sweep:
    """Return the sweep of a photo with one seed, the photo by its name or from any place, and its caption as prompt.

    InputError where there is no such photo, or nothing says what it shows.
    """
    if sweep.photo is None:
        return sweep
    photo, own = _found(sweep)
    caption = photo.caption or (sweep.subject.instance_prompt if own else "")
    if not (caption or "source_prompt" in sweep.edit.uses):
        raise InputError(
            f"photo={sweep.photo} has no caption: write what it shows into {photo.path.with_suffix('.txt')}, or give "
            "edit=custom a source_prompt."
        )
    return replace(
        sweep,
        photo=photo.path.name if own else str(photo.path.resolve()),
        seeds=[0],
        edit=replace(sweep.edit, source=caption),
    )


def find(sweep: Sweep) -> Photo:
    """Return the photo of a sweep that has one; InputError where it is not there."""
    return _found(sweep)[0]


def content_id(sweep: Sweep) -> str | None:
    """Return a hash of the photo's bytes; None for a sweep whose sources are drawn."""
    return None if sweep.photo is None else photos_hash([replace(find(sweep), caption=None)])


def _found(sweep: Sweep) -> tuple[Photo, bool]:
    """Return the photo, and whether it is the subject's: a number is its place among them, from 1, never a name."""
    given, own = sweep.photo, place.photos_of(sweep.subject)
    if given.isdecimal():
        named = own[int(given) - 1 : int(given)] if int(given) else []
    else:
        named = [photo for photo in own if given in (photo.path.name, photo.path.stem)]
    if len(named) > 1:
        raise InputError(
            f"photo={given} is several: {', '.join(p.path.name for p in named)}; give one with its ending."
        )
    if named:
        return named[0], True
    path = Path(given).expanduser()
    if given.isdecimal() or not path.is_file():
        raise InputError(
            f"photo={given} is neither a file nor a photo of {sweep.subject.name}; those are 1 to {len(own)}, or by "
            f"name {', '.join(photo.path.name for photo in own[:12])}{', ...' if len(own) > 12 else ''}."
        )
    return photo_at(path), False


def photo_notices(sweep: Sweep) -> list[str]:
    """Return what may not be meant: a photo that the model cannot draw, one that is enlarged, one that is cut."""
    if sweep.photo is None:
        return []
    photo, own = _found(sweep)
    width, height = open_photo(photo.path).size
    side, found = sweep.model.resolution or 0, []
    if sweep.model.source == "embedded" and not (own and sweep.subject.photos.startswith(place.EMBEDDED_PHOTOS)):
        found.append("the embedded model draws paper dolls only and cannot draw a real photo; use model=sd15.")
    if min(width, height) < side:
        found.append(f"it has {width}x{height} pixels, and is enlarged to {side}x{side}.")
    if width != height:
        found.append(f"of its {width}x{height} pixels the square in the middle is taken.")
    return [f"photo {photo.path.name}: {text}" for text in found]
