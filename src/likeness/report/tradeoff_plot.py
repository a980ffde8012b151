"""The map of `report.tradeoff` as a picture: one setting is the colour, one the size, one the shape of a point."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

from likeness.report.plot import ticks
from likeness.report.tradeoff import Map, Point
from likeness.report.varying import NAMES, number_of

WIDTH, HEIGHT = 820, 470
LEFT, RIGHT, TOP, BOTTOM = 70, 210, 24, 58
COLOURS = ("#c6dbef", "#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b")
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.grid{stroke:#e3e3e8}.front{stroke:#c2410c;fill:none;"
    "stroke-width:2;stroke-dasharray:5 4}.chosen{stroke:#c2410c;fill:none;stroke-width:3}"
    ".point{stroke:#1c1c1e;stroke-width:.8}.plain{fill:none;stroke:#6e6e74;stroke-width:1.6}"
)
TITLES = {"edit_success": "edit happened (share of pictures)", "clip_t": "CLIP cosine with the target prompt"}


def draw_map(made: Map) -> str:
    """Return the map as a stand-alone SVG; beyond three settings the rest is told by the points' titles."""
    everything = [*made.points, *made.plain]
    xs, ys = [p.lost for p in everything], [p.success for p in everything]
    x_range = _padded(min(xs), max(xs))
    y_range = (-0.04, 1.04) if made.metrics[0] == "edit_success" else _padded(min(ys), max(ys))
    place = _placer(x_range, y_range)
    look = _Look(made)
    parts = [f"<style>{STYLE}</style>", f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>']
    parts.append(_axes(made, x_range, y_range, place))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(made.points[i]) for i in made.front))
    parts.append(f'<polyline points="{line}" class="front"/>')
    for point in made.plain:
        x, y = place(point)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" class="plain"><title>{_title(point)}</title></circle>')
    parts += [look.mark(point, *place(point)) for point in made.points]
    x, y = place(made.points[made.chosen])
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="15" class="chosen"/>')
    parts.append(_legend(made, look))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="edit success against structure kept">{"".join(parts)}</svg>\n'
    )


class _Look:
    """Colour, size and shape of a point from its first three settings."""

    def __init__(self, made: Map) -> None:
        columns = zip(*(point.values for point in made.points), strict=True)
        self.levels = [sorted(set(column), key=number_of) for column in columns]

    def colour(self, value: str) -> str:
        levels = self.levels[0]
        return COLOURS[round(levels.index(value) * (len(COLOURS) - 1) / max(1, len(levels) - 1))]

    def radius(self, value: str | None) -> float:
        return 6.0 if value is None else 4.0 + 6.0 * self.levels[1].index(value) / max(1, len(self.levels[1]) - 1)

    def corners(self, value: str | None) -> int:
        return 0 if value is None else (0, 4, 3, 5, 6)[self.levels[2].index(value) % 5]

    def mark(self, point: Point, x: float, y: float) -> str:
        values = [*point.values, None, None]
        shape = polygon(x, y, self.radius(values[1]), self.corners(values[2]))
        return f'<g class="point" fill="{self.colour(point.values[0])}"><title>{_title(point)}</title>{shape}</g>'


def polygon(x: float, y: float, radius: float, corners: int) -> str:
    """Return a regular shape; 0 corners are a circle."""
    if not corners:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
    angles = (math.pi * (2 * k / corners - 0.5 + (1 / corners if corners % 2 == 0 else 0)) for k in range(corners))
    around = " ".join(f"{x + 1.2 * radius * math.cos(a):.1f},{y + 1.2 * radius * math.sin(a):.1f}" for a in angles)
    return f'<polygon points="{around}"/>'


def _title(point: Point) -> str:
    return escape(f"{', '.join(point.values) or 're-prompting'}: {point.success:.2f}, {point.lost:.3f} (n={point.n})")


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.08 * (high - low or abs(high) or 1.0)
    return low - room, high + room


def _placer(x_range, y_range) -> Callable[[Point], tuple[float, float]]:
    def place(point: Point) -> tuple[float, float]:
        across = 1 - (point.lost - x_range[0]) / (x_range[1] - x_range[0])  # right: more is kept
        up = (point.success - y_range[0]) / (y_range[1] - y_range[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    return place


def _axes(made: Map, x_range, y_range, place) -> str:
    success, lost = made.metrics
    bottom, parts = HEIGHT - BOTTOM, []
    for value in ticks(*x_range):
        x, _ = place(Point((), 0.0, value, 0, (None, None)))
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>')
    for value in [0, 0.25, 0.5, 0.75, 1] if success == "edit_success" else ticks(*y_range):
        _, y = place(Point((), value, x_range[0], 0, (None, None)))
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{escape(lost)} to the source '
        "(right: more of it kept)</text>"
        f'<text transform="translate(18 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{TITLES[success]}</text>'
    )
    return "".join(parts)


def _legend(made: Map, look: _Look) -> str:
    x, y, parts = WIDTH - RIGHT + 24, TOP + 10, []

    def line(mark: str, text: str) -> None:
        nonlocal y
        parts.append(f'{mark}<text x="{x + 18}" y="{y + 4}">{escape(text)}</text>')
        y += 20

    for number, path in enumerate(made.settings[:3]):
        for value in look.levels[number]:
            shape = polygon(x, y, look.radius(value) if number == 1 else 6, look.corners(value) if number == 2 else 0)
            colour = look.colour(value) if number == 0 else "#fff"
            line(f'<g class="point" fill="{colour}">{shape}</g>', f"{NAMES[path]} {value}")
        y += 8
    line(f'<circle cx="{x}" cy="{y}" r="6" class="plain"/>', "re-prompting")
    line(f'<line x1="{x - 8}" y1="{y}" x2="{x + 8}" y2="{y}" class="front"/>', "Pareto front")
    line(f'<circle cx="{x}" cy="{y}" r="7" class="chosen"/>', "chosen")
    return "".join(parts)
