"""The drawn world: portraits rendered from factors that are known exactly. It knows no captions and no models."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from likeness.errors import InputError
from likeness.paperdoll import draw, draw_body, draw_head, props, scenes, styles
from likeness.paperdoll.identity import (
    CLASSES,
    IDENTITY_DIM,
    SUBJECTS,
    TRAITS,
    Identity,
    palette,
    sample_identity,
)

__all__ = [
    "CATEGORICAL", "CLASSES", "CONTINUOUS", "FOODS", "IDENTITY_DIM", "SCENES", "STYLES", "SUBJECTS", "TRAITS",
    "Factors", "Identity", "render", "sample_factors", "sample_identity",
]  # fmt: skip

STYLES = ("photo", "painting", "drawing", "van gogh painting", "charcoal painting", "watercolor painting",
          "impressionism painting", "neo classical painting")  # fmt: skip
SCENES = ("plain", "beach", "forest", "jungle", "snowy mountain", "river", "desert", "city street", "blossom tree",
          "mirror")  # fmt: skip
FOODS = ("none", "burger", "cake", "lasagne", "pizza", "apple")
CATEGORICAL: dict[str, tuple[str, ...]] = {
    "style": STYLES, "scene": SCENES, "food": FOODS, "sunglasses": ("no", "yes"), "hat": ("no", "yes"),
}  # fmt: skip
CONTINUOUS: dict[str, tuple[str, float, float]] = {
    "head_x": ("picture sides", 0.38, 0.62),
    "head_y": ("picture sides", 0.35, 0.43),
    "head_size": ("picture sides", 0.36, 0.46),
    "turn": ("degrees", -30.0, 30.0),
    "tilt": ("degrees", -15.0, 15.0),
    "gaze": ("eye widths", -1.0, 1.0),
    "blossom": ("share of the crown", 0.0, 1.0),
}
BACKGROUNDS = 2**31


@dataclass(frozen=True)
class Factors:
    """Everything a picture shows. `who` is a class word or a subject; `light` in [-1, 1] is where it falls from
    (left to right); `background` seeds the scene's layout; `blossom` is 0 outside its scene."""

    style: str = "photo"
    scene: str = "plain"
    food: str = "none"
    sunglasses: bool = False
    hat: bool = False
    identity: Identity = field(default_factory=Identity)
    who: str = "person"
    head_x: float = 0.5
    head_y: float = 0.39
    head_size: float = 0.41
    turn: float = 0.0
    tilt: float = 0.0
    gaze: float = 0.0
    blossom: float = 0.0
    light: float = 0.5
    background: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("style", STYLES), ("scene", SCENES), ("food", FOODS)):
            if getattr(self, name) not in choices:
                raise InputError(f"unknown {name} {getattr(self, name)!r}: choose one of {', '.join(choices)}.")

    def labels(self) -> dict[str, int | float]:
        """Return every categorical factor as its index and every continuous one as a float in world units."""
        labels: dict[str, int | float] = {}
        for name, choices in CATEGORICAL.items():
            value = getattr(self, name)
            labels[name] = int(value) if isinstance(value, bool) else choices.index(value)
        return labels | {name: float(getattr(self, name)) for name in CONTINUOUS}


def sample_factors(rng: np.random.Generator, **fixed: object) -> Factors:
    """Draw from the pretraining distribution; any field of Factors can be fixed by name."""
    unknown = set(fixed) - set(Factors.__dataclass_fields__)
    if unknown:
        raise InputError(f"unknown factors {sorted(unknown)}: choose among {list(Factors.__dataclass_fields__)}.")
    scene = SCENES[rng.integers(len(SCENES))]
    food = FOODS[1 + rng.integers(len(FOODS) - 1)] if rng.random() < 0.45 else "none"
    drawn: dict[str, object] = {
        "style": STYLES[rng.integers(len(STYLES))],
        "sunglasses": bool(rng.random() < 0.4),
        "hat": bool(rng.random() < 0.25),
        "light": float(rng.uniform(-1, 1)),
        "background": int(rng.integers(BACKGROUNDS)),
    }
    drawn |= {name: float(rng.uniform(low, high)) for name, (_, low, high) in CONTINUOUS.items()}
    if fixed.get("food", "none") != "none" and "scene" not in fixed and scene == "mirror":
        scene = SCENES[rng.integers(len(SCENES) - 1)]
    drawn["scene"] = fixed.get("scene", scene)
    drawn["food"] = "none" if drawn["scene"] == "mirror" else food
    if drawn["scene"] != "blossom tree":
        drawn["blossom"] = 0.0
    who = str(fixed.get("who", CLASSES[rng.integers(len(CLASSES))]))
    if "identity" not in fixed:
        drawn["identity"] = SUBJECTS[who] if who in SUBJECTS else sample_identity(who, rng)
    return Factors(**(drawn | {"who": who} | fixed))


def render(factors: Factors, size: int = 128) -> np.ndarray:
    """Draw a picture, uint8 (size, size, 3); the same factors give the same bytes."""
    contours = factors.style in styles.CONTOURS
    canvas = draw.Canvas(size, factors.light, contours, styles.SHADING.get(factors.style, 1.0))
    u = np.random.default_rng(factors.background).random(16)
    scenes.DRAW[factors.scene](canvas, u, factors.blossom)
    if factors.style == "photo":
        canvas.blur_pixels(0.007)
    canvas.ink_strength = 1.0
    _person(canvas, factors, u)
    pixels = cv2.resize(canvas.pixels, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    ink = None
    if contours:
        ink = cv2.resize(canvas.ink, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    layers = styles.Layers(
        rgb=np.ascontiguousarray(pixels[..., :3]),
        figure=np.clip(pixels[..., 3] * 2, 0, 1),
        face=np.clip(pixels[..., 3] * 2 - 1, 0, 1),
        ink=ink,
        head=(factors.head_x, factors.head_y, factors.head_size),
        u=u,
    )
    finished = styles.FINISH[factors.style](layers)
    return (np.clip(finished, 0, 1) * 255 + 0.5).astype(np.uint8)


def _person(canvas: draw.Canvas, factors: Factors, u: np.ndarray) -> None:
    head, colours = draw_head.Head(factors), palette(factors.identity)
    canvas.region = draw.FIGURE
    draw_head.back_hair(canvas, head, colours)
    draw_body.body(canvas, head, colours)
    draw_head.face(canvas, head, colours)
    canvas.region = draw.FIGURE
    draw_head.front_hair(canvas, head, colours)
    if factors.sunglasses:
        props.sunglasses(canvas, head)
    if factors.hat:
        props.hat(canvas, head)
    if factors.scene == "mirror":
        props.phone(canvas, head, -1 if u[15] < 0.5 else 1, colours)
    if factors.food != "none":
        props.food(canvas, head, factors.food, colours)
    if factors.scene == "river":
        canvas.region = draw.BACKGROUND
        scenes.water(canvas, u)
