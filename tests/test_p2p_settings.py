"""Prompt-to-Prompt's settings, refusals and notices on a real, tiny pipeline; offload and interruption."""

import re
from functools import wraps
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from p2p_drawing import LASAGNE, SOURCE, STEPS, TARGET, close, draw, noise, plain

from likeness.prompt_to_prompt import LocalBlend, Refine, Replace, Reweight, prompt_to_prompt
from likeness.prompt_to_prompt.layers import attention_layers, attention_modules, pixels


def test_a_limit_on_self_attention_is_an_option(pipe):
    """8x8 latents, maps of 8, 4 and 2: the default is 4; 1 leaves nothing to inject, 8 takes every layer."""
    start, edit = noise(3), Replace(TARGET, self_replace_steps=1.0)
    (_, default), _ = draw(pipe, [edit], start)
    (_, four), _ = draw(pipe, [edit], start, self_replace_resolution=4)
    (_, none), p2p = draw(pipe, [edit], start, self_replace_resolution=1)
    (_, without), _ = draw(pipe, [Replace(TARGET, self_replace_steps=0.0)], start)
    (_, every), _ = draw(pipe, [edit], start, self_replace_resolution=8)
    close(four, default)
    close(none, without)
    assert "Raise self_replace_resolution" in p2p.notices[0]
    assert (default - without).abs().max() > 0.01 and (every - default).abs().max() > 0.01


@pytest.mark.parametrize("size", [(7, 9), pytest.param((37, 45), marks=pytest.mark.slow)])
def test_odd_and_oblong_latents(pipe, size):
    """The UNet rounds up where it halves: 7x9 becomes 4x5 and 2x3, 37x45 becomes 19x23 and 10x12, nearest to 256."""
    start, edit = noise(3, size=size), Replace(TARGET, cross_replace_steps=0.5, self_replace_steps=1.0)
    found = attention_layers(pipe.unet, attention_modules(pipe.unet))
    layers = {layer.name.removesuffix(".processor"): layer for layer in found}
    seen = {}
    hooks = [
        pipe.unet.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen.update({name: args[0].shape[1]})
        )
        for name in layers
    ]
    try:
        blend = LocalBlend(["squirrel", "lion"], threshold=0.9, start=0.0)
        (source, edited), p2p = draw(pipe, [edit], start, local_blend=blend, store_attention=True)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == {name: pixels(layer, size) for name, layer in layers.items()} and len(set(seen.values())) == 3
    close(source, plain(pipe, SOURCE, start), atol=1e-3)
    mask, maps = p2p.masks.last(), {(7, 9): (7, 9), (37, 45): (10, 12)}[size]
    assert mask.shape == size and p2p.attention_maps.word("lion", prompt=1).shape == maps
    assert 0 < mask.float().mean() < 1
    assert (edited - source)[0, :, ~mask].abs().max() < 1e-5 and (edited - source)[0, :, mask].abs().max() > 0.01


def test_half_of_an_odd_side_is_rounded_up(pipe):
    """7x9 latents: maps of 4x5 pixels are injected, as they are with 5x5 as the limit; the full ones are not."""
    start, edit = noise(3, size=(7, 9)), Replace(TARGET, self_replace_steps=1.0)
    default, five, none = (draw(pipe, [edit], start, self_replace_resolution=limit)[0][1] for limit in (None, 5, 1))
    close(default, five)
    assert (default - none).abs().max() > 0.01


def test_processors_are_ours_only_where_a_step_needs_them(pipe):
    """Self-attention up to half the side in its window, cross-attention in its own, one layer for the masks."""
    seen = []

    def look(pipe, step, timestep, given):
        ours = [name for name, p in pipe.unet.attn_processors.items() if type(p).__name__ == "EditedAttention"]
        seen.append((sum(".attn1." in name for name in ours), sum(".attn2." in name for name in ours)))
        return {}

    edit = Replace(TARGET, cross_replace_steps=(0.25, 0.75), self_replace_steps=0.5)
    draw(pipe, [edit], noise(0), callback_on_step_end=look)
    kinds = [name for name in pipe.unet.attn_processors if ".attn2." in name]
    below = sum(not name.startswith(("down_blocks.0", "up_blocks.2")) for name in kinds)
    assert seen == [(below, len(kinds)), (0, len(kinds)), (0, 0), (0, 0)]  # after each step, for the next
    seen.clear()
    blend = LocalBlend(["squirrel", "lion"], threshold=0.6)
    draw(pipe, [edit], noise(0), callback_on_step_end=look, local_blend=blend)
    recorded = len(kinds) - below
    assert seen[2] == (0, recorded) and seen[3] == (0, 0)


def test_offloaded_weights(tiny_sd):
    """Weights that hooks fetch for each layer, as enable_sequential_cpu_offload installs them on an accelerator."""
    from accelerate import cpu_offload
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    edits = [Reweight(TARGET, {"lion": 2.0}, over=Replace(TARGET, cross_replace_steps={"lion": 0.2}))]
    (_, expected), _ = draw(pipe, edits, noise(1))
    cpu_offload(pipe.unet, torch.device("cpu"))
    assert next(pipe.unet.parameters()).device.type == "meta"
    (_, offloaded), _ = draw(pipe, edits, noise(1))
    close(offloaded, expected)


def test_guidance_switched_off_by_a_callback_is_followed(pipe):
    """A scale of hardly more than 1 draws what 1 draws, with the unconditional half in the batch."""

    def switched(scale, halve):
        def switch(pipe, step, timestep, given):
            if step != 1:
                return {}
            pipe._guidance_scale = scale
            return {"prompt_embeds": given["prompt_embeds"].chunk(2)[-1]} if halve else {}

        blend = LocalBlend(["squirrel", "lion"], threshold=0.9)
        edit = Replace(TARGET, cross_replace_steps=1.0, self_replace_steps=1.0)
        with prompt_to_prompt(pipe, SOURCE, [edit], local_blend=blend, callback_on_step_end=switch) as p2p:
            inputs = p2p.inputs | {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
            return pipe(
                **inputs, latents=p2p.latents(noise(2)), num_inference_steps=STEPS, guidance_scale=5.0,
                output_type="latent",
            ).images  # fmt: skip

    before = dict(pipe.unet.attn_processors)
    expected = switched(1 + 1e-9, halve=False)
    close(switched(1.0, halve=True), expected)
    assert (expected[1] - expected[0]).abs().max() > 0.01
    with pytest.raises(ValueError, match="2 latents, 4 prompt embeddings, with guidance off"):
        switched(1.0, halve=False)
    with pytest.raises(ValueError, match="4 latents, 2 prompt embeddings, with guidance on"):
        switched(3.0, halve=True)
    assert dict(pipe.unet.attn_processors) == before


def test_an_interrupted_sampling_leaves_nothing_for_the_next(pipe):
    def stop(pipe, step, timestep, given):
        if step == 1 and interrupted:
            raise KeyboardInterrupt
        return {}

    interrupted, before = False, dict(pipe.unet.attn_processors)
    (_, expected), _ = draw(pipe, [Replace(TARGET)], noise(2))
    with prompt_to_prompt(pipe, SOURCE, [Replace(TARGET)], callback_on_step_end=stop) as p2p:
        options = dict(latents=p2p.latents(noise(2)), num_inference_steps=STEPS, guidance_scale=5.0)
        interrupted = True
        with pytest.raises(KeyboardInterrupt):
            pipe(**p2p.inputs, output_type="latent", **options)
        interrupted = False
        again = pipe(**p2p.inputs, output_type="latent", **options).images
        inputs = p2p.inputs
    close(again[1:], expected)
    assert dict(pipe.unet.attn_processors) == before
    with pytest.raises(ValueError, match="after their context was left"):
        pipe(**inputs, output_type="latent", **options)
    assert dict(pipe.unet.attn_processors) == before


def test_a_step_that_was_set_on_the_scheduler_is_put_back(tiny_pipe):
    scheduler, calls = tiny_pipe.scheduler, []

    @wraps(scheduler.step)
    def counted(*args, **options):
        calls.append(args[1])
        return type(scheduler).step(scheduler, *args, **options)

    scheduler.step = counted
    draw(tiny_pipe, [Replace(TARGET)], noise(0), steps=2)
    assert vars(scheduler)["step"] is counted and len(calls) == 2


def test_another_processor_or_a_multi_vector_word_is_refused(tiny_pipe):
    from diffusers.models.attention_processor import AttnProcessor2_0

    class Custom(AttnProcessor2_0):
        pass

    tiny_pipe.unet.set_attn_processor(Custom())
    with pytest.raises(ValueError, match="is a Custom"), prompt_to_prompt(tiny_pipe, SOURCE, [Replace(TARGET)]):
        pass
    tiny_pipe.unet.set_attn_processor(AttnProcessor2_0())
    tiny_pipe.tokenizer.add_tokens(["<toy>", "<toy>_1"])
    edit = Replace(SOURCE.replace("squirrel", "<toy>"))
    with pytest.raises(ValueError, match="several vectors"), prompt_to_prompt(tiny_pipe, SOURCE, [edit]):
        pass


def test_windows_are_judged_by_the_steps_that_are_drawn(pipe):
    """Of 4 steps a window up to 0.1 holds none; of 200, 0.01 holds two. Neither is known before sampling."""
    _, p2p = draw(pipe, [Replace(LASAGNE, self_replace_steps=0.1)], noise(0))
    assert any("self-attention window holds no step" in notice for notice in p2p.notices)
    short = Replace(TARGET, cross_replace_steps=0.01, self_replace_steps=0.01)
    with prompt_to_prompt(pipe, SOURCE, [short]) as p2p:
        assert not p2p.notices
        with pytest.raises(ValueError, match="in 4 steps its windows"):
            pipe(**p2p.inputs, latents=p2p.latents(noise(0)), num_inference_steps=4, output_type="latent")


def test_a_sampler_that_draws_noise_of_its_own_is_refused(tiny_pipe):
    from diffusers import DPMSolverMultistepScheduler

    known = tiny_pipe.scheduler
    noisy = DPMSolverMultistepScheduler.from_config(known.config, algorithm_type="sde-dpmsolver++")
    refusal = r"new noise at every step.*'dpmsolver\+\+'"
    tiny_pipe.scheduler = noisy
    with pytest.raises(ValueError, match=refusal):
        draw(tiny_pipe, [Replace(TARGET)], noise(0))
    tiny_pipe.scheduler = known
    with prompt_to_prompt(tiny_pipe, SOURCE, [Replace(TARGET)]) as p2p:
        tiny_pipe.scheduler = noisy  # also when it comes later
        with pytest.raises(ValueError, match=refusal):
            tiny_pipe(**p2p.inputs, latents=p2p.latents(noise(0)), num_inference_steps=2, output_type="latent")


def test_maps_are_shown_in_the_reference_behaviours_without_a_blend(pipe):
    _, p2p = draw(pipe, [Replace(TARGET)], noise(0), behaviour="reference_stable", store_attention=True)
    assert p2p.attention_maps.word("lion", prompt=1).shape == (8, 8)


def test_an_empty_window_is_drawn_and_said_in_the_reference_behaviours(pipe):
    start = noise(4)
    empty = {"cross_replace_steps": 0.0, "self_replace_steps": 0.0}
    edits = [Replace(TARGET, **empty), Reweight(None, {"burger": 3.0}, **empty)]
    (source, target, same), p2p = draw(pipe, edits, start, behaviour="reference_stable")
    close(target, plain(pipe, TARGET, start))
    close(same, source)
    assert sum("injects nothing" in n for n in p2p.notices) == 2


def test_a_long_prompt_is_drawn_in_the_reference_behaviours_alone(pipe):
    long = SOURCE + " and a cat" * 25
    options = {"source": long, "steps": 2}
    (source, edited), _ = draw(
        pipe, [Replace(long.replace("squirrel", "lion"))], noise(1), behaviour="reference_null", **options
    )
    assert (source - edited).abs().max() > 0.01
    with pytest.raises(ValueError, match="the model reads 77"):
        draw(pipe, [Replace(long.replace("squirrel", "lion"))], noise(1), **options)


FRACTIONS = st.sampled_from([0.5, 1.0])
EDITS = st.one_of(
    st.builds(
        Replace, st.sampled_from([TARGET, LASAGNE]), cross_replace_steps=FRACTIONS, self_replace_steps=FRACTIONS
    ),
    st.builds(Refine, st.sampled_from(["charcoal " + SOURCE, TARGET + " on a table"]), cross_replace_steps=FRACTIONS),
    st.builds(Reweight, st.none(), st.dictionaries(st.sampled_from(["burger", "a"]), st.integers(-2, 4), min_size=1)),
)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.lists(EDITS, min_size=2, max_size=3), st.lists(st.integers(0, 99), min_size=2, max_size=2, unique=True))
def test_a_picture_depends_on_its_own_prompt_edit_and_seed(pipe, edits, seeds):
    """The source is the same whatever stands beside it, a target whatever the other targets, an image in any batch."""
    together, _ = draw(pipe, edits, noise(*seeds), steps=2)
    (source, alone), _ = draw(pipe, edits[-1:], noise(seeds[1]), steps=2)
    assert torch.equal(noise(*seeds)[1], noise(seeds[1])[0])
    close(together[0][1:], source)
    close(together[-1][1:], alone)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([*SOURCE.split(), "lasagne,", "(bnh)"]), min_size=1, max_size=6),
    st.fixed_dictionaries({"cross_replace_steps": FRACTIONS, "self_replace_steps": FRACTIONS}),
    st.integers(0, 99),
)
def test_identity_edits_are_plain_sampling(pipe, words, windows, seed):
    prompt, start = " ".join(words), noise(seed)
    weights = dict.fromkeys(words, 1.0)
    edits = [
        Replace(prompt, **windows),
        Refine(prompt, **windows),
        Reweight(None, weights, **windows),
        Reweight(prompt, weights, over=Refine(prompt), **windows),
    ]
    pictures, p2p = draw(pipe, edits, start, source=prompt)
    expected = plain(pipe, prompt, start)
    for picture in pictures:
        close(picture, expected)
    assert len(pictures) == 5 and len(p2p.notices) == 4


def test_the_table_of_behaviours_names_tests_that_exist():
    here = Path(__file__).parent
    named = set(
        re.findall(r"`(test_\w+)`", (here.parent / "docs" / "prompt_to_prompt.md").read_text(encoding="utf-8"))
    )
    written = {
        name
        for path in here.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)
    }
    assert len(named) > 10 and named <= written
