"""What is said of an edit that can be drawn and may not be meant."""

import pytest
from test_study_plan import sweep_of

from likeness.study.notices import plan_notices
from likeness.study.plan import plan_edit


def notices(*overrides: str) -> list[str]:
    sweep = sweep_of(*overrides)
    return plan_notices(sweep, plan_edit(sweep))


@pytest.mark.parametrize(
    "typed", ["edit=local", "edit=global style=charcoal scene=river", "edit=reweight", "edit=refine"]
)
def test_an_edit_as_its_file_has_it_is_not_spoken_of(typed):
    assert notices(*typed.split()) == notices("model=sd15", *typed.split()) == []


def test_the_prompts_follow_the_identifier():
    assert notices("edit=global", "subject.identifier=zwx") == []
    assert plan_edit(sweep_of("edit=global", "subject.identifier=zwx")).source_prompt.startswith(
        "photo of a zwx justin"
    )


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("edit=global", "scene=library", "model=sd15"), "scene='library' is none of beach, forest"),
        (("edit=global", "style=watercolour", "model=sd15"), "style='watercolour' is none of photo, painting"),
        (("edit=global", "scene=dessert"), "the embedded model was never shown: dessert"),
    ],
)
def test_a_phrase_that_nobody_listed_is_named(typed, said):
    assert any(said in notice for notice in notices(*typed))
    assert notices("edit=global", "scene=on a city street", "model=sd15") == []


def test_a_prompt_without_the_subject_is_named():
    typed = ("edit=custom", 'source_prompt="photo of a man"')
    (both,) = notices(*typed, 'target_prompt="drawing of a man"')
    assert both == "source and target prompt do not name the subject (tuki)."
    (one,) = notices(*typed, 'target_prompt="photo of a tuki"')
    assert one.startswith("the source prompt does not")
