"""The map of `report.settings_map` as a picture: one setting is the colour, one the size, one the shape of a point."""

from __future__ import annotations

import math
from html import escape

from likeness.report.axes import Frame, padded
from likeness.report.settings_map import Map, Point
from likeness.report.varying import NAMES, number_of

SIZE, MARGINS = (820, 470), (70, 210, 24, 58)
COLOURS = ("#c6dbef", "#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b")
STYLE = (
    ".map text{font:13px system-ui,sans-serif;fill:#222}.map .grid{stroke:#e3e3e8}.map .front{stroke:#c2410c;"
    "fill:none;opacity:1;stroke-width:2;stroke-dasharray:5 4}.map .chosen{stroke:#c2410c;fill:none;stroke-width:3}"
    ".map .point *{stroke:#1c1c1e;stroke-width:.8}.map .plain{fill:none;stroke:#6e6e74;stroke-width:1.6}"
)  # named after the map: on the report's page other pictures stand beside it
TITLES = {"edit_success": "edit happened (share of pictures)", "clip_t": "CLIP cosine with the target prompt"}


def draw_map(made: Map) -> str:
    """Return the map as an SVG for a file or a page; beyond three settings the rest is told by the points' titles."""
    everything = [*made.points, *made.plain]
    xs, ys = [p.lost for p in everything], [p.success for p in everything]
    success, lost = made.metrics
    shares = success == "edit_success"
    frame = Frame(SIZE, MARGINS, padded(min(xs), max(xs)), (-0.04, 1.04) if shares else padded(min(ys), max(ys)))

    def place(point: Point) -> tuple[float, float]:
        return frame.place(point.lost, point.success)

    look = _Look(made)
    parts = [f"<style>{STYLE}</style>", f'<rect width="{SIZE[0]}" height="{SIZE[1]}" fill="#fff"/>']
    parts.append(frame.axes(f"{lost} to the source (right: more of it kept)", TITLES[success], shares=shares))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(made.points[i]) for i in made.front))
    parts.append(f'<polyline points="{line}" class="front"/>')
    for point in made.plain:
        x, y = place(point)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" class="plain"><title>{_title(point)}</title></circle>')
    parts += [look.mark(point, *place(point)) for point in made.points]
    x, y = place(made.points[made.chosen])
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="15" class="chosen"/>')
    parts.append(_legend(made, look, frame))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="map" viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="img" '
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


def _legend(made: Map, look: _Look, frame: Frame) -> str:
    _, right, top, _ = frame.edges
    x, y, parts = right + 24, top + 10, []

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
