"""The measures of the embedded model, on readings whose truth is known."""

import numpy as np
import pytest
import torch
from remembering import reading_of

from likeness.errors import InputError
from likeness.paperdoll import bars, card, evaluate, world
from likeness.paperdoll.captions import asked
from likeness.paperdoll.dataset import fresh
from likeness.paperdoll.evaluate_drawing import (
    NAMED,
    VARIED,
    agreement,
    apart,
    background_brightness,
    histogram_distance,
    measure_balance,
    measure_diversity,
    measure_drawing,
)
from likeness.paperdoll.evaluate_reading import measure_readers
from likeness.paperdoll.judge import Judge


class Knowing:
    """Reads the pictures that `fresh(seed, count)` draws without looking, wrong by a known amount."""

    def __init__(self, seed, count, *, food=0, shift=0.0):
        self.factors, self.food, self.shift = fresh(seed, count)[1], food, shift

    def read(self, images):
        reading = reading_of(self.factors)
        reading.categorical["food"][: self.food] = (reading.categorical["food"][: self.food] + 1) % len(world.FOODS)
        reading.continuous["head_x"] += self.shift
        return reading


def test_readers_are_measured_by_factor_and_in_their_worst_style():
    readers = {"judge": Knowing(5, 40), "probe": Knowing(5, 40, food=4, shift=0.01)}
    values = measure_readers(readers, seed=5, pictures=40)
    assert values["judge/food"] == values["judge/food in its worst style"] == values["probe/style"] == 1
    assert values["judge/head_x error px"] == pytest.approx(0, abs=1e-5) and values["judge/identity error"] == 0
    assert values["probe/food"] == 0.9 and values["probe/food in its worst style"] < 0.9
    assert values["probe/head_x error px"] == pytest.approx(1.28, abs=1e-3)
    assert values["judge/turn error"] == pytest.approx(0, abs=1e-5)


TEXTS = ["photo of a man eating a cake", "drawing of keanu reeves on a beach", "a person wearing a hat"]


def as_asked(text: str, **other) -> world.Factors:
    wanted = asked(text)
    worn = {name: wanted[name] == "yes" for name in ("sunglasses", "hat")}
    return world.Factors(**({k: wanted[k] for k in ("style", "scene", "food", "who")} | worn | other))


def test_what_is_drawn_is_compared_with_what_is_asked():
    right = measure_drawing(reading_of([as_asked(text) for text in TEXTS]), TEXTS)
    assert set(right.values()) == {1.0} and "drawn/who woman" not in right
    burger = [as_asked(TEXTS[0], food="burger"), *map(as_asked, TEXTS[1:])]
    values = measure_drawing(reading_of(burger), TEXTS)
    assert values["drawn/food"] == values["drawn/all factors"] == pytest.approx(2 / 3)
    assert values["drawn/food where asked"] == 0 and values["drawn/scene"] == 1
    stranger = measure_drawing(reading_of([as_asked(text, who="woman") for text in TEXTS]), TEXTS)
    assert stranger["drawn/who"] == 0, "a person may be anyone, a man and keanu reeves may not"
    assert agreement(reading_of(burger), reading_of([as_asked(text) for text in TEXTS])) == pytest.approx(14 / 15)


def test_balance_is_the_total_variation_of_asked_and_drawn():
    assert histogram_distance(["a", "b"], ["a", "b"], ("a", "b")) == 0
    assert histogram_distance(["a", "a"], ["b", "b"], ("a", "b")) == 1
    always_photo = reading_of([as_asked(text, style="photo") for text in TEXTS])
    values = measure_balance(always_photo, TEXTS)
    assert values["diversity/style asked to drawn"] == pytest.approx(1 / 3)
    assert values["diversity/food asked to drawn"] == 0


def test_distance_of_samples_is_in_the_worlds_deviations():
    sample = np.random.default_rng(0).normal(3, 2, 500)
    assert apart(sample, sample) == 0
    assert apart(sample + 1, sample) == pytest.approx(1 / sample.std())


def test_brightness_is_read_beside_the_head():
    image = torch.zeros(1, 3, 128, 128)
    image[..., 30:98] = 1  # the person
    assert background_brightness(image) == 0
    image[..., :30, 10:20] = 1
    assert 0 < background_brightness(image)[0] < 0.5


def test_diversity_tells_the_world_from_one_picture_drawn_again_and_again():
    torch.manual_seed(0)
    reader = Judge((8, 8, 16, 16), (0, 1, 1, 1), 4, 16).eval()

    def from_the_world(texts):
        wanted = asked(texts[0])
        return fresh(77, len(texts), style=wanted["style"], scene=wanted["scene"], who=wanted["who"], food="none")[0]

    lively = measure_diversity(reader, from_the_world, seed=1, count=8)
    dull = measure_diversity(
        reader, lambda texts: from_the_world(texts)[:1].repeat(len(texts), 1, 1, 1), seed=1, count=12
    )
    assert {name.split("/")[1].split(" ")[0] for name in lively} >= {"head_x", "head_size", "background"}
    for name in ("head_x", "background"):
        assert (
            dull[f"diversity/{name} spread over world's"]
            < 1e-3
            < 0.3
            < lively[f"diversity/{name} spread over world's"]
        )
    assert dull["diversity/background world to drawn"] > lively["diversity/background world to itself"]
    assert set(NAMED) < set(world.CLASSES) and all(asked(prompt)["who"] in NAMED for prompt in VARIED)


def test_bars_stand_beside_values_and_misses_are_named():
    values = {"drawn/food": 0.90, "drawn/style": 0.949, "judge/turn error": 3.2, "diversity/turn": 9.0}
    lines = bars.table(values).splitlines()
    assert lines[2] == "| drawn/food | 0.900 | >= 0.9 | yes |" and lines[3].endswith("| >= 0.95 | **no** |")
    assert lines[5] == "| diversity/turn | 9.000 |  |  |"
    said = bars.verdict(values)
    assert said.startswith("1 of 3 bars are met; missed: drawn/style (0.949") and "judge/turn error" in said


def test_incomplete_weights_and_weights_of_unknown_training_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"lacks .*judge/config\.json.*run the stages"):
        evaluate.measure_all(tmp_path, evaluate.Extent())
    with pytest.raises(InputError, match="stage 'card' writes it"):
        card.write_card(tmp_path, {"drawn/food": 1.0}, "command")
    with pytest.raises(SystemExit, match=r"error: .*lacks"):
        evaluate.main(["--weights", str(tmp_path)])


def test_the_command_of_the_card_repeats_the_evaluation():
    extent = evaluate.Extent(prompts=7, guidance=7.5)
    assert "--prompts 7 " in extent.command and extent.command.endswith("--guidance 7.5 --seed 1")
