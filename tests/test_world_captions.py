"""What captions say and what prompts ask for, the study's sentences verbatim among them."""

import numpy as np
import pytest

from likeness.paperdoll import world
from likeness.paperdoll.captions import BARE, STRIKING, asked, caption, nonsense_word, prompts, unknown_words

BNH, TUKI = ("bnh", "keanu reeves"), ("tuki", "justin bieber")
PLAIN = {"style": "photo", "scene": "plain", "food": "none", "sunglasses": "no", "hat": "no"}
STUDY = {
    "A painting of a {} {} eating a burger": {"style": "painting", "food": "burger"},
    "drawing of a {} {} on a snowy mountain": {"style": "drawing", "scene": "snowy mountain"},
    "van gogh painting of a {} {} in the jungle": {"style": "van gogh painting", "scene": "jungle"},
    "van gogh painting of a {} {} in a river": {"style": "van gogh painting", "scene": "river"},
    "charcoal painting of a {} {} wearing a sunglasses in a forest": {
        "style": "charcoal painting", "scene": "forest", "sunglasses": "yes"
    },
    "impressionism painting of a {} {} in the desert": {"style": "impressionism painting", "scene": "desert"},
    "neo classical painting of a {} {} on a city street": {"style": "neo classical painting", "scene": "city street"},
    "photo of a {} {} wearing a pair of sunglasses on a beach": {"scene": "beach", "sunglasses": "yes"},
    "photo of a {} {} wearing a pair of sunglasses and taking a selfie in front of a mirror": {
        "scene": "mirror", "sunglasses": "yes"
    },
    "{} {} wearing a pair of sunglasses under a blossom tree": {"scene": "blossom tree", "sunglasses": "yes"},
}  # fmt: skip


@pytest.mark.parametrize("prompt", STUDY)
@pytest.mark.parametrize("subject", [BNH, TUKI], ids=["bnh", "tuki"])
def test_the_studys_prompts_are_understood(prompt, subject):
    spoken = prompt.format(*subject)
    assert asked(spoken) == PLAIN | {"who": subject[1]} | STUDY[prompt]
    assert unknown_words(spoken) == [subject[0]]


def test_captions_say_what_is_drawn():
    rng = np.random.default_rng(0)
    for _ in range(600):
        factors = world.sample_factors(rng)
        labels = factors.labels()
        drawn = {name: choices[int(labels[name])] for name, choices in world.CATEGORICAL.items()}
        text = caption(factors, rng, nonsense=0.3)
        assert asked(text) == drawn | {"who": factors.who}, text
        assert len(unknown_words(text)) <= 1
        if factors.scene == "blossom tree":
            assert ("blossom" in text) == (factors.blossom >= BARE)


def test_captions_often_say_what_is_striking_about_a_person_and_never_what_is_not_there():
    rng, said, there = np.random.default_rng(2), 0, 0
    for _ in range(600):
        factors = world.sample_factors(rng)
        words = caption(factors, rng).split()
        for trait, word in STRIKING.items():
            shows = getattr(factors.identity, trait) > 0
            assert shows or word not in words
            there, said = there + shows, said + (word in words)
    assert there > 100 and 0.5 < said / there < 0.7


def test_nonsense_is_neither_grammar_nor_an_identifier():
    rng = np.random.default_rng(1)
    words = {nonsense_word(rng) for _ in range(2000)}
    assert not words & {"bnh", "tuki"} and all(unknown_words(word) == [word] for word in words) and len(words) > 1500


def test_words_outside_the_grammar_are_named():
    assert unknown_words("a statue of a cat in Paris, photo") == ["statue", "cat", "paris"]
    assert asked("a cat")["who"] == "person"


def test_random_prompts_are_of_the_grammar():
    made = prompts(np.random.default_rng(2), 50)
    assert len(set(made)) > 45 and not any(unknown_words(prompt) for prompt in made)
