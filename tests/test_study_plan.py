"""What an edit's options mean for the prompts, and which of them are refused."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from likeness import config
from likeness.errors import InputError
from likeness.study.edits import _swapped
from likeness.study.plan import plan_edit

CONF = Path(__file__).parents[1] / "conf"


def plan(*overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return plan_edit(config.to_sweep(compose("sweep", list(overrides))))


@pytest.mark.parametrize(
    ("overrides", "target"),
    [
        (["edit=local"], "A painting of a tuki justin bieber eating a cake"),
        (["edit=local", "target=apple"], "A painting of a tuki justin bieber eating an apple"),
        (["edit=local", "subject=bnh", "target=lasagne"], "A painting of a bnh keanu reeves eating a lasagne"),
        (
            ["edit=global", "style=watercolor"],
            "watercolor painting of a tuki justin bieber wearing a sunglasses in a forest",
        ),
        (
            ["edit=global", "style=van gogh", "scene=jungle", "subject=bnh"],
            "van gogh painting of a bnh keanu reeves in the jungle",
        ),
        (["edit=global", "scene=river"], "photo of a tuki justin bieber wearing a sunglasses in a river"),
        (["edit=global", "scene=on the moon"], "photo of a tuki justin bieber wearing a sunglasses on the moon"),
        (["edit=refine"], "photo of a tuki justin bieber in a forest wearing a hat"),
        (["edit=custom", "source_prompt=photo of a man", "target_prompt=drawing of a man"], "drawing of a man"),
    ],
)
def test_target_prompts(overrides, target):
    assert plan(*overrides).target_prompt == target


def test_reweight_keeps_the_prompt_and_carries_the_weight():
    made = plan("edit=reweight", "word=blossom", "weight=-2")
    assert made.source_prompt == made.target_prompt
    assert made.weights == (("blossom", -2.0),)
    assert plan("edit=reweight").weights == (("blossom", 2.0),)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["edit=local", "style=watercolor"], "does nothing with edit=local"),
        (["edit=local", "target=burger"], "changes nothing"),
        (["edit=local", "target=a very big cake"], "Use edit.operator=refine"),
        (["edit=reweight", "word=volcano"], "not in the source prompt"),
        (["edit=custom", "source_prompt=a"], "needs a target prompt"),
        (["edit=custom", "target_prompt=a"], "needs a source prompt"),
        (["edit=global", "subject.prompts.global=tuki justin bieber", "scene=river"], "none of the phrases"),
    ],
)
def test_edits_that_mean_nothing_are_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        plan(*overrides)


def test_blend_follows_the_swapped_words():
    made = plan("edit=blend", "target=cake")
    assert (_swapped(made, 0), _swapped(made, 1)) == (["burger"], ["cake"])
