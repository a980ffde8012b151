"""The doll's head: outline, ears, hair, beard and face, posed by turn, tilt and gaze."""

from __future__ import annotations

import numpy as np

from likeness.paperdoll import draw
from likeness.paperdoll.draw import Canvas, ellipse, smooth, smooth_line
from likeness.paperdoll.identity import Identity, Palette, mix

FRECKLES = ((-0.62, 0.16), (-0.45, 0.26), (-0.3, 0.14), (-0.55, 0.36), (0.62, 0.16), (0.45, 0.26), (0.3, 0.14),
            (0.55, 0.36))  # fmt: skip


class Head:
    """Maps head coordinates (chin at y = 1, crown at -1) to the picture for a pose, and knows the face's measures."""

    def __init__(self, factors):
        self.who: Identity = factors.identity
        self.x, self.y, self.unit = factors.head_x, factors.head_y, factors.head_size / 2
        self.turn = np.radians(factors.turn)
        tilt = np.radians(factors.tilt)
        self.rotation = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        self.tilt_degrees = factors.tilt
        who = self.who
        self.width = 0.76 * (1 + 0.13 * who.face_width)
        self.eye_y = -0.02 - 0.1 * who.face_length
        self.nose_y = 0.32 - 0.03 * who.face_length
        self.mouth_y = 0.58 + 0.03 * who.face_length
        self.gaze = factors.gaze

    def place(self, points) -> np.ndarray:
        """Return picture coordinates of head coordinates (n, 2)."""
        return np.asarray(points, np.float64) @ self.rotation * self.unit + (self.x, self.y)

    def side(self, u: float, y: float, depth: float = 1.0) -> tuple[float, float]:
        """Return head coordinates of a point of the face at lateral u in [-1, 1] (of the half width), turned."""
        forward = depth * np.sqrt(max(0.0, 1 - 0.75 * u * u))
        return self.width * (u * np.cos(self.turn) + 0.74 * forward * np.sin(self.turn)), y

    def squeeze(self, u: float) -> float:
        """Return the foreshortening of a feature at lateral u."""
        return float(np.cos(self.turn + 0.6 * u))

    def behind(self) -> float:
        """Return how far the back of the head moves against the turn."""
        return -0.16 * self.width * np.sin(self.turn)

    def outline(self) -> np.ndarray:
        w, who, sway = self.width, self.who, self.width * np.sin(self.turn)
        jaw, chin = w * (0.76 + 0.13 * who.jaw), w * (0.36 + 0.14 * who.jaw)
        half = [(0.62 * w, -0.87), (0.97 * w, -0.42), (0.98 * w, 0.12), (jaw, 0.62), (chin, 0.93)]
        right = [(x + 0.17 * sway * max(0.0, y), y) for x, y in half]
        left = [(-x + 0.17 * sway * max(0.0, y), y) for x, y in half]
        return np.array([(0, -1), *right, (0.17 * sway, 1.0), *left[::-1]])


def back_hair(canvas: Canvas, head: Head, colours: Palette) -> None:
    """Draw the hair behind neck and shoulders, as long as the hair is."""
    who, w, shift = head.who, head.width, head.behind()
    length, volume = (who.hair_length + 1) / 2, 0.04 + 0.1 * (who.hair_volume + 1)
    end = -0.15 + 1.75 * length
    wide = w + volume * (0.35 + 0.65 * length)
    half = [(0.68 * w, -0.9 - volume * 0.7), (wide * 1.01, -0.4), (wide * 1.02, min(0.1, end * 0.5)),
            (wide * (0.92 + 0.14 * length), 0.72 * end + 0.05), (0.72 * wide, end)]  # fmt: skip
    points = [(0, -1 - volume), *half, (0, end + 0.04), *[(-x, y) for x, y in half[::-1]]]
    canvas.fill(
        head.place(smooth(np.array(points) + np.array([shift, 0]))), mix(colours.hair, (0, 0, 0), 0.22), shade=0.15
    )


def front_hair(canvas: Canvas, head: Head, colours: Palette) -> None:
    """Draw locks beside the face, the cap of hair and the fringe."""
    who, w, back = head.who, head.width, head.behind()
    length, volume = (who.hair_length + 1) / 2, 0.04 + 0.1 * (who.hair_volume + 1)
    front = 0.5 * w * np.sin(head.turn)
    for sign in (-1, 1):
        outer = w + volume * (0.35 + 0.65 * length)
        end = -0.3 + 1.75 * length
        inner = w * (0.9 - 0.06 * length)
        lock = [(sign * inner * 0.94 + 0.5 * front, -0.55), (sign * outer + back, -0.45),
                (sign * outer * 1.02 + back, end * 0.5 - 0.1), (sign * (outer * 0.96 + 0.04 * length) + back, end),
                (sign * (inner + 0.03) + 0.2 * front + 0.5 * back, end - 0.06),
                (sign * inner + 0.35 * front, end * 0.45 - 0.2)]  # fmt: skip
        canvas.fill(head.place(smooth(lock)), colours.hair, shade=0.22)
    fringe, sweep = (who.fringe + 1) / 2, who.sweep
    low = -0.7 + 0.42 * fringe
    outer = [(-(w + 0.5 * volume), -0.26), (-(w + 0.75 * volume), -0.55), (-0.68 * w, -0.9 - 0.8 * volume),
             (0, -1 - volume), (0.68 * w, -0.9 - 0.8 * volume), (w + 0.75 * volume, -0.55),
             (w + 0.5 * volume, -0.26)]  # fmt: skip
    notch = 0.16 * (1 - fringe)
    inner = [(0.9 * w, -0.28), (0.66 * w, low + 0.02 + 0.17 * sweep * fringe), (0.25 * w, low + 0.11 * sweep * fringe),
             (-0.12 * sweep * w, low - notch), (-0.35 * w, low - 0.1 * sweep * fringe),
             (-0.7 * w, low + 0.02 - 0.16 * sweep * fringe), (-0.9 * w, -0.28)]  # fmt: skip
    cap = [(x + 0.6 * back, y) for x, y in outer] + [(x + front, y) for x, y in inner]
    canvas.fill(head.place(smooth(cap)), colours.hair, shade=0.22)
    if who.streak > -0.95:
        _streak(canvas, head, colours, low, volume, front)


def _streak(canvas: Canvas, head: Head, colours: Palette, low: float, volume: float, front: float) -> None:
    w = head.width
    band = [(0.02 * w + front * 0.3, -1 - 0.75 * volume), (0.4 * w + front * 0.3, -0.97 - 0.6 * volume),
            (0.86 * w + front * 0.5, -0.5), (0.72 * w + front * 0.8, -0.4), (0.46 * w + front * 0.8, low - 0.06),
            (0.12 * w + front * 0.6, -0.88)]  # fmt: skip
    canvas.fill(head.place(smooth(band)), colours.streak, outline=0.3)


def face(canvas: Canvas, head: Head, colours: Palette) -> None:
    """Draw ears, the face, marks, beard, mouth, nose, eyes and brows."""
    w = head.width
    canvas.region = draw.FACE
    for sign in (-1, 1):
        near = 1 - 0.35 * sign * np.sin(head.turn)
        at = head.place([(sign * w * 0.99 + head.behind(), 0.06)])[0]
        ear = ellipse(*at, 0.13 * near * head.unit, 0.2 * head.unit, head.tilt_degrees)
        canvas.fill(ear, mix(colours.skin, (150, 60, 40), 0.14), shade=0.12)
    canvas.fill(head.place(smooth(head.outline())), colours.skin, shade=0.2)
    _cheeks(canvas, head, colours)
    if head.who.beard > -0.95:
        _beard(canvas, head, colours)
    _mouth(canvas, head, colours)
    _nose(canvas, head, colours)
    _eyes(canvas, head, colours)
    if head.who.scar > -0.95:
        shown = mix(colours.skin, (168, 44, 52), 0.9 * (head.who.scar + 1) / 2)
        ends = [head.side(-0.66, -0.28), head.side(-0.58, 0.1), head.side(-0.42, 0.42)]
        canvas.line(head.place(smooth_line(ends)), 0.02, shown, ink=0.9 * (head.who.scar + 1) / 2)


def _cheeks(canvas: Canvas, head: Head, colours: Palette) -> None:
    who, blush = head.who, mix(colours.skin, (226, 92, 84), 0.16)
    for u in (-0.56, 0.56):
        x, y = head.place([head.side(u, 0.3)])[0]
        canvas.fill(ellipse(x, y, 0.17 * head.unit * head.squeeze(u), 0.13 * head.unit), blush, alpha=0.8, outline=0)
    if who.freckles > -0.95:
        shown = mix(colours.skin, (150, 70, 34), 0.85 * (who.freckles + 1) / 2)
        for u, y in FRECKLES:
            x, y = head.place([head.side(u, y)])[0]
            amount = (who.freckles + 1) / 2
            canvas.fill(ellipse(x, y, 0.046 * head.unit), shown, outline=0, solid=0.4 * amount)


def _beard(canvas: Canvas, head: Head, colours: Palette) -> None:
    amount = (head.who.beard + 1) / 2
    w, sway = head.width, 0.17 * head.width * np.sin(head.turn)
    outline = head.outline()
    jaw, chin = abs(outline[4][0] - sway * 0.62), abs(outline[5][0] - sway * 0.93)
    drop = 0.02 + 0.12 * amount
    top, mouth = 0.42 - 0.3 * amount, head.mouth_y
    rim = [(0.985 * w, top), (jaw + 0.02, 0.62), (chin + 0.02, 0.93 + 0.6 * drop)]
    right = [(x + sway * y, y) for x, y in rim]
    left = [(-x + sway * y, y) for x, y in rim]
    lip = [head.side(0.66, mouth - 0.02), head.side(0.3, mouth - 0.17), head.side(0.0, mouth - 0.13),
           head.side(-0.3, mouth - 0.17), head.side(-0.66, mouth - 0.02)]  # fmt: skip
    points = np.array([*right, (sway, 1 + drop), *left[::-1], *lip[::-1]])
    grown = tuple(min(0.9 * h, 0.62 * s) for h, s in zip(colours.hair, colours.skin, strict=True))
    shown = mix(colours.skin, grown, min(1.0, 0.1 + 1.15 * amount))
    canvas.fill(head.place(smooth(points)), shown, shade=0.12, outline=0.5 * amount, solid=0.25 * amount)


def _mouth(canvas: Canvas, head: Head, colours: Palette) -> None:
    who, y = head.who, head.mouth_y
    half = 0.36 + 0.1 * who.mouth_width
    full = 0.05 + 0.032 * (who.lips + 1)
    left, right = head.side(-half, y - 0.03), head.side(half, y - 0.03)
    upper = [
        head.side(-half / 2, y - 0.4 * full),
        head.side(0, y - 0.2 * full),
        head.side(half / 2, y - 0.4 * full),
    ]
    lower = [head.side(half / 2, y + full), head.side(0, y + 1.3 * full), head.side(-half / 2, y + full)]
    canvas.fill(head.place(smooth([left, *upper, right, *lower])), colours.lip, outline=0, solid=0.3)
    middle = [
        left,
        head.side(-half / 2, y + 0.035),
        head.side(0, y + 0.05),
        head.side(half / 2, y + 0.035),
        right,
    ]
    canvas.line(head.place(smooth_line(middle)), 0.014, mix(colours.lip, (50, 14, 20), 0.65))


def _nose(canvas: Canvas, head: Head, colours: Palette) -> None:
    size = 1 + 0.35 * head.who.nose
    y, turned = head.nose_y, np.sin(head.turn)
    side = 1 if head.turn >= 0 else -1
    wing = 0.17 * size
    shadow = mix(colours.skin, (120, 50, 34), 0.3)
    tip = head.side(0.02 * side, y, 1.4)
    base = head.side(0.0, y + 0.1 * size, 1.18)
    ridge = [
        head.side(side * 0.12, head.eye_y + 0.02),
        (tip[0] + side * 0.05 * size, y),
        (base[0] + side * wing * w_of(head), y + 0.07),
    ]
    shade = [*ridge, base, (base[0] - side * 0.02, y - 0.02), head.side(side * 0.02, head.eye_y + 0.1, 1.1)]
    canvas.fill(head.place(smooth(shade)), mix(colours.skin, shadow, 0.45 + 0.3 * abs(turned)), outline=0)
    curve = [(base[0] - wing * w_of(head), y + 0.02), (base[0] - 0.4 * wing * w_of(head), y + 0.1 * size),
             (base[0] + 0.4 * wing * w_of(head), y + 0.1 * size), (base[0] + wing * w_of(head), y + 0.02)]  # fmt: skip
    canvas.line(head.place(smooth_line(curve)), 0.015, mix(shadow, (60, 20, 16), 0.35), ink=0.85)


def w_of(head: Head) -> float:
    """Return the half width of the face, narrower when turned away."""
    return head.width * (0.8 + 0.2 * np.cos(2 * head.turn))


def _eyes(canvas: Canvas, head: Head, colours: Palette) -> None:
    who, y = head.who, head.eye_y
    apart = 0.42 + 0.06 * who.eye_spacing
    rx, ry = 0.235 * (1 + 0.16 * who.eye_size) * head.width, 0.115 * (1 + 0.26 * who.eye_size)
    brow_colour = mix(mix(colours.hair, (40, 26, 20), 0.35), colours.skin, 0.08)
    for u in (-apart, apart):
        narrow = head.squeeze(u) / np.cos(0.6 * apart)
        cx, cy = head.side(u, y)
        white = head.place(ellipse(cx, cy, rx * narrow, ry))
        canvas.fill(white, (250, 248, 244), outline=0)
        gx = cx + 0.42 * rx * narrow * head.gaze
        canvas.fill(head.place(ellipse(gx, cy, 0.5 * rx, 0.92 * ry)), colours.eye, outline=0, solid=0.55)
        canvas.fill(head.place(ellipse(gx, cy, 0.25 * rx, 0.5 * ry)), (16, 12, 16), outline=0, solid=1.0)
        canvas.fill(
            head.place(ellipse(gx + 0.14 * rx, cy - 0.3 * ry, 0.12 * rx, 0.2 * ry)),
            (255, 255, 255),
            outline=0,
        )
        lid = [(cx - 1.05 * rx * narrow, cy), (cx, cy - 1.12 * ry), (cx + 1.05 * rx * narrow, cy)]
        canvas.line(head.place(smooth_line(lid)), 0.014, (52, 32, 30), ink=0.9)
        inward, rise = -1 if u > 0 else 1, 0.07 * who.brow_angle
        height = y - 0.2 - 0.03 * who.eye_size
        brow = [(cx + inward * rx * 0.95 * narrow, height + rise), (cx - inward * 0.2 * rx, height - 0.045),
                (cx - inward * rx * 1.15 * narrow, height + 0.03 - rise)]  # fmt: skip
        width = head.unit * (0.105 + 0.05 * who.brow_thickness)
        canvas.line(head.place(smooth_line(brow)), width, brow_colour)
