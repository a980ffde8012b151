"""The frame both plots are drawn in: where a value lies, round numbers along the axes, grid lines, titles.

x is what is lost, so it runs backwards: on the right all of the source is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

Range = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """A picture's size, its margins, and the numbers that its axes span."""

    size: tuple[int, int]
    margins: tuple[int, int, int, int]  # left, right, top, bottom
    x_range: Range
    y_range: Range

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Return the pixels of the left, right, top and bottom axis."""
        (width, height), (left, right, top, bottom) = self.size, self.margins
        return left, width - right, top, height - bottom

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a pair of numbers."""
        left, right, top, bottom = self.edges
        across = 1 - (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    def axes(self, x_title: str, y_title: str, *, shares: bool) -> str:
        """Return grid lines, numbers and axis titles; `shares` writes the y axis in per cent."""
        left, right, top, bottom = self.edges
        parts = []
        for x in ticks(*self.x_range):
            px, _ = self.place(x, self.y_range[0])
            parts.append(f'<line x1="{px:.1f}" y1="{top}" x2="{px:.1f}" y2="{bottom}" class="grid"/>')
            parts.append(f'<text x="{px:.1f}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>')
        for y in [0, 0.25, 0.5, 0.75, 1] if shares else ticks(*self.y_range):
            _, py = self.place(self.x_range[0], y)
            text = f"{y:.0%}" if shares else f"{y:g}"
            parts.append(f'<line x1="{left}" y1="{py:.1f}" x2="{right}" y2="{py:.1f}" class="grid"/>')
            parts.append(f'<text x="{left - 8}" y="{py + 4:.1f}" text-anchor="end">{text}</text>')
        parts.append(
            f'<text x="{(left + right) / 2}" y="{self.size[1] - 14}" text-anchor="middle" class="axis">'
            f"{escape(x_title)}</text>"
            f'<text transform="translate(16 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle" '
            f'class="axis up">{escape(y_title)}</text>'
        )
        return "".join(parts)


def padded(low: float, high: float, share: float = 0.1) -> Range:
    """Return a range a little wider than the numbers, by a share of their span."""
    room = share * (high - low or abs(high) or 1.0)
    return low - room, high + room


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers in a range."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5):
        if (high - low) / step <= 6:
            first = -(-low // step)
            return [round(step * (first + k), 6) for k in range(8) if step * (first + k) <= high + 1e-9]
    return [low, high]
