"""The doll's neck, shoulders and clothing, and its hands."""

from __future__ import annotations

import numpy as np

from likeness.paperdoll import draw
from likeness.paperdoll.draw import Canvas, ellipse, smooth
from likeness.paperdoll.draw_head import Head
from likeness.paperdoll.identity import Palette, mix


def body(canvas: Canvas, head: Head, colours: Palette) -> None:
    """Draw neck, shoulders and a garment that goes from a tee over an open collar to a jacket."""
    unit, who = head.unit, head.who
    x = head.x + 0.35 * unit * np.sin(np.radians(head.tilt_degrees))
    chin = head.y + unit
    top, wide = chin + 0.16 * unit, 1.72 * unit
    canvas.region = draw.FACE
    neck = 0.4 * unit * (1 + 0.1 * who.jaw)
    canvas.fill(
        np.array([(x - neck, chin - 0.55 * unit), (x + neck, chin - 0.55 * unit), (x + 1.2 * neck, top + 0.4 * unit),
                  (x - 1.2 * neck, top + 0.4 * unit)]),
        mix(colours.skin, (110, 50, 40), 0.22),
    )  # fmt: skip
    canvas.region = draw.FIGURE
    half = [(0.52 * unit, top - 0.03 * unit), (1.15 * unit, top + 0.28 * unit), (wide, top + 0.72 * unit),
            (wide + 0.16 * unit, 1.15), (wide, 1.5)]  # fmt: skip
    right = [(x + a, b) for a, b in half]
    left = [(x - a, b) for a, b in half]
    kind = (who.cloth_kind + 1) / 2
    throat = [(x, top + (0.3 - 0.1 * kind) * unit)]
    canvas.fill(smooth([*throat, *right, *left[::-1]]), colours.cloth, shade=0.3)
    depth, open_ = (0.25 + 1.5 * kind) * unit, (0.42 + 0.12 * kind) * unit
    if kind > 0.15:
        shirt = np.array([(x - open_, top + 0.02 * unit), (x, top + 0.24 * unit), (x + open_, top + 0.02 * unit),
                          (x + 0.05 * unit, top + depth), (x - 0.05 * unit, top + depth)])  # fmt: skip
        canvas.fill(shirt, colours.shirt, outline=0.7)
        dark = mix(colours.cloth, (0, 0, 0), 0.28)
        for sign in (-1, 1):
            lapel = np.array([(x + sign * open_ * 0.95, top - 0.08 * unit),
                              (x + sign * (open_ + 0.42 * kind * unit), top + 0.24 * unit),
                              (x + sign * (open_ * 0.55 + 0.34 * kind * unit), top + 0.4 * depth + 0.1 * unit),
                              (x + sign * 0.03 * unit, top + depth)])  # fmt: skip
            canvas.fill(lapel, dark, outline=0.7)
    else:
        arc = draw.smooth_line([(x - 0.55 * unit, top), (x - 0.3 * unit, top + 0.26 * unit),
                                (x + 0.3 * unit, top + 0.26 * unit), (x + 0.55 * unit, top)])  # fmt: skip
        canvas.line(arc, 0.09 * unit, mix(colours.cloth, (255, 255, 255), 0.3), ink=0.4)


def hand(canvas: Canvas, x: float, y: float, side: int, unit: float, colours: Palette) -> None:
    """Draw a hand at (x, y) whose fingers point inwards (side -1: the picture's left hand)."""
    canvas.region = draw.FACE
    skin = mix(colours.skin, (150, 60, 40), 0.06)
    sleeve = np.array([(x + side * 0.3 * unit, y + 0.1 * unit), (x - side * 0.12 * unit, y + 0.34 * unit),
                       (x - side * 0.1 * unit, 1.3), (x + side * 1.0 * unit, 1.3)])  # fmt: skip
    canvas.region = draw.FIGURE
    canvas.fill(sleeve, mix(colours.cloth, (0, 0, 0), 0.14))
    canvas.region = draw.FACE
    canvas.fill(ellipse(x, y, 0.27 * unit, 0.31 * unit), skin, shade=0.14)
    for k in range(3):
        finger = ellipse(x - side * 0.2 * unit, y + (0.17 * k - 0.18) * unit, 0.19 * unit, 0.085 * unit, side * -8)
        canvas.fill(finger, mix(skin, (255, 255, 255), 0.06), outline=0.55)
