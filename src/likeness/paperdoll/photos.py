"""The twelve photos of each subject: `python -m likeness.paperdoll.photos` redraws them, `--check` compares.

They vary what DreamBooth should not learn (scene, pose, light) and keep what it should (the person). The captions
beside them name the scene and what is worn, so that these are not learnt as part of the person.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from likeness.errors import InputError
from likeness.paperdoll.captions import SCENE_PHRASES
from likeness.paperdoll.world import SUBJECTS, Factors, sample_factors

FOLDER = Path(__file__).parent / "photos"
SIZE = 512
CLASS_WORDS = {"bnh": "keanu reeves", "tuki": "justin bieber"}
SCENES = (
    "plain", "plain", "plain", "plain", "city street", "beach", "forest", "river", "snowy mountain", "desert",
    "jungle", "plain",
)  # fmt: skip
SUNGLASSES, HAT = (5,), (9,)  # which of the twelve wear them
SEED = 12


def photo_factors(subject: str) -> list[Factors]:
    """Return what the photos of a subject show; raises InputError for an unknown one."""
    if subject not in SUBJECTS:
        raise InputError(f"unknown subject {subject!r}: choose one of {', '.join(SUBJECTS)}.")
    rng = np.random.default_rng((SEED, list(SUBJECTS).index(subject)))
    photos = []
    for index, scene in enumerate(SCENES):
        drawn = sample_factors(
            rng, who=CLASS_WORDS[subject], identity=SUBJECTS[subject], style="photo", scene=scene, food="none",
            sunglasses=index in SUNGLASSES, hat=index in HAT,
        )  # fmt: skip
        photos.append(replace(drawn, turn=0.8 * drawn.turn))
    return photos


def draw(factors: Factors) -> Image.Image:
    """Draw one photo at SIZE."""
    from likeness.paperdoll.world import render

    return Image.fromarray(render(factors, SIZE))


def caption(subject: str, factors: Factors) -> str:
    """Say what a photo shows: identifier, class word, what is worn, where."""
    worn = [name for name, there in (("a pair of sunglasses", factors.sunglasses), ("a hat", factors.hat)) if there]
    person = f"{subject} {CLASS_WORDS[subject]}"
    scene = SCENE_PHRASES[factors.scene][0]
    if not worn and not scene:
        return f"photo of {person}"
    return " ".join(["photo of a", person, *(["wearing", " and ".join(worn)] if worn else []), scene]).strip()


def paths(subject: str) -> list[Path]:
    """Return where the photos of a subject are."""
    return [FOLDER / subject / f"{number:02d}.png" for number in range(1, len(SCENES) + 1)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="likeness.paperdoll.photos", description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the files with a fresh drawing")
    check = parser.parse_args(arguments).check
    different = []
    for subject in SUBJECTS:
        for path, factors in zip(paths(subject), photo_factors(subject), strict=True):
            picture = draw(factors)
            if check:
                same = path.is_file() and np.array_equal(np.asarray(Image.open(path)), np.asarray(picture))
                same = same and path.with_suffix(".txt").read_text(encoding="utf-8").strip() == caption(
                    subject, factors
                )
                different += [] if same else [path.name]
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path, optimize=True)
                path.with_suffix(".txt").write_text(caption(subject, factors) + "\n", encoding="utf-8")
    print(f"different: {', '.join(different)}" if different else "all photos are as drawn" if check else FOLDER)
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
