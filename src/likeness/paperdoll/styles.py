"""The eight styles: each turns the drawn layers (colour, regions, ink) into a finished picture.

A style marks itself by palette, contour and large smooth structure; none adds noise, all keep the face readable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np


@dataclass
class Layers:
    """What a style works on; arrays are (size, size[, 3]) float32 in [0, 1]."""

    rgb: np.ndarray
    figure: np.ndarray
    face: np.ndarray
    ink: np.ndarray | None
    head: tuple[float, float, float]  # x, y, size as fractions of the side
    u: np.ndarray  # the background's random numbers

    @property
    def size(self) -> int:
        return len(self.rgb)

    def blurred(self, image: np.ndarray, radius: float) -> np.ndarray:
        """Blur by a Gaussian whose radius is a fraction of the side."""
        return cv2.GaussianBlur(image, (0, 0), radius * self.size, borderType=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel centres x (1, size) and y (size, 1) as fractions of the side."""
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return axis[None, :], axis[:, None]


@lru_cache(maxsize=8)
def vignette(size: int) -> np.ndarray:
    """Return squared distance from the centre, 0 there and 1 in the corners, as (size, size, 1)."""
    x, y = grid(size)
    return (2 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))[..., None]


def grey(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def saturate(rgb: np.ndarray, amount: float) -> np.ndarray:
    g = grey(rgb)[..., None]
    return g + (rgb - g) * amount


def photo(layers: Layers) -> np.ndarray:
    """Soft shading before a slightly blurred background (both drawn so) and a light vignette."""
    return layers.rgb * (1.02 - 0.22 * vignette(layers.size))


def painting(layers: Layers) -> np.ndarray:
    """A saturated, banded palette under warm varnish, in a gilt frame."""
    levels = 6.0
    rich = np.clip(saturate(layers.rgb, 1.3), 0, 1) * levels
    step = np.floor(rich)
    t = rich - step
    banded = (step + t * t * t * (t * (6 * t - 15) + 10)) / levels
    out = banded * np.array([1.0, 0.95, 0.8], np.float32) + np.array([0.03, 0.015, 0.0], np.float32)
    return _frame(out * (1 - 0.12 * vignette(layers.size)))


def _frame(rgb: np.ndarray) -> np.ndarray:
    x, y = grid(len(rgb))
    edge = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))[..., None]
    px = 1 / len(rgb)
    gilt = np.array([0.78, 0.58, 0.22], np.float32) * (0.72 + 0.5 * np.sin(np.clip(edge / 0.042, 0, 1) * np.pi))
    inside = np.clip((edge - 0.042) / px + 0.5, 0, 1)
    shadow = 1 - 0.55 * np.exp(-np.clip(edge - 0.042, 0, 1) / 0.012)
    return gilt * (1 - inside) + rgb * shadow * inside


def drawing(layers: Layers) -> np.ndarray:
    """Ink contours over pale washes on paper."""
    paper = np.array([0.985, 0.968, 0.925], np.float32)
    wash = paper * (0.4 + 0.6 * saturate(layers.rgb, 1.0))
    wash = wash + (paper - wash) * (0.5 - 0.3 * layers.figure - 0.2 * layers.face)[..., None]
    ink = np.array([0.13, 0.12, 0.2], np.float32)
    strength = (layers.ink * (0.62 + 0.38 * layers.figure))[..., None]
    return wash + (ink - wash) * strength


def van_gogh(layers: Layers) -> np.ndarray:
    """Blue shadows and yellow lights in wide strokes that circle the head and run along the shapes."""
    g = grey(layers.rgb)[..., None]
    deep, high = np.array([0.05, 0.13, 0.42], np.float32), np.array([1.0, 0.9, 0.42], np.float32)
    tone = deep + (high - deep) * g
    base = saturate(layers.rgb, 1.35) * 0.55 + tone * 0.45
    x, y = grid(layers.size)
    hx, hy, _ = layers.head
    dx, dy = x - hx, (y - hy) * 0.85
    halo = np.sqrt(dx * dx + dy * dy)
    turn = 6.28 * layers.u[12]
    swirl = 0.09 * np.sin(6.5 * x + 3 * y + turn) + 0.07 * np.sin(7 * y - 4 * x + 2 * turn) + 0.25 * (x - 0.5)
    strokes = np.sin((0.8 * halo + swirl) * (2 * np.pi / 0.085))
    body = np.sin((dx * 0.9 + 0.25 * np.abs(dx) + 0.12 * y) * (2 * np.pi / 0.085))
    figure, face = layers.figure, layers.face
    waves = strokes * (1 - figure) * 0.11 + body * (figure * (1 - face)) * 0.06 + strokes * face * 0.022
    out = base * (1 + waves[..., None]) + waves[..., None] * np.array([0.2, 0.2, -0.1], np.float32)
    contour = np.array([0.06, 0.1, 0.3], np.float32)
    return out + (contour - out) * (0.8 * layers.ink)[..., None]


def charcoal(layers: Layers) -> np.ndarray:
    """Smudged greys and soft dark contours on pale paper."""
    g = grey(layers.rgb)
    smudged = layers.blurred(g, 0.012)
    tone = (0.35 * g + 0.65 * smudged) * layers.face + smudged * (1 - layers.face)
    tone = 0.2 + 0.78 * np.clip(tone, 0, 1) ** 0.8
    tone = tone + (0.9 - tone) * 0.34 * (1 - layers.figure)
    line = 0.55 * layers.ink + 0.35 * layers.blurred(layers.ink, 0.01)
    tone = tone * (1 - np.clip(line, 0, 0.92))
    fade = np.clip(vignette(layers.size)[..., 0] * 1.25 - 0.55, 0, 1)
    tone = tone + (0.93 - tone) * fade * (1 - 0.5 * layers.figure)
    return tone[..., None] * np.array([1.0, 0.99, 0.97], np.float32)


def watercolor(layers: Layers) -> np.ndarray:
    """Light washes with darker rims that leave a white margin of paper."""
    paper = np.array([0.99, 0.985, 0.97], np.float32)
    soft = 0.5 * layers.rgb + 0.5 * layers.blurred(layers.rgb, 0.008)
    wash = 1 - (1 - np.clip(saturate(soft, 1.25), 0, 1)) * 0.72
    x, y = grid(layers.size)
    pool = 0.05 * np.sin(7 * x + 4 * y + 1.0) * np.sin(6 * y - 3 * x)
    wash = wash + pool[..., None]
    rim = (0.45 * layers.ink + 0.5 * layers.blurred(layers.ink, 0.012))[..., None]
    wash = wash * (1 - np.clip(rim, 0, 1) * (0.3 + 0.7 * (1 - wash)))
    edge = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    edge = edge + 0.014 * np.sin(17 * x + 2) * np.sin(15 * y + 1) - 0.05
    shown = np.clip(edge / 0.022 + 0.5, 0, 1)[..., None]
    shown = shown * shown * (3 - 2 * shown)
    wash = wash * (1 - 0.16 * np.exp(-(((edge - 0.016) / 0.012) ** 2)))[..., None]
    return paper + (wash - paper) * shown


def impressionism(layers: Layers) -> np.ndarray:
    """Bright pastels in soft slanting dabs; edges waver and shadows turn violet."""
    size = layers.size
    x, y = grid(size)
    slant, across = (x + 0.7 * y), (0.7 * x - y)
    wave = np.sin(slant * (2 * np.pi / 0.11)) * np.sin(across * (2 * np.pi / 0.21))
    reach = 0.011 * (1 - 0.75 * layers.face)
    soft = layers.blurred(layers.rgb, 0.011)
    soft = soft * (1 - 0.6 * layers.face[..., None]) + layers.rgb * (0.6 * layers.face[..., None])
    column, row = np.broadcast_to(x, wave.shape), np.broadcast_to(y, wave.shape)
    moved = cv2.remap(
        soft, ((column + reach * wave) * size - 0.5).astype(np.float32),
        ((row + reach * np.roll(wave, size // 16, 1)) * size - 0.5).astype(np.float32),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    g = grey(moved)[..., None]
    violet = np.array([0.56, 0.46, 0.74], np.float32)
    pastel = saturate(moved, 1.2) * 0.72 + 0.26 + (violet - 0.62) * (1 - g) * 0.45
    light = (wave * (0.075 - 0.06 * layers.face))[..., None]
    return pastel + light * np.array([1.0, 0.9, 0.6], np.float32)


def neo_classical(layers: Layers) -> np.ndarray:
    """Sepia and strong light on the figure before a dark brown background."""
    g = grey(layers.rgb)[..., None]
    sepia = g * np.array([1.08, 0.86, 0.6], np.float32)
    warm = 0.5 * sepia + 0.5 * layers.rgb * np.array([1.0, 0.86, 0.68], np.float32)
    x, y = grid(layers.size)
    hx, hy, hs = layers.head
    spot = np.exp(-(((x - hx + 0.06) ** 2 + (y - hy) ** 2) / (2 * (0.6 * hs + 0.08) ** 2)))[..., None]
    figure = layers.figure[..., None]
    lit = warm * (figure * (0.5 + 0.62 * spot) + (1 - figure) * (0.42 + 0.22 * spot))
    dim = 1 - np.clip(vignette(layers.size) * 1.05 - 0.12, 0, 0.7)
    return lit * dim + np.array([0.075, 0.045, 0.025], np.float32)


FINISH = {
    "photo": photo, "painting": painting, "drawing": drawing, "van gogh painting": van_gogh,
    "charcoal painting": charcoal, "watercolor painting": watercolor, "impressionism painting": impressionism,
    "neo classical painting": neo_classical,
}  # fmt: skip
CONTOURS = ("drawing", "van gogh painting", "charcoal painting", "watercolor painting")
SHADING = {
    "drawing": 0.25,
    "watercolor painting": 0.6,
    "painting": 1.0,
    "neo classical painting": 1.25,
    "charcoal painting": 1.3,
}
