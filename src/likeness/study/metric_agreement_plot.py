"""Rank correlations with intervals as dots and lines, one panel per question, one row per metric."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw, ImageFont

ROW, HEAD, LEFT, PANEL, GAP = 26, 64, 130, 300, 24
SCALE = 2  # drawn larger, for sharp screens
INK, FAINT, GOOD, BAD = (32, 33, 36), (205, 207, 212), (28, 110, 190), (196, 62, 50)
Found = dict[str, dict[str, dict[str, Any]]]


def draw(parts: dict[str, Found]) -> Image.Image:
    """Draw every part below the last; +1 (right) is perfect agreement, below 0 (red) the metric misleads."""
    metrics = {
        title: list(dict.fromkeys(m for found in part.values() for m in found)) for title, part in parts.items()
    }
    width = LEFT + max(len(part) for part in parts.values()) * (PANEL + GAP)
    height = sum(HEAD + ROW * len(names) + 30 for names in metrics.values())
    image = Image.new("RGB", (SCALE * width, SCALE * height), "white")
    canvas, top = ImageDraw.Draw(image), 0
    for title, part in parts.items():
        _text(canvas, 8, top + 8, title, 15)
        for row, name in enumerate(metrics[title]):
            _text(canvas, 8, top + HEAD + ROW * row + 4, name, 13)
        for column, (question, found) in enumerate(part.items()):
            _panel(canvas, LEFT + column * (PANEL + GAP), top, question, metrics[title], found)
        top += HEAD + ROW * len(metrics[title]) + 30
    return image


def _panel(canvas, left: int, top: int, question: str, metrics: list[str], found: dict[str, dict[str, Any]]) -> None:
    bottom = top + HEAD + ROW * len(metrics)
    _text(canvas, left, top + 34, question, 13)
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        x = _x(left, tick)
        _line(canvas, (x, top + HEAD - 6, x, bottom), INK if tick == 0 else FAINT, 1)
        _text(canvas, x - 12, bottom + 4, f"{tick:+.1f}" if tick else "0", 11)
    for row, name in enumerate(metrics):
        result = found.get(name)
        if result is None or result["rho"] is None:
            continue
        y, colour = top + HEAD + ROW * row + 12, GOOD if result["rho"] >= 0 else BAD
        if result["low"] is not None:
            _line(canvas, (_x(left, result["low"]), y, _x(left, result["high"]), y), colour, 2)
        x = _x(left, result["rho"])
        canvas.ellipse([SCALE * v for v in (x - 4, y - 4, x + 4, y + 4)], fill=colour)


def _x(left: int, rho: float) -> float:
    return left + 12 + (rho + 1) / 2 * (PANEL - 24)


def _line(canvas, ends: tuple[float, float, float, float], colour: tuple[int, int, int], width: int) -> None:
    canvas.line([SCALE * v for v in ends], fill=colour, width=SCALE * width)


def _text(canvas, x: float, y: float, text: str, size: int) -> None:
    canvas.text((SCALE * x, SCALE * y), text, fill=INK, font=ImageFont.load_default(SCALE * size))
