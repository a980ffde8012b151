"""What a doll wears and holds: sunglasses, hat, food and the phone of a selfie."""

from __future__ import annotations

import numpy as np

from likeness.paperdoll import draw
from likeness.paperdoll.draw import Canvas, box, ellipse, rounded, smooth, smooth_line
from likeness.paperdoll.draw_body import hand
from likeness.paperdoll.draw_head import Head
from likeness.paperdoll.identity import Palette, mix


def sunglasses(canvas: Canvas, head: Head) -> None:
    """Draw large dark glasses over the eyes."""
    canvas.region = draw.FACE
    y, dark = head.eye_y + 0.03, (22, 22, 30)
    for u in (-0.47, 0.47):
        cx, cy = head.side(u, y)
        rx = 0.4 * head.width * head.squeeze(u) / np.cos(0.28)
        lens = [
            (cx - rx, cy - 0.17),
            (cx, cy - 0.2),
            (cx + rx, cy - 0.17),
            (cx + 0.92 * rx, cy + 0.12),
            (cx, cy + 0.25),
            (cx - 0.92 * rx, cy + 0.12),
        ]
        canvas.fill(head.place(smooth(lens)), dark, to=(64, 66, 86), outline=1, solid=0.95)
        if head.squeeze(u) > 0.3:
            edge = 1 if u > 0 else -1
            temple = [
                (cx + edge * 0.95 * rx, cy - 0.1),
                (edge * head.width * 1.02 + head.behind(), cy - 0.06),
            ]
            canvas.line(head.place(temple), 0.02, dark)
    bridge = [head.side(-0.16, y - 0.08), head.side(0, y - 0.11, 1.1), head.side(0.16, y - 0.08)]
    canvas.line(head.place(smooth_line(bridge)), 0.022, dark)


def hat(canvas: Canvas, head: Head) -> None:
    """Draw a wide-brimmed hat."""
    canvas.region = draw.FIGURE
    w, shift = head.width * 1.04, 0.22 * head.width * np.sin(head.turn)
    felt, band = (186, 138, 82), (112, 32, 38)
    crown = [
        (-0.98 * w, -0.62),
        (-0.92 * w, -1.2),
        (-0.6 * w, -1.5),
        (0, -1.44),
        (0.6 * w, -1.5),
        (0.92 * w, -1.2),
        (0.98 * w, -0.62),
    ]
    canvas.fill(head.place(smooth(crown)), felt, shade=0.25)
    stripe = [
        (-0.99 * w, -0.66),
        (-0.97 * w, -0.94),
        (0, -0.86),
        (0.97 * w, -0.94),
        (0.99 * w, -0.66),
        (0, -0.56),
    ]
    canvas.fill(head.place(smooth(stripe)), band, outline=0.6, solid=0.45)
    brim = [
        (-1.78 * w + shift, -0.66),
        (-0.9 * w, -0.7),
        (0.3 * shift, -0.62),
        (0.9 * w, -0.7),
        (1.78 * w + shift, -0.66),
        (0.85 * w + shift, -0.42),
        (shift, -0.36),
        (-0.85 * w + shift, -0.42),
    ]
    canvas.fill(head.place(smooth(brim)), mix(felt, (0, 0, 0), 0.1), shade=0.2)


def food(canvas: Canvas, head: Head, name: str, colours: Palette) -> None:
    """Draw a food held with both hands in front of the chest."""
    x = head.x + 0.2 * head.unit * np.sin(np.radians(head.tilt_degrees))
    r = 0.145  # half the width: a food is as large in every picture, so that it can be read
    y = min(head.y + head.unit + 0.155, 0.84)
    canvas.region = draw.FACE
    if name == "lasagne":
        FOODS[name](canvas, x, y, r)
    for side in (-1, 1):
        hand(canvas, x + side * r * REACH[name], y + 0.03, side, max(head.unit, 0.19), colours)
    canvas.region = draw.FACE
    if name != "lasagne":
        FOODS[name](canvas, x, y, r)
        _thumbs(canvas, x, y + 0.045, r * REACH[name], colours)


def _thumbs(canvas: Canvas, x: float, y: float, reach: float, colours: Palette) -> None:
    for side in (-1, 1):
        thumb = ellipse(x + side * (reach - 0.03), y, 0.04, 0.018, side * 14)
        canvas.fill(thumb, mix(colours.skin, (255, 255, 255), 0.05), outline=0.6)


def _burger(canvas: Canvas, x: float, y: float, r: float) -> None:
    lower = [
        (x - r, y + 0.3 * r),
        (x + r, y + 0.3 * r),
        (x + 0.9 * r, y + 0.72 * r),
        (x, y + 0.8 * r),
        (x - 0.9 * r, y + 0.72 * r),
    ]
    canvas.fill(smooth(lower), (222, 150, 66), shade=0.15)
    canvas.fill(rounded(x - 1.06 * r, y + 0.08 * r, x + 1.06 * r, y + 0.42 * r, 0.14 * r), (98, 50, 30), solid=0.5)
    leaf = [
        (x - 1.14 * r, y - 0.04 * r),
        (x + 1.14 * r, y - 0.04 * r),
        (x + r, y + 0.2 * r),
        (x + 0.5 * r, y + 0.12 * r),
        (x, y + 0.24 * r),
        (x - 0.5 * r, y + 0.12 * r),
        (x - r, y + 0.2 * r),
    ]
    canvas.fill(smooth(leaf), (104, 186, 60), outline=0.6)
    bun = [
        (x - 1.04 * r, y),
        (x - 0.9 * r, y - 0.56 * r),
        (x, y - 0.86 * r),
        (x + 0.9 * r, y - 0.56 * r),
        (x + 1.04 * r, y),
    ]
    canvas.fill(smooth(bun), (232, 160, 72), shade=0.22)
    for dx, dy in ((-0.45, -0.42), (0.02, -0.6), (0.48, -0.4)):
        canvas.fill(ellipse(x + dx * r, y + dy * r, 0.09 * r, 0.065 * r), (255, 238, 196), outline=0)


def _cake(canvas: Canvas, x: float, y: float, r: float) -> None:
    canvas.fill(ellipse(x, y + 0.62 * r, 1.2 * r, 0.2 * r), (244, 244, 248))
    canvas.fill(box(x - 0.86 * r, y - 0.1 * r, x + 0.86 * r, y + 0.62 * r), (250, 224, 176))
    canvas.fill(box(x - 0.86 * r, y + 0.2 * r, x + 0.86 * r, y + 0.36 * r), (206, 60, 92), outline=0.4, solid=0.25)
    icing = [
        (x - 0.94 * r, y - 0.28 * r),
        (x, y - 0.42 * r),
        (x + 0.94 * r, y - 0.28 * r),
        (x + 0.92 * r, y + 0.12 * r),
        (x + 0.62 * r, y + 0.02 * r),
        (x + 0.3 * r, y + 0.18 * r),
        (x, y + 0.02 * r),
        (x - 0.3 * r, y + 0.18 * r),
        (x - 0.62 * r, y + 0.02 * r),
        (x - 0.92 * r, y + 0.12 * r),
    ]
    canvas.fill(smooth(icing), (250, 132, 178))
    canvas.fill(box(x - 0.075 * r, y - 1.0 * r, x + 0.075 * r, y - 0.34 * r), (120, 190, 240))
    canvas.fill(ellipse(x, y - 1.1 * r, 0.12 * r, 0.2 * r), (255, 206, 60), outline=0.8)
    for dx in (-0.55, 0.55):
        canvas.fill(ellipse(x + dx * r, y - 0.42 * r, 0.17 * r), (206, 24, 48), outline=0.8, solid=0.4)


def _lasagne(canvas: Canvas, x: float, y: float, r: float) -> None:
    canvas.fill(ellipse(x, y + 0.5 * r, 1.5 * r, 0.34 * r), (246, 246, 250))
    canvas.fill(ellipse(x, y + 0.48 * r, 1.2 * r, 0.22 * r), (222, 222, 232), outline=0)
    layers = ((252, 214, 96), (196, 44, 30), (252, 222, 128), (196, 44, 30))
    for k, colour in enumerate(layers):
        top = y - 0.36 * r + 0.23 * k * r
        canvas.fill(box(x - 1.06 * r, top, x + 1.06 * r, top + 0.24 * r), colour, outline=0.7, solid=0.3 * (k % 2))
    cheese = [
        (x - 1.12 * r, y - 0.3 * r),
        (x - 0.8 * r, y - 0.56 * r),
        (x + 0.8 * r, y - 0.56 * r),
        (x + 1.12 * r, y - 0.3 * r),
        (x + 0.75 * r, y - 0.24 * r),
        (x + 0.45 * r, y - 0.06 * r),
        (x + 0.1 * r, y - 0.26 * r),
        (x - 0.5 * r, y - 0.24 * r),
    ]
    canvas.fill(smooth(cheese), (255, 232, 134))
    canvas.fill(ellipse(x, y - 0.46 * r, 0.2 * r, 0.1 * r, 20), (70, 150, 60), outline=0.6)


def _pizza(canvas: Canvas, x: float, y: float, r: float) -> None:
    slice_ = np.array(
        [
            (x - 1.05 * r, y - 0.62 * r),
            (x + 1.05 * r, y - 0.62 * r),
            (x + 0.08 * r, y + 1.12 * r),
            (x - 0.08 * r, y + 1.12 * r),
        ]
    )
    canvas.fill(slice_, (250, 200, 70))
    crust = [
        (x - 1.16 * r, y - 0.66 * r),
        (x, y - 0.92 * r),
        (x + 1.16 * r, y - 0.66 * r),
        (x + 1.06 * r, y - 0.4 * r),
        (x, y - 0.56 * r),
        (x - 1.06 * r, y - 0.4 * r),
    ]
    canvas.fill(smooth(crust), (196, 122, 54))
    for dx, dy in ((-0.42, -0.16), (0.4, -0.1), (0.0, 0.42)):
        canvas.fill(ellipse(x + dx * r, y + dy * r, 0.22 * r), (200, 44, 34), outline=0.6, solid=0.3)


def _apple(canvas: Canvas, x: float, y: float, r: float) -> None:
    q = 0.8 * r
    half = [(0.3, -0.84), (0.72, -0.84), (1.02, -0.36), (0.96, 0.26), (0.68, 0.78), (0.3, 0.98)]
    round_ = [
        (x, y - 0.66 * q),
        *[(x + a * q, y + b * q) for a, b in half],
        (x, y + 0.9 * q),
        *[(x - a * q, y + b * q) for a, b in half[::-1]],
    ]
    canvas.fill(smooth(round_), (132, 200, 52), shade=0.2)
    canvas.fill(ellipse(x - 0.4 * q, y - 0.3 * q, 0.2 * q, 0.3 * q, 20), (214, 240, 150), outline=0)
    canvas.line(np.array([(x, y - 0.72 * q), (x + 0.08 * q, y - 1.2 * q)]), 0.02, (94, 58, 30))
    leaf = ellipse(x + 0.4 * q, y - 1.14 * q, 0.36 * q, 0.16 * q, -24)
    canvas.fill(leaf, (40, 130, 54), outline=0.8)


FOODS = {"burger": _burger, "cake": _cake, "lasagne": _lasagne, "pizza": _pizza, "apple": _apple}
REACH = {"burger": 1.12, "cake": 1.05, "lasagne": 1.36, "pizza": 0.8, "apple": 0.9}


def phone(canvas: Canvas, head: Head, side: int, colours: Palette) -> None:
    """Draw a raised hand with a phone beside the chin."""
    x = head.x + side * min(1.62 * head.unit, 0.33)
    y = min(head.y + 1.1 * head.unit, 0.72)
    hand(canvas, x + side * 0.02, y + 0.09, side, max(head.unit, 0.19), colours)
    canvas.region = draw.FACE
    canvas.fill(rounded(x - 0.065, y - 0.12, x + 0.065, y + 0.12, 0.02), (30, 32, 40), outline=1, solid=0.8)
    canvas.fill(ellipse(x - side * 0.025, y - 0.075, 0.022), (130, 190, 230), outline=0)
    thumb = ellipse(x + side * 0.035, y + 0.07, 0.05, 0.021, side * 12)
    canvas.fill(thumb, mix(colours.skin, (255, 255, 255), 0.05), outline=0.6)
