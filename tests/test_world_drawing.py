"""The drawn world: deterministic, frozen, and every factor and trait shows."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from likeness.errors import InputError
from likeness.paperdoll import captions, photos, world

CHANGES = {
    "style": "painting", "scene": "beach", "food": "cake", "sunglasses": True, "hat": True, "head_x": 0.6,
    "head_y": 0.36, "head_size": 0.46, "turn": 25.0, "tilt": 12.0, "gaze": 0.9, "light": -0.9,
}  # fmt: skip


def difference(a, b, size=128):
    return np.abs(world.render(a, size).astype(int) - world.render(b, size)).mean()


def frozen_sample():
    """Return block means (100, 8, 8, 3) of drawn pictures, and their captions."""
    rng, means, texts = np.random.default_rng(5), [], []
    for _ in range(100):
        factors = world.sample_factors(rng)
        means.append(world.render(factors).reshape(8, 16, 8, 16, 3).mean((1, 3)))
        texts.append(captions.caption(factors, rng, nonsense=0.2))
    return np.stack(means), texts


def test_pictures_and_captions_are_those_the_shipped_weights_were_trained_on():
    """A change here means training again: the weights know exactly these pictures and sentences.

    Pictures within one grey level, because OpenCV rounds differently on other processors.
    """
    means, texts = frozen_sample()
    golden = np.load(Path(__file__).parent / "golden" / "world.npz")
    assert np.abs(means - golden["means"].astype(float)).max() < 1
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == str(golden["captions"])


def test_the_same_factors_give_the_same_picture_at_any_size():
    factors = world.sample_factors(np.random.default_rng(1), style="photo", scene="forest", food="burger")
    assert difference(factors, factors) == 0
    large = world.render(factors, 512).reshape(128, 4, 128, 4, 3).mean((1, 3))
    assert np.abs(large - world.render(factors, 128)).mean() < 6


@pytest.mark.parametrize("name", CHANGES)
def test_every_factor_shows(name):
    base = world.Factors(identity=world.SUBJECTS["tuki"], background=3)
    assert difference(base, replace(base, **{name: CHANGES[name]})) > 0.1
    unused = replace(base, blossom=0.9)
    assert difference(base, unused) == 0  # blossom belongs to its scene


@pytest.mark.parametrize("trait", world.TRAITS)
def test_every_trait_of_a_person_shows(trait):
    person = replace(world.Identity(), hair_length=0.2, freckles=0.2, beard=0.2, lips=0.2, cloth_a=0.3, cloth_b=0.3)
    base = world.Factors(identity=person, turn=8)
    other = -0.9 if getattr(person, trait) > 0 else 0.9
    assert difference(base, replace(base, identity=replace(person, **{trait: other}))) > 0.01


def test_styles_differ_and_keep_the_face_readable():
    base = world.Factors(identity=world.SUBJECTS["bnh"], scene="beach", background=1)
    drawn = {style: world.render(replace(base, style=style)).astype(int) for style in world.STYLES}
    for style, picture in drawn.items():
        assert all(np.abs(picture - other).mean() > 8 for name, other in drawn.items() if name != style)
        eyes = picture[44:56, 50:78].mean(-1)
        assert eyes.std() > 12, style  # eyes and brows stand out from the skin


def test_more_blossom_is_more_pink():
    for background in range(6):
        amounts = []
        for blossom in (0, 0.25, 0.5, 0.75, 1):
            picture = world.render(world.Factors(scene="blossom tree", blossom=blossom, background=background))
            red, green, blue = picture.astype(int).transpose(2, 0, 1)
            amounts.append(((red > 190) & (red - green > 40) & (blue > 120)).sum())
        assert amounts == sorted(set(amounts)), amounts


def test_no_sampled_person_comes_near_a_subject():
    from likeness.paperdoll.identity import MARGIN

    rng = np.random.default_rng(0)
    for who in world.CLASSES:
        for _ in range(60):
            person = world.sample_identity(who, rng)
            assert min(person.distance(subject) for subject in world.SUBJECTS.values()) >= MARGIN
            assert world.Identity.from_vector(person.vector()).distance(person) < 1e-6


def test_wrong_factors_list_the_choices():
    with pytest.raises(InputError, match="burger, cake"):
        world.Factors(food="soup")
    with pytest.raises(InputError, match="unknown factors"):
        world.sample_factors(np.random.default_rng(0), weather="rain")
    with pytest.raises(InputError, match="keanu reeves"):
        world.sample_identity("cat", np.random.default_rng(0))
    with pytest.raises(InputError, match="26 traits"):
        world.Identity.from_vector(np.zeros(3))


@pytest.mark.parametrize("subject", world.SUBJECTS)
def test_the_shipped_photos_are_as_drawn(subject):
    from PIL import Image

    factors = photos.photo_factors(subject)
    assert len(factors) == len(photos.paths(subject)) == 12 and len({f.scene for f in factors}) >= 6
    for path, shown in zip(photos.paths(subject), factors, strict=True):
        text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        assert text == photos.caption(subject, shown) and captions.asked(text)["scene"] == shown.scene
    shipped = Image.open(photos.paths(subject)[4])
    assert shipped.size == (512, 512) and np.array_equal(np.asarray(shipped), np.asarray(photos.draw(factors[4])))
