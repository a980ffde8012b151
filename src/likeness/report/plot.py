"""The report's plot as inline SVG: did the edit happen, against how much of the source is kept."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from likeness.report.metric_names import STRUCTURE
from likeness.report.records import CellResult

WIDTH, HEIGHT = 720, 470
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 16, 62
MOST_TAB_STOPS = 40  # with more points than this, the keyboard passes them over


def scatter(cells: Sequence[CellResult], numbers: Sequence[int]) -> str:
    """Return an SVG with a line from without to with for every cell; "" if nothing can be placed.

    `numbers` are the cells' numbers on the page, to which the points link. The dashed line is the Pareto front: the
    points that no other point, of either arm, beats in both.
    """
    y_metric = "edit_success" if any(cell.mean("edit_success", "with") is not None for cell in cells) else "clip_t"
    points = [
        (cell, number, *((cell.mean(STRUCTURE, arm), cell.mean(y_metric, arm)) for arm in ("without", "with")))
        for cell, number in zip(cells, numbers, strict=True)
        if cell.compares
    ]
    points = [p for p in points if None not in (*p[2], *p[3])]
    if not points:
        return ""
    xs = [x for *_, a, b in points for x, _ in (a, b)]
    ys = [y for *_, a, b in points for _, y in (a, b)]
    x_range = padded(0, max(xs))
    y_range = (-0.05, 1.05) if y_metric == "edit_success" else padded(min(ys), max(ys))
    place = placer(x_range, y_range)
    parts = [axes(x_range, y_range, y_metric, place), front_line(points, place)]
    stop = ' tabindex="-1"' if len(points) > MOST_TAB_STOPS else ""
    for cell, number, without, with_ in points:
        (x0, y0), (x1, y1) = place(*without), place(*with_)
        text = f"{cell.name}: without {without[0]:.3f}, {without[1]:.2f}; with {with_[0]:.3f}, {with_[1]:.2f}"
        parts.append(
            f'<a href="#cell-{number}" data-cell="{number}"{stop} aria-label="{escape(text)}">'
            f"<title>{escape(text)}</title>"
            f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" class="path"/>'
            f'<circle cx="{x0:.1f}" cy="{y0:.1f}" r="5" class="without"/>'
            f'<circle cx="{x1:.1f}" cy="{y1:.1f}" r="6" class="with"/></a>'
        )
    parts.append(labels(points, place))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="how often the edit happened, against how much '
        f'of the source is kept">{"".join(parts)}</svg>'
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of points (x: lower is better, y: higher is better) that no other beats, by x.

    Of equal points the first counts.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def front_line(points, place) -> str:
    """Return the Pareto front over both arms as a stepped line."""
    both = [point for *_, without, with_ in points for point in (without, with_)]
    front = [place(*both[index]) for index in pareto(both)]
    steps = " ".join(f"H{x:.1f} V{y:.1f}" for x, y in front)
    path = f"M{front[0][0]:.1f} {HEIGHT - BOTTOM} {steps}"
    return f'<path d="{path} H{LEFT}" class="front"/>'


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
        f'class="axis up">{title}</text>'
    )
    return "".join(parts)


def labels(points, place) -> str:
    """Return the cells' names beside their with-points, moved apart where they would overlap; few cells only."""
    if len(points) > 14:
        return ""
    taken: list[tuple[float, float]] = []
    parts = []
    for cell, number, _, with_ in sorted(points, key=lambda p: place(*p[3])[1]):
        x, y = place(*with_)
        y += 18
        while any(abs(y - other_y) < 15 and abs(x - other_x) < 150 for other_x, other_y in taken):
            y += 15
        taken.append((x, y))
        anchor = "end" if x > WIDTH - 170 else "start"
        name = short(f"{cell.axes['subject']} {cell.label}")
        parts.append(
            f'<text x="{x + (6 if anchor == "end" else -6):.1f}" y="{y:.1f}" text-anchor="{anchor}" class="name" '
            f'data-cell="{number}">{escape(name)}</text>'
        )
    return "".join(parts)


def short(text: str, most: int = 28) -> str:
    """Return a text cut to at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
