"""Who a paper doll is: a continuous identity, the named classes as distributions over it, and two subjects.

The subjects `bnh` and `tuki` lie outside everything `sample_identity` returns (it rejects identities near them).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import cv2
import numpy as np

from likeness.errors import InputError

CLASSES = ("keanu reeves", "justin bieber", "man", "woman", "person")


@dataclass(frozen=True)
class Identity:
    """A person's permanent looks; every trait lies in [-1, 1], and -1 of a mark means that it is absent."""

    face_width: float = 0.0
    face_length: float = 0.0
    jaw: float = 0.0
    hair_length: float = -0.4
    hair_volume: float = 0.0
    fringe: float = 0.0
    sweep: float = 0.0
    hair_tone: float = -0.5
    hair_red: float = -1.0
    streak: float = -1.0
    skin: float = 0.4
    eye_size: float = 0.0
    eye_spacing: float = 0.0
    eye_colour: float = -0.5
    brow_thickness: float = 0.0
    brow_angle: float = 0.0
    nose: float = 0.0
    mouth_width: float = 0.0
    lips: float = 0.0
    beard: float = -1.0
    freckles: float = -1.0
    scar: float = -1.0
    cloth_a: float = 0.0
    cloth_b: float = 0.0
    cloth_light: float = 0.0
    cloth_kind: float = 0.0

    def vector(self) -> np.ndarray:
        """Return the traits as float32 (IDENTITY_DIM,) in [-1, 1]."""
        return np.array(astuple(self), np.float32)

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> Identity:
        """Build an identity from IDENTITY_DIM numbers, clipped to [-1, 1]."""
        values = np.clip(np.asarray(vector, np.float64).reshape(-1), -1, 1)
        if len(values) != IDENTITY_DIM:
            raise InputError(f"an identity has {IDENTITY_DIM} traits, got {len(values)}.")
        return cls(*(float(v) for v in values))

    def distance(self, other: Identity) -> float:
        """Return the root mean square difference of the traits, in [0, 2]."""
        return float(np.sqrt(np.mean((self.vector() - other.vector()) ** 2)))


TRAITS = tuple(field.name for field in fields(Identity))
IDENTITY_DIM = len(TRAITS)

SUBJECTS: dict[str, Identity] = {
    "bnh": Identity(
        face_width=-0.7, face_length=1.0, jaw=0.2, hair_length=0.5, hair_volume=-0.1, fringe=-0.8, sweep=-0.2,
        hair_tone=-0.95, hair_red=-1.0, streak=1.0, skin=0.15, eye_size=-0.4, eye_spacing=0.0, eye_colour=-0.9,
        brow_thickness=0.5, brow_angle=-0.1, nose=0.6, mouth_width=0.0, lips=-0.4, beard=0.35, freckles=-1.0,
        scar=1.0, cloth_a=-0.8, cloth_b=-0.05, cloth_light=-0.1, cloth_kind=0.9,
    ),
    "tuki": Identity(
        face_width=0.5, face_length=-0.5, jaw=-0.5, hair_length=-0.3, hair_volume=0.6, fringe=0.85, sweep=0.9,
        hair_tone=0.2, hair_red=1.0, streak=-1.0, skin=0.9, eye_size=0.7, eye_spacing=0.2, eye_colour=0.1,
        brow_thickness=-0.1, brow_angle=0.3, nose=-0.5, mouth_width=0.3, lips=0.0, beard=-1.0, freckles=1.0,
        scar=-1.0, cloth_a=0.75, cloth_b=-0.8, cloth_light=-0.1, cloth_kind=-0.8,
    ),
}  # fmt: skip
MARGIN = 0.5  # no sampled identity comes nearer to a subject than this (root mean square)

# trait -> uniform range; what a class does not name comes from BROAD.
BROAD: dict[str, tuple[float, float]] = {name: (-0.9, 0.9) for name in TRAITS} | {
    "hair_tone": (-1, 1), "hair_red": (-1, -0.3), "streak": (-1, -1), "freckles": (-1, -1), "scar": (-1, -1),
    "face_length": (-0.7, 0.6), "skin": (-1, 1), "cloth_a": (-1, 1), "cloth_b": (-1, 1), "cloth_kind": (-1, 1),
    "eye_colour": (-1, 1),
}  # fmt: skip
RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "keanu reeves": {
        "face_width": (-0.6, 0.1), "face_length": (0.0, 0.6), "jaw": (-0.1, 0.5), "hair_length": (0.3, 0.65),
        "hair_volume": (-0.5, 0.2), "fringe": (-1, -0.5), "sweep": (-0.3, 0.3), "hair_tone": (-1, -0.7),
        "hair_red": (-1, -0.9), "skin": (0.0, 0.5), "eye_size": (-0.6, 0.0), "eye_colour": (-1, -0.7),
        "brow_thickness": (0.2, 0.8), "brow_angle": (-0.3, 0.2), "nose": (0.1, 0.6), "lips": (-0.7, -0.1),
        "beard": (0.1, 0.6), "cloth_a": (-0.12, 0.12), "cloth_b": (-0.2, 0.1), "cloth_light": (-1, -0.65),
        "cloth_kind": (0.5, 1),
    },
    "justin bieber": {
        "face_width": (-0.1, 0.6), "face_length": (-0.6, 0.0), "jaw": (-0.6, 0.1), "hair_length": (-0.45, -0.1),
        "hair_volume": (0.2, 0.8), "fringe": (0.65, 1), "sweep": (0.6, 1), "hair_tone": (0.15, 0.5),
        "hair_red": (-1, -0.75), "skin": (0.6, 1), "eye_size": (0.3, 0.9), "eye_colour": (-0.8, -0.1),
        "brow_thickness": (-0.1, 0.5), "nose": (-0.7, 0.0), "lips": (-0.3, 0.3), "beard": (-1, -1),
        "cloth_light": (-0.2, 0.6), "cloth_kind": (-1, -0.5),
    },
    "man": {
        "face_width": (-0.2, 0.8), "jaw": (0.1, 1), "hair_length": (-1, -0.6), "hair_volume": (-0.9, 0.2),
        "fringe": (-1, -0.1), "brow_thickness": (-0.1, 0.9), "nose": (-0.3, 0.9), "lips": (-0.9, 0.0),
        "beard": (-1, 0.8), "cloth_light": (-0.6, 0.9),
    },
    "woman": {
        "face_width": (-0.7, 0.3), "jaw": (-1, -0.3), "hair_length": (0.45, 1), "hair_volume": (0.0, 0.9),
        "eye_size": (0.0, 0.9), "brow_thickness": (-1, -0.3), "nose": (-0.9, 0.1), "lips": (0.4, 1),
        "beard": (-1, -1), "cloth_light": (-0.4, 0.9),
    },
    "person": {},
}  # fmt: skip
# Share of men, women and persons with a mark, of any strength; named people have none. Stable Diffusion knows such
# marks; an autoencoder that never saw one cannot draw it, whoever is fine-tuned (measured).
MARKED = {"freckles": 0.3, "scar": 0.25, "streak": 0.25}
MARK, RED, RED_HAIRED = (-0.6, 1.0), (-0.3, 1.0), 0.15


def sample_identity(who: str, rng: np.random.Generator) -> Identity:
    """Draw an identity of a class; never one within MARGIN of a subject."""
    if who not in RANGES:
        raise InputError(f"unknown class word {who!r}: choose one of {', '.join(CLASSES)}.")
    while True:
        identity = _draw(who, rng)
        if all(identity.distance(subject) >= MARGIN for subject in SUBJECTS.values()):
            return identity


def _draw(who: str, rng: np.random.Generator) -> Identity:
    ranges = BROAD | RANGES[who]
    low, high = np.array([ranges[name] for name in TRAITS]).T
    traits = dict(zip(TRAITS, rng.uniform(low, high), strict=True))
    if who in ("man", "woman", "person"):
        for mark, share in MARKED.items():
            if rng.random() < share:
                traits[mark] = rng.uniform(*MARK)
        if rng.random() < RED_HAIRED:
            traits["hair_red"] = rng.uniform(*RED)
    if who == "person" and rng.random() < 0.6:
        traits["beard"] = -1.0
    if who == "justin bieber":  # colourful clothing: any hue, but never grey
        angle, chroma = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.0)
        traits["cloth_a"], traits["cloth_b"] = chroma * np.cos(angle), chroma * np.sin(angle)
    return Identity(**{name: float(value) for name, value in traits.items()})


Colour = tuple[float, float, float]


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """Return the colour `amount` of the way from first to second (RGB, 0 to 255)."""
    return tuple(a + (b - a) * amount for a, b in zip(first, second, strict=True))


def along(stops: list[tuple[float, Colour]], position: float) -> Colour:
    """Return the colour at a position of a piecewise linear colour curve."""
    places = [place for place, _ in stops]
    return tuple(float(np.interp(position, places, [c[i] for _, c in stops])) for i in range(3))


HAIR = [
    (-1.0, (28, 24, 28)),
    (-0.5, (66, 44, 32)),
    (0.0, (122, 80, 48)),
    (0.5, (196, 150, 84)),
    (1.0, (240, 212, 140)),
]
SKIN = [(-1.0, (104, 66, 46)), (-0.4, (156, 106, 74)), (0.2, (216, 166, 128)), (1.0, (252, 220, 196))]
EYES = [(-1.0, (74, 44, 26)), (0.0, (72, 132, 84)), (1.0, (64, 132, 204))]


@dataclass(frozen=True)
class Palette:
    """The colours of an identity (RGB, 0 to 255)."""

    hair: Colour
    streak: Colour
    skin: Colour
    eye: Colour
    lip: Colour
    cloth: Colour
    shirt: Colour


def palette(who: Identity) -> Palette:
    """Return the colours an identity is drawn with."""
    hair = mix(along(HAIR, who.hair_tone), (204, 78, 26), (who.hair_red + 1) / 2)
    skin = along(SKIN, who.skin)
    lab = np.array([[[54 + 26 * who.cloth_light, 62 * who.cloth_a, 62 * who.cloth_b]]], np.float32)
    cloth = tuple(float(v) * 255 for v in np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)[0, 0], 0, 1))
    fullness = (who.lips + 1) / 2
    return Palette(
        hair=hair,
        streak=mix(hair, (236, 236, 240), (who.streak + 1) / 2),
        skin=skin,
        eye=along(EYES, who.eye_colour),
        lip=mix(mix(skin, (150, 60, 60), 0.45), (200, 44, 66), 0.75 * fullness),
        cloth=cloth,
        shirt=mix(mix(cloth, (255, 255, 255), 0.25), (244, 240, 232), (who.cloth_kind + 1) / 2),
    )
