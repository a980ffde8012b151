"""The places a doll stands in, drawn behind it; `u` holds the background's random numbers in [0, 1)."""

from __future__ import annotations

import numpy as np

from likeness.paperdoll.draw import Canvas, box, ellipse, rounded, smooth, smooth_line
from likeness.paperdoll.identity import mix


def plain(canvas: Canvas, u: np.ndarray, _blossom: float) -> None:
    """A studio backdrop of one soft colour."""
    angle = 2 * np.pi * u[0]
    hue = tuple(0.5 + 0.5 * np.cos(angle + shift) for shift in (0, 2.1, 4.2))
    base = tuple((150 + 70 * u[1]) + (h - 0.5) * 70 * u[2] for h in hue)
    canvas.rows(0, 1, mix(base, (255, 255, 255), 0.32), mix(base, (30, 30, 50), 0.22))


def beach(canvas: Canvas, u: np.ndarray, _blossom: float) -> None:
    horizon = 0.34 + 0.1 * u[0]
    shore = horizon + 0.2 + 0.06 * u[1]
    canvas.rows(0, horizon, (104, 190, 240), (206, 238, 250))
    sun = 0.12 + 0.16 * u[2] if u[3] < 0.5 else 0.72 + 0.16 * u[2]
    canvas.fill(ellipse(sun, 0.13 + 0.05 * u[4], 0.075), (255, 228, 92), outline=0.7)
    canvas.rows(horizon, shore, (24, 140, 190), (70, 206, 206))
    boat = 0.86 - 0.1 * u[2] if u[3] < 0.5 else 0.14 + 0.1 * u[2]
    canvas.fill(
        np.array([(boat, horizon - 0.15), (boat + 0.085, horizon + 0.01), (boat, horizon + 0.01)]),
        (255, 252, 244),
    )
    hull = np.array(
        [
            (boat - 0.07, horizon + 0.02),
            (boat + 0.1, horizon + 0.02),
            (boat + 0.06, horizon + 0.06),
            (boat - 0.04, horizon + 0.06),
        ]
    )
    canvas.fill(hull, (196, 70, 54))
    canvas.rows(shore, 1.0, (252, 228, 168), (232, 190, 118))
    canvas.rows(shore, shore + 0.03, (255, 255, 252), (255, 250, 236))


def pine(canvas: Canvas, x: float, base: float, height: float, colour) -> None:
    """Draw a fir of three tiers."""
    canvas.fill(box(x - 0.022, base - 0.1, x + 0.022, base), (98, 66, 46), outline=0.7)
    for k in range(3):
        top, half = base - height * (1 - 0.22 * k), height * (0.17 + 0.07 * k)
        tier = np.array([(x, top), (x + half, top + 0.42 * height), (x - half, top + 0.42 * height)])
        canvas.fill(tier, mix(colour, (200, 240, 200), 0.06 * (2 - k)), outline=0.8)


def forest(canvas: Canvas, u: np.ndarray, _blossom: float) -> None:
    canvas.rows(0, 0.6, (198, 232, 232), (172, 216, 176))
    base = 0.58 + 0.06 * u[0]
    hills = [
        (-0.1, 0.5),
        (0.2, 0.36 + 0.08 * u[1]),
        (0.5, 0.42),
        (0.8, 0.34 + 0.08 * u[2]),
        (1.1, 0.48),
        (1.1, 0.9),
        (-0.1, 0.9),
    ]
    canvas.fill(smooth(hills), (124, 184, 142), outline=0.5)
    for k, x in enumerate((0.3, 0.7)):
        pine(canvas, x + 0.1 * (u[8 + k] - 0.5), base, 0.46 + 0.1 * u[10 + k], (64, 140, 92))
    canvas.rows(base - 0.02, 1, (88, 158, 76), (52, 112, 56))
    for k, x in enumerate((0.06, 0.94)):
        pine(canvas, x + 0.1 * (u[4 + k] - 0.5), base + 0.14, 0.62 + 0.14 * u[6 + k], (30, 98, 66))


def leaf(canvas: Canvas, x: float, y: float, length: float, degrees: float, colour) -> None:
    """Draw a broad leaf with a rib that starts at (x, y)."""
    a = np.radians(degrees)
    d, n = np.array([np.cos(a), np.sin(a)]) * length, np.array([-np.sin(a), np.cos(a)]) * length * 0.2
    p = np.array([x, y])
    canvas.fill(
        smooth([p, p + 0.4 * d + n, p + 0.8 * d + 0.6 * n, p + d, p + 0.8 * d - 0.6 * n, p + 0.4 * d - n]),
        colour,
        outline=0.8,
    )
    canvas.line(np.array([p, p + 0.9 * d]), 0.014, mix(colour, (210, 240, 120), 0.35), ink=0.5)


def jungle(canvas: Canvas, u: np.ndarray, _blossom: float) -> None:
    canvas.rows(0, 1, (150, 200, 70), (20, 84, 50))
    canvas.fill(ellipse(0.5, 0.4, 0.5, 0.34), (178, 216, 92), outline=0.3)
    for k in range(2):
        x = 0.26 + 0.4 * k + 0.12 * u[k]
        vine = [(x, -0.05), (x + 0.05, 0.16), (x - 0.03, 0.34), (x + 0.03, 0.6)]
        canvas.line(smooth_line(vine), 0.026, (60, 104, 40), ink=0.8)
    greens = ((16, 92, 52), (34, 128, 62), (62, 150, 58))
    for side in (0, 1):
        for k in range(5):
            y = -0.02 + 0.2 * k + 0.06 * u[2 + k + 5 * side]
            sway = 40 - 17 * k + 14 * (u[6 - k + 5 * side] - 0.5)
            degrees = sway if side == 0 else 180 - sway
            leaf(canvas, -0.06 if side == 0 else 1.06, y, 0.48, degrees, greens[(k + side) % 3])


def peak(canvas: Canvas, x: float, top: float, half: float, base: float, rock) -> None:
    """Draw a mountain with a white cap and a shaded flank."""
    canvas.fill(np.array([(x, top), (x + half, base), (x - half, base)]), rock)
    canvas.fill(
        np.array([(x, top), (x + half, base), (x + 0.18 * half, base)]),
        mix(rock, (40, 50, 90), 0.3),
        outline=0,
    )
    cap, t = base - top, 0.42
    snow = [
        (x, top),
        (x + t * half, top + t * cap),
        (x + 0.2 * half, top + 0.34 * cap),
        (x, top + 0.5 * cap),
        (x - 0.18 * half, top + 0.34 * cap),
        (x - t * half, top + t * cap),
    ]
    canvas.fill(np.array(snow), (252, 253, 255), outline=0.8)


def snowy_mountain(canvas: Canvas, u: np.ndarray, _blossom: float) -> None:
    base = 0.58 + 0.06 * u[0]
    canvas.rows(0, base, (110, 164, 226), (214, 230, 248))
    peak(canvas, 0.5 + 0.3 * (u[5] - 0.5), 0.16 + 0.06 * u[6], 0.34, base, (150, 164, 192))
    peak(canvas, 0.12 + 0.12 * u[1], 0.1 + 0.1 * u[2], 0.32, base, (112, 126, 160))
    peak(canvas, 0.78 + 0.12 * u[3], 0.08 + 0.1 * u[4], 0.32, base, (120, 134, 168))
    canvas.rows(base - 0.01, 1, (250, 252, 255), (206, 222, 242))


def river(canvas: Canvas, u: np.ndarray, _blossom: float) -> None:
    horizon = 0.36 + 0.08 * u[0]
    canvas.rows(0, horizon, (150, 206, 240), (226, 242, 244))
    hills = [
        (-0.2, 0.6),
        (-0.1, horizon - 0.1),
        (0.2 + 0.1 * u[1], horizon - 0.18),
        (0.5, horizon - 0.02),
        (0.8 - 0.1 * u[2], horizon - 0.16),
        (1.1, horizon - 0.1),
        (1.2, 0.6),
    ]
    canvas.fill(smooth(hills), (120, 176, 110), outline=0.7)
    canvas.rows(horizon, 1, (84, 160, 214), (28, 98, 172))
    for side in (0, 1):
        bank = np.array(
            [
                (-0.1, horizon - 0.01),
                (0.34 + 0.08 * u[3 + side], horizon),
                (0.2, horizon + 0.1),
                (0.1, horizon + 0.24),
                (-0.1, horizon + 0.42),
            ]
        )
        canvas.fill(bank if side == 0 else bank * (-1, 1) + (1, 0), (112, 188, 84))
        tree = 0.05 + 0.08 * u[5 + side] if side == 0 else 0.95 - 0.08 * u[5 + side]
        canvas.fill(box(tree - 0.018, horizon - 0.1, tree + 0.018, horizon + 0.05), (110, 74, 50), outline=0.7)
        canvas.fill(ellipse(tree, horizon - 0.14, 0.1, 0.12), (64, 146, 72), shade=0.15)
    for k in range(5):
        y, x = horizon + 0.26 + 0.085 * k, (0.1, 0.84, 0.2, 0.92, 0.1)[k] + 0.08 * (u[7 + k] - 0.5)
        wave = [(x - 0.11, y), (x - 0.04, y - 0.015), (x + 0.04, y + 0.012), (x + 0.11, y)]
        canvas.line(smooth_line(wave), 0.02, (176, 220, 246), ink=0.7)


def water(canvas: Canvas, u: np.ndarray) -> None:
    """Draw the river's surface in front of the doll, which stands in it."""
    y = 0.91
    surface = [
        (-0.1, y),
        (0.1, y - 0.016),
        (0.3, y + 0.012),
        (0.5, y - 0.016),
        (0.7, y + 0.012),
        (0.9, y - 0.016),
        (1.1, y),
        (1.1, 1.2),
        (-0.1, 1.2),
    ]
    canvas.fill(smooth(surface), (58, 138, 204), outline=0.8)
    canvas.line(smooth_line(np.array(surface[:7])), 0.02, (200, 232, 250), ink=0.5)


def desert(canvas: Canvas, u: np.ndarray, _blossom: float) -> None:
    horizon = 0.44 + 0.08 * u[0]
    canvas.rows(0, 0.7, (250, 182, 92), (255, 232, 180))
    right = u[1] < 0.5
    canvas.fill(
        ellipse(0.2 + 0.1 * u[2] if right else 0.8 - 0.1 * u[2], 0.16 + 0.06 * u[3], 0.09),
        (255, 250, 222),
        outline=0.7,
    )
    far = [
        (-0.2, 1.2),
        (-0.2, horizon),
        (0.15, horizon - 0.1 * u[4]),
        (0.5, horizon + 0.04),
        (0.85, horizon - 0.1 * u[5]),
        (1.2, horizon),
        (1.2, 1.2),
    ]
    canvas.fill(smooth(far), (234, 164, 84), outline=0.8)
    near = [
        (-0.2, 1.3),
        (-0.2, horizon + 0.16),
        (0.2, horizon + 0.2 * u[6]),
        (0.6, horizon + 0.22),
        (1.0, horizon + 0.1 + 0.12 * u[7]),
        (1.3, 1.3),
    ]
    canvas.fill(smooth(near), (216, 132, 60), outline=0.8)
    x, base, green = (0.86 if right else 0.14) + 0.08 * (u[8] - 0.5), horizon + 0.22, (52, 132, 82)
    for dx, top, elbow in ((-0.1, base - 0.28, base - 0.14), (0.1, base - 0.34, base - 0.2)):
        arm = np.array([(x, elbow), (x + dx * 0.9, elbow), (x + dx, elbow - 0.04), (x + dx, top)])
        canvas.line(arm, 0.042, green, ink=0)
        canvas.fill(ellipse(x + dx, top, 0.021), green, outline=0.5)
    canvas.fill(rounded(x - 0.036, base - 0.44, x + 0.036, base, 0.035), green)


def city_street(canvas: Canvas, u: np.ndarray, _blossom: float) -> None:
    canvas.rows(0, 0.7, (186, 188, 222), (246, 214, 206))
    walls = ((128, 106, 132), (176, 92, 78), (96, 112, 146), (190, 146, 104))
    start = int(u[0] * 4)
    canvas.fill(box(0.36, 0.3 + 0.1 * u[1], 0.66, 0.8), (154, 158, 190), outline=0.6)
    for k, (x0, x1) in enumerate(((-0.02, 0.18), (0.18, 0.37), (0.63, 0.82), (0.82, 1.02))):
        outer = k in (0, 3)
        top = (0.02 if outer else 0.18) + 0.1 * u[2 + k]
        colour = walls[(start + k) % 4]
        canvas.fill(box(x0, top, x1, 0.76), colour)
        for row in range(4):
            y = top + 0.06 + 0.13 * row
            for column in range(2):
                x = x0 + 0.035 + 0.08 * column
                lit = (255, 232, 142) if (row + column + k) % 2 == 0 else mix(colour, (30, 34, 60), 0.45)
                canvas.fill(box(x, y, x + 0.05, y + 0.075), lit, outline=0.5, solid=0.0 if lit[0] == 255 else 0.3)
    canvas.rows(0.7, 0.77, (198, 194, 194), (182, 178, 180))
    canvas.rows(0.77, 1, (104, 104, 116), (72, 74, 88))
    for x in (0.05, 0.45, 0.85):
        x += 0.16 * (u[7] - 0.5)
        canvas.fill(box(x, 0.87, x + 0.16, 0.9), (250, 236, 180), outline=0.5)


def blossom_tree(canvas: Canvas, u: np.ndarray, blossom: float) -> None:
    """A tree over the doll; `blossom` in [0, 1] goes from bare branches to a full crown; more adds to less."""
    ground = 0.66 + 0.06 * u[0]
    canvas.rows(0, ground, (166, 214, 240), (232, 244, 240))
    canvas.rows(ground, 1, (146, 202, 104), (92, 156, 74))
    bark = (104, 72, 60)
    left = u[1] < 0.5
    x = 0.09 + 0.06 * u[2]

    def flip(points) -> np.ndarray:
        p = np.array(points, float)
        return p if left else p * (-1, 1) + (1, 0)

    trunk = [
        (x - 0.07, ground + 0.1),
        (x - 0.035, 0.5),
        (x - 0.05, 0.25),
        (x + 0.05, 0.22),
        (x + 0.045, 0.5),
        (x + 0.09, ground + 0.1),
    ]
    for points, width in (
        ([(x, 0.3), (x + 0.14, 0.17), (0.5, 0.1 + 0.04 * u[3]), (0.8, 0.13), (1.05, 0.08)], 0.05),
        ([(x, 0.36), (x - 0.05, 0.2), (x - 0.1, 0.0)], 0.045),
        ([(x + 0.12, 0.18), (x + 0.2, 0.08), (x + 0.24, -0.05)], 0.036),
        ([(0.62, 0.115), (0.72, 0.03), (0.76, -0.05)], 0.032),
        ([(0.72, 0.12), (0.84, 0.22), (0.9, 0.34)], 0.032),
        ([(x, 0.45), (x + 0.08, 0.36), (x + 0.14, 0.34)], 0.03),
    ):
        canvas.line(smooth_line(flip(points)), width, bark, ink=0.75)
    canvas.fill(flip(smooth(trunk)), bark)
    shown = _crown(u, blossom)
    for bx, by, r in shown:
        canvas.fill(ellipse(bx, by, r), (240, 132, 172), outline=0.75)
    for bx, by, r in shown:
        canvas.fill(ellipse(bx - 0.2 * r, by - 0.24 * r, 0.62 * r), (255, 190, 214), outline=0)


BLOSSOMS, BLOSSOM_RADIUS = 48, 0.078


def _crown(u: np.ndarray, blossom: float) -> list[tuple[float, float, float]]:
    """Return the clusters (x, y, radius) that show: evenly spread positions, one after the other."""
    clusters = []
    for k in range(BLOSSOMS):
        grown = np.clip(blossom * BLOSSOMS - k, 0, 1)
        if grown <= 0:
            break
        bx = (0.5 + u[4] + 0.6180340 * k) % 1
        depth = 0.2 + 0.3 * abs(2 * bx - 1) ** 1.5
        by = ((0.5 + u[5] + 0.7548777 * k) % 1) * depth
        clusters.append((bx, by, BLOSSOM_RADIUS * np.sqrt(grown)))
    return clusters


def mirror(canvas: Canvas, u: np.ndarray, _blossom: float) -> None:
    """A wall with a large arched mirror."""
    wall = mix(mix((206, 152, 136), (142, 168, 150), u[0]), (170, 140, 180), 0.6 * u[1])
    canvas.rows(0, 1, mix(wall, (255, 255, 255), 0.1), mix(wall, (0, 0, 0), 0.12))
    x0, x1, top = 0.09 + 0.02 * u[2], 0.91 - 0.02 * u[2], 0.06 + 0.03 * u[3]

    def arch(inset: float) -> np.ndarray:
        a, b, t = x0 + inset, x1 - inset, top + inset
        bend = np.linspace(np.pi, 0, 15)
        curve = np.stack([(a + b) / 2 + (b - a) / 2 * np.cos(-bend), t + 0.26 - (0.26) * np.sin(bend)], 1)
        return np.concatenate([curve, [(b, 1.1), (a, 1.1)]])

    canvas.fill(arch(0.0), (214, 168, 76))
    canvas.fill(arch(0.05), (206, 226, 236), to=(158, 188, 206))
    for x in (0.18, 0.66):
        shine = np.array([(x + 0.2, 0.1), (x + 0.3, 0.1), (x, 1.0), (x - 0.1, 1.0)])
        canvas.fill(shine, (228, 240, 246), alpha=0.5, outline=0)


DRAW = {
    "plain": plain,
    "beach": beach,
    "forest": forest,
    "jungle": jungle,
    "snowy mountain": snowy_mountain,
    "river": river,
    "desert": desert,
    "city street": city_street,
    "blossom tree": blossom_tree,
    "mirror": mirror,
}
