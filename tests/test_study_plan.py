"""What an edit's options mean for the prompts, and which of them are refused."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from likeness import config
from likeness.errors import InputError
from likeness.study.cells import cell_identity
from likeness.study.edits import build_edit, local_blend, swapped_words
from likeness.study.plan import plan_edit

CONF = Path(__file__).parents[1] / "conf"


def sweep_of(*overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return config.to_sweep(compose("sweep", list(overrides)))


def plan(*overrides: str):
    return plan_edit(sweep_of(*overrides))


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
    assert plan("edit=reweight").weights == (("blossom", -2.0),)


def test_weights_go_on_top_of_any_edit():
    made = plan("edit=local", "target=cake", "+edit.weights.cake=3", "+edit.weights.eating=0.5")
    built = build_edit(made, sweep_of("edit=local").edit)
    assert type(built).__name__ == "Reweight" and type(built.over).__name__ == "Replace"
    assert built.weights == {"cake": 3.0, "eating": 0.5} and built.target_prompt == made.target_prompt
    several = plan("edit=reweight", "+edit.weights.sunglasses=2", "word=blossom", "weight=0")
    assert several.weights == (("sunglasses", 2.0), ("blossom", 0.0))


@pytest.mark.parametrize("word", ["blossom,", "(blossom)", "Blossom  tree", "BLOSSOM"])
def test_words_are_written_as_the_library_takes_them(word):
    assert plan("edit=reweight", f"word='{word}'").weights == ((word, -2.0),)


@pytest.mark.parametrize(("written", "asked"), [("café", "cafe\u0301"), ("cafe\u0301", "café"), ("dog’s", "dog's")])
def test_accents_and_apostrophes_are_alike_in_the_words_of_a_sweep(written, asked):
    made = plan("edit=reweight", f'edit.source="a {written}"', f'word="{asked}"')
    assert made.weights == ((asked, -2.0),)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["edit=local", "+edit.weights.burger=2"], "'burger' is not in the target prompt"),
        (["edit=local", "style=watercolor"], "does nothing with edit=local"),
        (["edit=local", "target=burger"], "changes nothing"),
        (["edit=local", "target=a very big cake"], "Use edit.operator=refine"),
        (["edit=reweight", "word=volcano"], "not in the source prompt"),
        (["edit=reweight", "edit.operator=refine"], "edit.operator=refine does nothing with edit=reweight"),
        (["edit=reweight", "weight=nan"], "the weight of 'blossom' is nan"),
        (["edit=local", "+edit.weights.cake=inf"], "the weight of 'cake' is inf"),
        (["edit=local", "edit.operator=reweight", "+edit.weights.cake=3"], "draws the source prompt"),
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
    assert (swapped_words(made, 0), swapped_words(made, 1)) == (["burger"], ["cake"])


@pytest.mark.parametrize(
    ("typed", "words", "threshold"),
    [
        ("edit=local|target=cake|edit.blend.threshold=0.5", [["burger"], ["cake"]], 0.5),
        ("edit=refine|edit.blend.words=[justin,[justin,hat]]", [["justin"], ["justin", "hat"]], 0.7),
        (
            "edit=custom|source_prompt=photo of a man|target_prompt=photo of a man in a big hat|"
            "edit.blend.words=[man,big hat]|edit.blend.threshold=[0.3,0.5]",
            [["man"], ["big hat"]],
            [0.3, 0.5],
        ),
    ],
)
def test_every_edit_can_be_blended(typed, words, threshold):
    sweep = sweep_of(*typed.split("|"))
    blend = local_blend(plan_edit(sweep), sweep.edit)
    assert (blend.words, blend.threshold, blend.substruct_words) == (words, threshold, None)


def test_a_blend_of_added_words_has_to_name_its_own():
    sweep = sweep_of("edit=refine", "edit.blend.threshold=0.5")
    with pytest.raises(InputError, match="which words to follow"):
        local_blend(plan_edit(sweep), sweep.edit)


def test_the_options_of_a_blend_are_in_the_name_of_a_cell_only_where_it_blends():
    for edit, blend in (
        ("local", None),
        ("blend", {"words": [], "substruct_words": [], "threshold": 0.7, "start": None}),
    ):
        sweep = sweep_of(f"edit={edit}", "target=cake")
        assert cell_identity(sweep, plan_edit(sweep), "w", "float32", {})["edit"]["blend"] == blend


@pytest.mark.parametrize("name", ["ddim", "pndm", "dpm", "euler"])
def test_no_sampler_cuts_latents_of_a_model_that_does_not_speak_of_it(name):
    from types import SimpleNamespace

    from diffusers import PNDMScheduler

    from likeness.study.draw import set_scheduler

    pipe = SimpleNamespace(scheduler=PNDMScheduler())
    set_scheduler(pipe, sweep_of(f"sampler={name}").sampler)
    assert not getattr(pipe.scheduler.config, "clip_sample", False)
