"""A supersampled canvas for smooth vector shapes: colour, a region map and ink contours. It knows no style.

All coordinates are fractions of the picture side, so that every size shows the same picture.
"""

from __future__ import annotations

import cv2
import numpy as np

SUPERSAMPLING = 2
SHIFT = 4  # fractional bits of a coordinate handed to OpenCV
BACKGROUND, FIGURE, FACE = 0, 128, 255  # values of the region map
_STEPS = 7
_T = np.linspace(0, 1, _STEPS, endpoint=False)[:, None, None]
_BASIS = [-_T / 2 + _T**2 - _T**3 / 2, 1 - 2.5 * _T**2 + 1.5 * _T**3, _T / 2 + 2 * _T**2 - 1.5 * _T**3,
          -(_T**2) / 2 + _T**3 / 2]  # fmt: skip
_CIRCLE = np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 36, endpoint=False)), np.sin(a)], axis=1)


def smooth(points: np.ndarray) -> np.ndarray:
    """Return the closed Catmull-Rom curve through points (n, 2), as a polygon (7n, 2)."""
    p = np.asarray(points, np.float64)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    curve = _BASIS[0] * before + _BASIS[1] * p + _BASIS[2] * after + _BASIS[3] * beyond
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def smooth_line(points: np.ndarray) -> np.ndarray:
    """Return the open curve through points (n, 2)."""
    p = np.asarray(points, np.float64)
    padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    parts = [b * padded[i : len(padded) - 3 + i] for i, b in enumerate(_BASIS)]
    return np.concatenate([sum(parts).transpose(1, 0, 2).reshape(-1, 2), p[-1:]])


def ellipse(x: float, y: float, rx: float, ry: float | None = None, degrees: float = 0.0) -> np.ndarray:
    """Return an ellipse as a polygon (36, 2)."""
    points = _CIRCLE * (rx, rx if ry is None else ry)
    if degrees:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        points = points @ np.array([[c, s], [-s, c]])
    return points + np.array([x, y])


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def rounded(x0: float, y0: float, x1: float, y1: float, r: float) -> np.ndarray:
    """Return a rectangle with rounded corners as a polygon."""
    quarter = np.linspace(0, np.pi / 2, 6)
    arc = np.stack([np.cos(quarter), np.sin(quarter)], 1) * r
    corners = [(x1 - r, y1 - r, 0), (x0 + r, y1 - r, 1), (x0 + r, y0 + r, 2), (x1 - r, y0 + r, 3)]
    turns = [arc, arc[:, ::-1] * (-1, 1), -arc, arc[:, ::-1] * (1, -1)]
    return np.concatenate([turns[k] + (x, y) for x, y, k in corners])


class Canvas:
    """RGB plus region map (`pixels`), and ink contours (`ink`) where the style wants them; later shapes hide both."""

    def __init__(self, size: int, light: float, contours: bool, shading: float = 1.0):
        self.side = size * SUPERSAMPLING
        self.pixels = np.zeros((self.side, self.side, 4), np.uint8)
        self.ink = np.zeros((self.side, self.side), np.uint8) if contours else None
        self.light, self.shading = light, shading
        self.region, self.ink_strength = BACKGROUND, 0.6

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        return np.round((points * self.side - 0.5) * (1 << SHIFT)).astype(np.int32)

    def rows(self, y0: float, y1: float, top, bottom) -> None:
        """Fill the full-width band y0..y1 with a vertical gradient."""
        first, last = max(0, round(y0 * self.side)), min(self.side, round(y1 * self.side))
        if last <= first:
            return
        t = np.linspace(0, 1, last - first)[:, None]
        colours = np.concatenate([np.array(top) + t * (np.array(bottom) - np.array(top)), 0 * t], axis=1)
        self.pixels[first:last] = colours.round().astype(np.uint8)[:, None]
        if self.ink is not None:
            self.ink[first:last] = 0
            if y0 > 0.01:
                self._outline(np.array([(-0.1, y0), (1.1, y0)]), 0.016, 1.0)

    def fill(self, points, colour, *, to=None, shade=0.0, alpha=1.0, outline=1.0, solid=0.0) -> None:
        """Fill a polygon; `to`: colour at its lower end; `shade`: strength of the light's gradient;
        `outline`: strength of the ink contour (0 none); `solid`: ink inside."""
        fixed = self._fixed(np.asarray(points))
        shade *= self.shading
        if to is None and shade == 0 and alpha >= 1:
            cv2.fillPoly(self.pixels, [fixed], (*colour, self.region), cv2.LINE_AA, SHIFT)
        else:
            self._gradient(fixed, np.array((*colour, self.region), np.float32), to, shade, alpha)
        if self.ink is not None:
            if alpha > 0.5:
                cv2.fillPoly(self.ink, [fixed], 255 * solid, cv2.LINE_AA, SHIFT)
            if outline:
                self._outline(points, 0.0125, outline, closed=True)

    def _gradient(self, fixed, colour, to, shade, alpha) -> None:
        low = np.clip((fixed.min(0) >> SHIFT) - 1, 0, self.side)
        high = np.clip((fixed.max(0) >> SHIFT) + 3, 0, self.side)
        if (high <= low).any():
            return
        (x0, y0), (x1, y1) = low, high
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [fixed - (low << SHIFT)], 255 * alpha, cv2.LINE_AA, SHIFT)
        across, down = (
            np.linspace(0, 1, x1 - x0, dtype=np.float32),
            np.linspace(0, 1, y1 - y0, dtype=np.float32),
        )
        start, end = colour, colour
        if to is not None:
            end = np.array((*to, colour[3]), np.float32)
            ramp = np.broadcast_to(down[:, None], mask.shape)
        else:
            scale = np.array([1, 1, 1, 0], np.float32)
            start, end = colour + scale * colour * 0.5 * shade, colour - scale * colour * shade
            side = self.light
            sideways = (across if side > 0 else 1 - across) * abs(side)
            ramp = (sideways[None, :] + down[:, None] * (1 - 0.5 * abs(side))) / (1 + 0.5 * abs(side))
        view = self.pixels[y0:y1, x0:x1]
        weight = cv2.merge([mask.astype(np.float32) * (1 / 255)] * 4)
        target = np.clip(start + ramp[..., None] * (end - start), 0, 255)
        view[:] = np.rint(view + (target - view) * weight).astype(np.uint8)

    def line(self, points, width: float, colour, *, ink: float = 1.0) -> None:
        """Draw an open line of a width (fraction of the side) with round ends."""
        thickness = max(1, round(width * self.side))
        cv2.polylines(self.pixels, [self._fixed(points)], False, (*colour, self.region), thickness, cv2.LINE_AA, SHIFT)
        if self.ink is not None:
            self._outline(points, width, ink)

    def _outline(self, points, width: float, strength: float, closed: bool = False) -> None:
        value = 255 * min(1.0, strength * self.ink_strength)
        thickness = max(1, round(width * self.side))
        cv2.polylines(self.ink, [self._fixed(points)], closed, value, thickness, cv2.LINE_AA, SHIFT)

    def blur_pixels(self, radius: float) -> None:
        """Blur what was drawn so far by a Gaussian of `radius` (fraction of the side)."""
        cv2.GaussianBlur(self.pixels, (0, 0), radius * self.side, dst=self.pixels)
