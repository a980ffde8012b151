"""Pages of the lab notebook: what stands between two markers is written by a command, the rest by people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from likeness.errors import InputError

OPEN, CLOSE = "<!-- table -->", "<!-- /table -->"


def read_page(page: Path) -> str:
    """Return a page's text; InputError unless it has one pair of markers."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(OPEN) != 1 or text.count(CLOSE) != 1 or text.index(OPEN) > text.index(CLOSE):
        raise InputError(f"{page} needs one pair of markers, {OPEN} and {CLOSE}.")
    return text


def table_of(page: Path) -> str:
    """Return what stands between the markers of a page; InputError as `read_page`."""
    text = read_page(page)
    return text[text.index(OPEN) + len(OPEN) : text.index(CLOSE)].strip("\n")


def fill_page(page: Path, parts: Sequence[str]) -> None:
    """Put paragraphs between the markers in place of what stands there; all else is kept."""
    text = read_page(page)
    before, after = text[: text.index(OPEN) + len(OPEN)], text[text.index(CLOSE) :]
    part = page.with_suffix(".part")
    part.write_text(before + "\n" + "\n\n".join(parts) + "\n" + after, encoding="utf-8")
    part.replace(page)
