"""The report's plot as inline SVG: did the edit happen, against how much of the source is kept."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from likeness.report.axes import Frame, padded
from likeness.report.metric_names import STRUCTURE
from likeness.report.records import CellResult
from likeness.report.settings_map import pareto

SIZE, MARGINS = (720, 470), (76, 20, 16, 62)
X_TITLE = "LPIPS to the source (right: more of it kept)"
Y_TITLES = {"edit_success": "edit happened (share of pictures)", "clip_t": "CLIP score with the target prompt"}
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
    shares = y_metric == "edit_success"
    y_range = (-0.05, 1.05) if shares else padded(min(ys), max(ys))
    frame = Frame(SIZE, MARGINS, (0.0, padded(0, max(xs))[1]), y_range)
    place = frame.place
    parts = [frame.axes(X_TITLE, Y_TITLES[y_metric], shares=shares), front_line(points, frame)]
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
        f'<svg viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="group" aria-label="how often the edit happened, against '
        f'how much of the source is kept">{"".join(parts)}</svg>'
    )


def front_line(points, frame: Frame) -> str:
    """Return the Pareto front over both arms as a stepped line."""
    both = [point for *_, without, with_ in points for point in (without, with_)]
    front = [frame.place(*both[index]) for index in pareto(both)]
    steps = " ".join(f"H{x:.1f} V{y:.1f}" for x, y in front)
    left, _, _, bottom = frame.edges
    return f'<path d="M{front[0][0]:.1f} {bottom} {steps} H{left}" class="front"/>'


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
        anchor = "end" if x > SIZE[0] - 170 else "start"
        name = short(f"{cell.axes['subject']} {cell.label}")
        parts.append(
            f'<text x="{x + (6 if anchor == "end" else -6):.1f}" y="{y:.1f}" text-anchor="{anchor}" class="name" '
            f'data-cell="{number}">{escape(name)}</text>'
        )
    return "".join(parts)


def short(text: str, most: int = 28) -> str:
    """Return a text cut to at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
