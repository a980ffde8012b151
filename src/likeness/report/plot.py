"""The report's plot as inline SVG: did the edit happen, against how much of the source is kept."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from likeness.report.records import CellResult

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 24, 56


def scatter(cells: Sequence[CellResult]) -> str:
    """Return an SVG with a line from without to with for every cell; "" if nothing can be placed."""
    y_metric = "edit_success" if any(cell.mean("edit_success", "with") is not None for cell in cells) else "clip_t"
    points = [
        (cell, *((cell.mean("lpips", arm), cell.mean(y_metric, arm)) for arm in ("without", "with"))) for cell in cells
    ]
    points = [p for p in points if None not in (*p[1], *p[2])]
    if not points:
        return ""
    xs = [x for _, a, b in points for x, _ in (a, b)]
    ys = [y for _, a, b in points for _, y in (a, b)]
    x_range = padded(0, max(xs))
    y_range = (-0.05, 1.05) if y_metric == "edit_success" else padded(min(ys), max(ys))
    place = placer(x_range, y_range)
    parts = [axes(x_range, y_range, y_metric, place)]
    for cell, without, with_ in points:
        (x0, y0), (x1, y1) = place(*without), place(*with_)
        parts.append(
            f"<g><title>{escape(cell.name)}: without {without[0]:.3f}, {without[1]:.2f}; with {with_[0]:.3f}, "
            f'{with_[1]:.2f}</title><line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" class="path"/>'
            f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="5" class="without"/>'
            f'<circle cx="{x1:.1f}" cy="{y1:.1f}" r="6" class="with"/></g>'
        )
    parts.append(labels(points, place))
    parts.append(legend())
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="edit against structure">{"".join(parts)}</svg>'


def padded(low: float, high: float) -> tuple[float, float]:
    """Return a range a little wider than the numbers."""
    room = 0.12 * (high - low or abs(high) or 1.0)
    return (low - room if low else 0.0), high + room


def placer(x_range: tuple[float, float], y_range: tuple[float, float]):
    """Return the function from numbers to pixels; x runs from much lost on the left to all kept on the right."""

    def place(x: float, y: float) -> tuple[float, float]:
        across = 1 - (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    return place


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers in a range."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5):
        if (high - low) / step <= 6:
            first = -(-low // step)
            return [round(step * (first + k), 6) for k in range(8) if step * (first + k) <= high + 1e-9]
    return [low, high]


def axes(x_range, y_range, y_metric: str, place) -> str:
    """Return grid lines, numbers and axis titles."""
    bottom, parts = HEIGHT - BOTTOM, []
    for x in ticks(*x_range):
        px, _ = place(x, y_range[0])
        parts.append(f'<line x1="{px:.1f}" y1="{TOP}" x2="{px:.1f}" y2="{bottom}" class="grid"/>')
        parts.append(f'<text x="{px:.1f}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>')
    percent = y_metric == "edit_success"
    for y in [0, 0.25, 0.5, 0.75, 1] if percent else ticks(*y_range):
        _, py = place(x_range[0], y)
        text = f"{y:.0%}" if percent else f"{y:g}"
        parts.append(f'<line x1="{LEFT}" y1="{py:.1f}" x2="{WIDTH - RIGHT}" y2="{py:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{py + 4:.1f}" text-anchor="end">{text}</text>')
    title = "edit happened (share of pictures)" if percent else "CLIP score with the target prompt"
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle" class="axis">LPIPS to the source '
        "(right: more of it kept)</text>"
        f'<text transform="translate(16 {HEIGHT / 2 - 12}) rotate(-90)" text-anchor="middle" '
        f'class="axis">{title}</text>'
    )
    return "".join(parts)


def labels(points, place) -> str:
    """Return the cells' names beside their with-points, moved apart where they would overlap; few cells only."""
    if len(points) > 14:
        return ""
    taken: list[tuple[float, float]] = []
    parts = []
    for cell, _, with_ in sorted(points, key=lambda p: place(*p[2])[1]):
        x, y = place(*with_)
        y += 18
        while any(abs(y - other_y) < 13 and abs(x - other_x) < 150 for other_x, other_y in taken):
            y += 13
        taken.append((x, y))
        anchor = "end" if x > WIDTH - 170 else "start"
        parts.append(f'<text x="{x + (6 if anchor == "end" else -6):.1f}" y="{y:.1f}" text-anchor="{anchor}" '
                     f'class="name">{escape(cell.axes["subject"])} {escape(cell.label)}</text>')  # fmt: skip
    return "".join(parts)


def legend() -> str:
    """Return what the two kinds of points mean."""
    x = LEFT + 14
    return (
        f'<circle cx="{x}" cy="{HEIGHT - BOTTOM - 34}" r="5" class="without"/>'
        f'<text x="{x + 12}" y="{HEIGHT - BOTTOM - 30}">re-prompting, same seed</text>'
        f'<circle cx="{x}" cy="{HEIGHT - BOTTOM - 15}" r="6" class="with"/>'
        f'<text x="{x + 12}" y="{HEIGHT - BOTTOM - 11}">Prompt-to-Prompt</text>'
    )
