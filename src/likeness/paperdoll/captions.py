"""The language of the drawn world: captions of pictures, and what a prompt asks for.

Everything drawn beside the person is named; of the person, what would strike anyone (marks, red hair) often is. Pose,
light and other looks are not. Reading is by phrase tables, no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from likeness.paperdoll.world import CATEGORICAL, CLASSES, FOODS, SCENES, STYLES, Factors, sample_factors

STYLE_PHRASES: dict[str, tuple[str, ...]] = {style: (style,) for style in STYLES} | {
    "photo": ("photo", "photograph"),
    "van gogh painting": ("van gogh painting", "painting by van gogh"),
    "charcoal painting": ("charcoal painting", "charcoal sketch"),
    "watercolor painting": ("watercolor painting", "watercolor"),
    "impressionism painting": ("impressionism painting", "impressionist painting"),
    "neo classical painting": ("neo classical painting", "neoclassical painting"),
}
SCENE_PHRASES: dict[str, tuple[str, ...]] = {
    "plain": ("",),
    "beach": ("on a beach", "on the beach", "at the beach"),
    "forest": ("in a forest", "in the forest"),
    "jungle": ("in the jungle", "in a jungle"),
    "snowy mountain": ("on a snowy mountain", "on the snowy mountain", "on a snow mountain"),
    "river": ("in a river", "in the river"),
    "desert": ("in the desert", "in a desert"),
    "city street": ("on a city street", "on the city street", "on a street"),
    "blossom tree": ("under a blossom tree", "under the blossom tree"),
    "mirror": ("taking a selfie in front of a mirror", "in front of a mirror", "taking a selfie"),
}
SUNGLASSES = ("a pair of sunglasses", "a sunglasses", "sunglasses")
HATS = ("a hat", "a hat", "the hat")
EATING = ("eating", "eating", "holding")
# A trait of the person that shows, and the word before the person for it. Words for looks that hold in every style are
# what an identifier can come to mean; without them a fine-tuned face stays in its photos' style (measured).
STRIKING = {"freckles": "freckled", "scar": "scarred", "streak": "streaked", "hair_red": "ginger"}
SAID = 0.6  # how often a caption says what is striking
# Any one of these words in a prompt asks for the factor.
SCENE_WORDS = {
    "beach": "beach", "forest": "forest", "jungle": "jungle", "mountain": "snowy mountain", "river": "river",
    "desert": "desert", "street": "city street", "tree": "blossom tree", "mirror": "mirror", "selfie": "mirror",
}  # fmt: skip
STYLE_WORDS = {
    "gogh": "van gogh painting", "charcoal": "charcoal painting", "watercolor": "watercolor painting",
    "impressionism": "impressionism painting", "impressionist": "impressionism painting",
    "classical": "neo classical painting", "neoclassical": "neo classical painting",
    "photo": "photo", "photograph": "photo", "drawing": "drawing", "painting": "painting",
}  # fmt: skip
GLUE = [
    "a",
    "an",
    "the",
    "of",
    "by",
    "in",
    "on",
    "at",
    "under",
    "with",
    "and",
    "wearing",
    "eating",
    "holding",
    "taking",
    "front",
    "pair",
    "bare",
    "full",
]
BARE, FULL = 0.2, 0.7  # blossom amounts below and above which captions may say so


def _words(prompt: str) -> list[str]:
    return re.findall(r"[a-z]+", prompt.lower())


VOCABULARY = frozenset(
    word
    for phrases in (
        *STYLE_PHRASES.values(),
        *SCENE_PHRASES.values(),
        SUNGLASSES,
        HATS,
        FOODS[1:],
        CLASSES,
        tuple(STRIKING.values()),
        GLUE,
    )
    for phrase in phrases
    for word in _words(phrase)
)


def caption(factors: Factors, rng: np.random.Generator, *, nonsense: float = 0.0) -> str:
    """Describe a picture in one of many phrasings, the study's verbatim forms among them.

    With probability `nonsense` a meaningless word stands before the person, as DreamBooth's identifier does.
    """
    person = " ".join([*_striking(factors, rng), factors.who])
    if rng.random() < nonsense:
        person = f"{nonsense_word(rng)} {person}"
    article = _pick(("a ", "a ", "", ""), rng) if factors.who in CLASSES[:2] else _pick(("a ", "a ", "the ", ""), rng)
    style = _pick(STYLE_PHRASES[factors.style], rng)
    start = f"{_pick(('', '', article_of(style)), rng)}{style} of {article}{person}"
    if factors.style == "photo" and rng.random() < 0.2:
        start = f"{article}{person}"
    return " ".join([start, *_attributes(factors, rng)])


def _striking(factors: Factors, rng: np.random.Generator) -> list[str]:
    traits = factors.identity
    found = [word for trait, word in STRIKING.items() if getattr(traits, trait) > 0 and rng.random() < SAID]
    return [found[i] for i in rng.permutation(len(found))]


def _attributes(factors: Factors, rng: np.random.Generator) -> list[str]:
    glasses, hat = _pick(SUNGLASSES, rng), _pick(HATS, rng)
    worn = [name for name, there in ((glasses, factors.sunglasses), (hat, factors.hat)) if there]
    if rng.random() < 0.3:
        worn.reverse()
    parts = []
    if worn:
        parts.append(f"{_pick(('wearing', 'wearing', 'wearing', 'with'), rng)} {' and '.join(worn)}")
    if factors.food != "none":
        parts.append(f"{_pick(EATING, rng)} {article_of(factors.food)}{factors.food}")
    if rng.random() < 0.25:
        parts.reverse()
    scene = _scene(factors, rng)
    if (parts and scene.startswith("taking")) or (len(parts) > 1 and rng.random() < 0.4):
        joined = [*parts, scene] if scene.startswith("taking") else parts
        return [
            *joined[:-1],
            "and",
            joined[-1],
            *([] if scene.startswith("taking") or not scene else [scene]),
        ]
    return [*parts, scene] if scene else parts


def _scene(factors: Factors, rng: np.random.Generator) -> str:
    if factors.scene != "blossom tree":
        return _pick(SCENE_PHRASES[factors.scene], rng)
    article = _pick(("a", "a", "the"), rng)
    if factors.blossom < BARE:
        return f"under {article} {_pick(('', 'bare '), rng)}tree"
    if factors.blossom > FULL:  # said twice, as people stress a word; it teaches what more of a word means
        return f"under {article} {_pick(('', '', 'full ', 'blossom '), rng)}blossom tree"
    return f"under {article} blossom tree"


def nonsense_word(rng: np.random.Generator) -> str:
    """Return 3 to 5 letters that are no word of the grammar and no subject's identifier."""
    while True:
        letters = [_pick("bcdfghjklmnpqrstvwxz" if i % 2 == 0 or rng.random() < 0.35 else "aeiouy", rng)
                   for i in range(int(rng.integers(3, 6)))]  # fmt: skip
        word = "".join(letters)
        if word not in VOCABULARY and word not in ("bnh", "tuki"):
            return word


def article_of(phrase: str) -> str:
    """Return the indefinite article and a space."""
    return "an " if phrase[0] in "aeiou" else "a "


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def asked(prompt: str) -> dict[str, str]:
    """Return the value a prompt asks of every categorical factor, and of `who` ("person" if none is named).

    What is not mentioned is asked to be absent: no food, no hat, plain scene, a photo.
    """
    words = _words(prompt)
    text = " ".join(words)
    return {
        "style": next((style for word, style in STYLE_WORDS.items() if word in words), "photo"),
        "scene": next((scene for word, scene in SCENE_WORDS.items() if word in words), "plain"),
        "food": next((food for food in FOODS[1:] if food in words), "none"),
        "sunglasses": "yes" if "sunglasses" in words else "no",
        "hat": "yes" if "hat" in words else "no",
        "who": next((who for who in CLASSES if f" {who} " in f" {text} "), "person"),
    }


def as_fields(wanted: dict[str, str]) -> dict[str, str | bool]:
    """Return what `asked` found as fields of `world.Factors`, in which what is worn is true or false."""
    return {
        name: value == "yes" if CATEGORICAL.get(name) == ("no", "yes") else value for name, value in wanted.items()
    }


def unknown_words(prompt: str) -> list[str]:
    """Return the words outside the grammar, in order, each once; identifiers such as `bnh` are among them."""
    return [word for word in dict.fromkeys(_words(prompt)) if word not in VOCABULARY]


def prompts(rng: np.random.Generator, n: int) -> list[str]:
    """Return n prompts of the grammar, one per picture sampled from the world."""
    return [caption(sample_factors(rng), rng) for _ in range(n)]


assert set(SCENE_PHRASES) == set(SCENES) and set(STYLE_PHRASES) == set(STYLES) and "food" in CATEGORICAL
