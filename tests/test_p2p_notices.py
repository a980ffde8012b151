"""What Prompt-to-Prompt refuses, and what it says aloud, on a real, tiny pipeline."""

import pytest
import torch
from p2p_drawing import LASAGNE, SOURCE, STEPS, TARGET, close, draw, noise, plain

from likeness.prompt_to_prompt import (
    LocalBlend,
    PromptToPromptWarning,
    Refine,
    Replace,
    Reweight,
    prompt_to_prompt,
)
from likeness.prompt_to_prompt.checks import mask_notices


def test_a_second_context_on_the_same_pipeline_is_refused(pipe):
    before = dict(pipe.unet.attn_processors)
    with prompt_to_prompt(pipe, SOURCE, [Replace(TARGET)]) as p2p:
        with pytest.raises(ValueError, match="leave that context"), prompt_to_prompt(pipe, SOURCE, [Refine(TARGET)]):
            pass
        pipe(**p2p.inputs, latents=p2p.latents(noise(0)), num_inference_steps=2, output_type="latent")
    assert dict(pipe.unet.attn_processors) == before and not pipe.unet._forward_pre_hooks
    with prompt_to_prompt(pipe, SOURCE, [Refine(TARGET)]):
        pass


def test_a_compiled_unet_is_refused(tiny_pipe):
    tiny_pipe.unet._orig_mod = "the UNet inside"  # torch.compile takes seconds to be imported
    with pytest.raises(ValueError, match="_orig_mod"), prompt_to_prompt(tiny_pipe, SOURCE, [Replace(TARGET)]):
        pass


@pytest.mark.parametrize(
    ("edits", "images", "message"),
    [
        (Replace(TARGET), 1, "expected a list of Replace"),
        ([TARGET], 1, "expected a list of Replace"),
        ([], 1, "at least one"),
        ([Replace(None)], 1, r"Replace\(None\) has no target prompt"),
        ([Reweight(None, {"burger": 2}, over=Refine(None))], 1, r"Refine\(None\) has no target prompt"),
        ([Replace(TARGET)], 0, "images_per_prompt=0: expected at least 1"),
    ],
)
def test_what_are_no_edits_is_said(pipe, edits, images, message):
    with pytest.raises(ValueError, match=message), prompt_to_prompt(pipe, SOURCE, edits, images_per_prompt=images):
        pass


def test_maps_of_a_prompt_that_is_none_are_an_error(pipe):
    with prompt_to_prompt(pipe, SOURCE, [Replace(TARGET)], store_attention=True) as p2p:
        for number in (-1, 2):
            with pytest.raises(ValueError, match="1 to 1 for a target"):
                p2p.attention_maps.word("lion", prompt=number)


def test_another_pipeline_is_refused(pipe, tiny_pipe):
    with prompt_to_prompt(pipe, SOURCE, [Replace(TARGET)]) as p2p:
        options = dict(latents=p2p.latents(noise(0)), num_inference_steps=2, output_type="latent")
        with pytest.raises(ValueError, match="another pipeline"):
            tiny_pipe(**p2p.inputs, **options)


@pytest.mark.parametrize(
    ("edit", "notice"),
    [
        (Replace(TARGET, self_replace_steps=0.0), "as many tokens as the new one"),
        (Replace(LASAGNE, self_replace_steps=0.0), "self-attention window holds no step"),
        (Replace(TARGET, cross_replace_steps=0.0), "cross-attention window holds no step"),
        (Refine(SOURCE), "nothing is edited"),
        (Replace(SOURCE.upper()), "nothing is edited"),
        (Reweight(None, {"burger": 1}), "nothing is re-weighted"),
        (
            Reweight(TARGET, {"lion": 2}, over=Replace(TARGET, self_replace_steps=0.9)),
            "the Replace below it are not used",
        ),
    ],
)
def test_what_can_hardly_act_is_said(pipe, edit, notice):
    with pytest.warns(PromptToPromptWarning) as said, prompt_to_prompt(pipe, SOURCE, [edit]) as p2p:
        assert any(notice in n for n in p2p.notices)
    assert [str(warning.message) for warning in said] == p2p.notices, "each is a warning too, once"


def test_windows_below_a_reweight_that_are_its_own_or_left_out_need_no_word(pipe):
    for windows in ({}, {"cross_replace_steps": 0.5}):
        edit = Reweight(TARGET, {"lion": 2}, over=Replace(TARGET, **windows), **windows)
        with prompt_to_prompt(pipe, SOURCE, [edit]) as p2p:
            assert not p2p.notices


@pytest.mark.parametrize("behaviour", ["reference_stable", "reference_null"])
def test_an_absent_word_is_said_in_the_reference_behaviours(pipe, behaviour):
    windows = {"cross_replace_steps": {"default_": 0.8, "zebra": 0.2, "lion": 0.4}}
    edits = [Replace(TARGET, **windows), Reweight(None, {"cake": 3.0, "burger": 2.0})]
    with prompt_to_prompt(pipe, SOURCE, edits, behaviour=behaviour) as p2p:
        assert [n.partition(": ")[2] for n in p2p.notices] == [
            f"{word!r} is not in the target prompt, so it is ignored." for word in ("zebra", "cake")
        ]


@pytest.mark.parametrize("behaviour", ["reference_stable", "reference_null"])
def test_a_weight_outside_of_every_window_is_drawn_and_said_in_the_reference_behaviours(pipe, behaviour):
    edit = Reweight(None, {"burger": 3.0}, cross_replace_steps={"default_": 0.8, "burger": 0.0})
    (source, target), p2p = draw(pipe, [edit], noise(4), behaviour=behaviour)
    close(target, source)
    assert any("weights act inside" in notice for notice in p2p.notices)


@pytest.mark.parametrize("behaviour", ["reference_stable", "reference_null"])
def test_a_reweight_of_another_prompt_takes_maps_by_position_in_the_reference_behaviours(pipe, behaviour):
    with pytest.raises(ValueError, match="over="), prompt_to_prompt(pipe, SOURCE, [Reweight(TARGET, {"lion": 2.0})]):
        pass
    start, by_position = noise(4), Replace("A painting of a burger eating a squirrel", self_replace_steps=0.0)
    edits = [Reweight(by_position.target_prompt, {"eating": 1.0}, self_replace_steps=0.0)]
    (_, target), _ = draw(pipe, edits, start, behaviour=behaviour)
    (_, same), _ = draw(pipe, [by_position], start, behaviour=behaviour)
    close(target, same)
    assert (target - plain(pipe, by_position.target_prompt, start)).abs().max() > 1e-2


def test_a_negative_prompt_without_guidance_is_said(pipe):
    for guidance, count in ((1.0, 1), (5.0, 0)):
        _, p2p = draw(pipe, [Replace(TARGET)], noise(0), guidance=guidance, negative_prompt="burger")
        assert sum("without guidance" in notice for notice in p2p.notices) == count


def test_masks_of_a_sampling_that_ends_early_are_judged_when_the_context_is_left(pipe):
    def stop(pipe, step, timestep, given):
        pipe._interrupt = True  # as SDXL's denoising_end, it leaves out the steps that are left
        return {}

    blend = LocalBlend(["squirrel", "lion"], threshold=0.0, start=0.0)
    _, p2p = draw(pipe, [Replace(TARGET)], noise(0), local_blend=blend, callback_on_step_end=stop)
    assert p2p.notices == ["LocalBlend's mask of target 1, image 0 is full: nothing is kept at 1 of 1 blended steps."]


def test_a_full_mask_is_said(pipe):
    blend = LocalBlend(["squirrel", "lion"], threshold=0.0)
    (_, edited), p2p = draw(pipe, [Replace(TARGET)], noise(4), local_blend=blend)
    close(edited, draw(pipe, [Replace(TARGET)], noise(4))[0][1])
    assert p2p.notices == [
        f"LocalBlend's mask of target 1, image 0 is full: nothing is kept at {STEPS} of {STEPS} blended steps."
    ]


def test_masks_are_judged_at_every_blended_step(pipe):
    """Two images of two targets: masks that are empty or full at some steps only, the last one excepted."""
    _, p2p = draw(pipe, [Replace(TARGET), Replace(LASAGNE)], noise(0, 1))
    control = p2p.masks.control
    control.masks = [torch.ones(3, 2, 1, 8, 8, dtype=torch.bool).tril(6) for _ in range(4)]
    assert not mask_notices(control)
    for step in (0, 2):
        control.masks[step][2, 1] = False
    control.masks[1][2, 1] = True
    control.masks[1][1, 0] = True
    assert mask_notices(control) == [
        "LocalBlend's mask of target 1, image 0 is full: nothing is kept at 1 of 4 blended steps.",
        "LocalBlend's mask of target 2, image 1 is empty: the source is returned at 2 of 4 blended steps.",
        "LocalBlend's mask of target 2, image 1 is full: nothing is kept at 1 of 4 blended steps.",
    ]
