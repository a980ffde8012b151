"""Ours in the reference behaviours against a naive second implementation, on prompts and settings drawn at random.

Where the reference stops with an error, ours has to raise ValueError, and nowhere else.
"""

from pathlib import Path

import numpy as np
import p2p_reference as naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from likeness.prompt_to_prompt import LocalBlend, Refine, Replace, Reweight, prompt_to_prompt, seeded_latents
from likeness.prompt_to_prompt.alignment import refine_mapper, replace_mapper
from likeness.prompt_to_prompt.blend import compile_blend, mix
from likeness.prompt_to_prompt.edits import compile_edit, edited_maps, equalizer
from likeness.prompt_to_prompt.layers import place_of
from likeness.prompt_to_prompt.schedule import cross_alphas, self_window
from likeness.prompt_to_prompt.words import reference_indices

TOKENIZER = CLIPTokenizer.from_pretrained(Path(__file__).parent / "golden" / "pipe" / "tokenizer")
REFERENCES = ("reference_stable", "reference_null")
LIMITS = {"reference_stable": 16 * 16, "reference_null": 32 * 32}
# Words of one to three tokens, punctuation glued on, double spaces, "#" that strips to nothing, characters whose
# tokens are longer than their text.
WORDS = ["a", "of", "on", "cat", "cat", "dog", "burger", "lasagne", "bnh", "tuki", "painting", "Painting", "capybara"]
PLAIN = [*WORDS, "the", "keanu", "eating", "table"]
WORDS += ["cat,", "dog's", "1920s-style", "café", "#1", "#", "🐱", "🦄", "...", "don't", "½", ""]
word = st.sampled_from(WORDS)
fraction = st.integers(0, 100).map(lambda n: n / 100)
window = st.one_of(
    fraction,
    st.tuples(fraction, fraction),
    st.tuples(fraction, fraction).map(lambda pair: tuple(sorted(pair))),
    st.sampled_from([0, 1, (0, 1), [0.2, 0.7]]),
)


@st.composite
def pairs(draw, words=WORDS):
    """(source, target): mostly the same words with some swapped, so that Replace has work to do."""
    source = draw(st.lists(st.sampled_from(words), min_size=1, max_size=8))
    if draw(st.integers(0, 3)) == 0:
        target = draw(st.lists(st.sampled_from(words), min_size=1, max_size=8))
    else:
        swapped = draw(st.sets(st.integers(0, len(source) - 1), max_size=3))
        target = [draw(st.sampled_from(words)) if k in swapped else text for k, text in enumerate(source)]
    return " ".join(source), " ".join(target)


def outcome(call):
    try:
        return call()
    except (naive.Refused, ValueError):
        return "refused"


def same(ours, theirs):
    ours, theirs = outcome(ours), outcome(theirs)
    if isinstance(ours, str) or isinstance(theirs, str):
        assert isinstance(ours, str) and isinstance(theirs, str), (ours, theirs)
    else:
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=120, deadline=None)
@given(pairs(), st.sampled_from(REFERENCES))
def test_mappers(prompts, behaviour):
    same(lambda: replace_mapper(TOKENIZER, *prompts, behaviour), lambda: naive.replace_map(TOKENIZER, *prompts))
    same(
        lambda: np.stack(refine_mapper(TOKENIZER, *prompts, behaviour)),
        lambda: np.stack(naive.refine_map(TOKENIZER, *prompts)),
    )


@settings(max_examples=120, deadline=None)
@given(pairs(), st.one_of(word, st.integers(0, 9)))
def test_word_look_ups(prompts, place):
    same(
        lambda: reference_indices(TOKENIZER, prompts[1], place),
        lambda: naive.word_indices(TOKENIZER, prompts[1], place),
    )


@settings(max_examples=120, deadline=None)
@given(pairs(), st.data(), st.sampled_from([1, 2, 3, 5, 10, 20, 50]), st.sampled_from(REFERENCES))
def test_alphas_of_every_form_of_window(prompts, data, steps, behaviour):
    target = prompts[1]
    present = st.sampled_from(target.split() or ["zebra"])  # nobody gives nothing between two spaces a window
    windows = data.draw(
        st.one_of(window, st.dictionaries(st.one_of(present, st.just("default_")), window, max_size=3))
    )
    if isinstance(windows, dict) and data.draw(st.booleans()):
        windows["zebra"] = 0.3  # absent words are ignored
    given_windows = dict(windows) if isinstance(windows, dict) else windows
    same(
        lambda: cross_alphas(TOKENIZER, target, windows, steps, behaviour),
        lambda: naive.alphas(TOKENIZER, [target], windows, steps)[:, 0],
    )
    assert windows == given_windows  # the reference writes "default_" into the caller's dictionary


@settings(max_examples=120, deadline=None)
@given(pairs(), st.data())
def test_equalizers_of_both_notebooks(prompts, data):
    text = prompts[1]
    words = data.draw(st.lists(st.sampled_from([*text.split(" "), "zebra"]), min_size=1, max_size=3, unique=True))
    values = data.draw(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0]), min_size=1, max_size=3))
    same(
        lambda: equalizer(TOKENIZER, text, dict.fromkeys(words, values), "reference_stable"),
        lambda: naive.equalizer_stable(TOKENIZER, text, words, values),
    )
    same(
        lambda: equalizer(TOKENIZER, text, dict(zip(words, values, strict=False)), "reference_null"),
        lambda: naive.equalizer_null(TOKENIZER, text, words, values),
    )


@pytest.mark.parametrize("behaviour", REFERENCES)
def test_prompts_beyond_the_last_position(behaviour):
    long, dog = "cat " * 79 + "cat", "cat " * 79 + "dog"
    same(lambda: replace_mapper(TOKENIZER, long, dog, behaviour), lambda: naive.replace_map(TOKENIZER, long, dog))
    for target, message in ((dog, "82 tokens"), ("cat", "82 tokens")):  # a long source fails when maps are indexed
        with pytest.raises(ValueError, match=message):
            Refine(target).mapping(TOKENIZER, long, behaviour)
    split = "cat " * 75 + "capybara"  # its tokens stand at 76, 77 and 78
    for call in (
        lambda: replace_mapper(TOKENIZER, split, "cat " * 75 + "dog", behaviour),
        lambda: cross_alphas(TOKENIZER, split, {"capybara": 0.5}, 10, behaviour),
        lambda: equalizer(TOKENIZER, split, {"capybara": 2.0}, behaviour),
    ):
        with pytest.raises(ValueError, match=r"last position|the model reads 77"):
            call()


def pieces(edit, source):
    """The naive M (s, t), own (t,) of an edit, each target's cross edit being P_source @ M + P_target * own."""
    kind, target = type(edit), edit.target_prompt
    if kind is Replace:
        return torch.tensor(naive.replace_map(TOKENIZER, source, target)), torch.zeros(77)
    if kind is Refine:
        mapper, alphas = naive.refine_map(TOKENIZER, source, target)
        return torch.eye(77)[:, mapper] * torch.tensor(alphas), torch.tensor(1 - alphas)
    matrix, own = pieces(edit.over, source) if edit.over else (torch.eye(77), torch.zeros(77))
    factor = torch.tensor(naive.equalizer_null(TOKENIZER, target, *zip(*edit.weights.items(), strict=True)))
    return matrix * factor, own * factor


def controller(edits, prompts, steps, behaviour):
    """The naive controller of edits that share their windows."""
    parts = [pieces(edit, prompts[0]) for edit in edits]
    windows = edits[0].self_replace_steps
    first, last = (0, windows) if isinstance(windows, float) else windows
    return naive.Controller(
        LIMITS[behaviour],
        lambda source, own_maps, target: source @ parts[target][0] + own_maps * parts[target][1],
        naive.alphas(TOKENIZER, prompts[1:], edits[0].cross_replace_steps, steps),
        (int(steps * first), int(steps * last)),
        len(prompts),
    )


@settings(max_examples=25, deadline=None)
@given(pairs(PLAIN), st.data(), st.sampled_from(REFERENCES))
def test_edited_maps_and_what_is_stored(prompts, data, behaviour):
    steps, (source, target) = 4, prompts
    windows = {
        "cross_replace_steps": data.draw(
            st.one_of(fraction, st.fixed_dictionaries({target.split(" ")[-1]: fraction}))
        ),
        "self_replace_steps": data.draw(fraction),
    }
    kind = data.draw(st.sampled_from([Replace, Refine])) if len(source.split()) == len(target.split()) else Refine
    edit = kind(target, **windows)
    if data.draw(st.booleans()):
        edit = Reweight(target, {target.split(" ")[0]: -1.5}, over=edit, **windows)
    reference = controller([edit], prompts, steps, behaviour)
    compiled = compile_edit(edit, TOKENIZER, source, steps, steps, behaviour)
    torch.manual_seed(0)
    total = torch.zeros(2, 6, 77)
    for step in range(steps):
        probs = torch.randn(4, 6, 77).softmax(-1)
        before = probs.clone()
        reference(probs, True, "down")
        ours = edited_maps(before[2], before[3], compiled.cross_at(step))
        torch.testing.assert_close(ours, probs[3], atol=1e-6, rtol=0)
        assert torch.equal(probs[:3], before[:3])  # the unconditional half and the source stay as they are
        total += torch.stack([before[2], ours])
        square = torch.randn(4, 6, 6).softmax(-1)
        own = square.clone()
        reference(square, False, "down")
        assert torch.equal(square[3], own[2] if compiled.injects_self(step) else own[3])
        reference.end_of_step()
    stored = next(maps for (_, is_cross, _), maps in reference.sums.items() if is_cross)
    torch.testing.assert_close(stored[:, 0], total, atol=1e-5, rtol=0)


BLENDS = {
    "stable": (("squirrel", "lion"), None, 0.6),
    "lists": ((["squirrel", "burger"], "lion"), None, (0.5, 0.7)),
    "substruct": (("squirrel", "lion"), ("burger", ["eating", "burger"]), (0.55, 0.7)),
    "three": (("squirrel", "lion", ["lasagne"]), ("burger", "burger", "eating"), (0.5, 0.6)),
    "absent": (("squirrel", "zebra"), None, 0.5),
}


@pytest.mark.parametrize("case", BLENDS)
def test_local_blend_of_any_number_of_prompts(case):
    words, substruct, threshold = BLENDS[case]
    behaviour = "reference_stable" if case == "stable" else "reference_null"
    source = "A painting of a squirrel eating a burger"
    prompts = [source, source.replace("squirrel", "lion"), source.replace("burger", "lasagne")][: len(words)]
    torch.manual_seed(1)
    maps = torch.rand(len(prompts), 5, 16, 16, 77) ** 8  # spread out, so that masks are neither empty nor full
    pair = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    mask = naive.blend_mask(maps, naive.selection(TOKENIZER, prompts, words), (32, 48), pair[0], True)
    mask = mask[:1] | mask
    if substruct:
        gone = naive.blend_mask(maps, naive.selection(TOKENIZER, prompts, substruct), (32, 48), pair[1], False)
        mask = mask & ~(gone[:1] | gone)
    blend = LocalBlend(words, substruct_words=substruct, threshold=threshold)
    blender = compile_blend(blend, TOKENIZER, prompts, 10, behaviour)
    ours = blender.masks(maps.mean(1)[:, None], (32, 48))
    assert torch.equal(ours[:, 0], mask) and 0 < mask.float().mean() < 1
    assert blender.first_step == (0 if case == "stable" else 2)
    latents = torch.randn(len(prompts), 4, 32, 48)
    expected = latents[:1] + mask.float() * (latents - latents[:1])
    assert torch.equal(mix(latents, ours), expected)


@pytest.mark.parametrize(
    ("blend", "message"),
    [
        (LocalBlend(["squirrel", "lion"], substruct_words=["a", "a"]), "no substruct_words"),
        (LocalBlend(["squirrel", "lion"], threshold=(0.3, 0.3)), "one threshold"),
        (LocalBlend(["squirrel", "lion"], start=0.2), "from the first step"),
        (LocalBlend(["squirrel", "lion", "lion"]), "one target only"),
    ],
)
def test_the_first_notebook_has_no_such_blend(blend, message):
    prompts = ["a squirrel", *["a lion"] * (len(blend.words) - 1)]
    with pytest.raises(ValueError, match=message):
        compile_blend(blend, TOKENIZER, prompts, 10, "reference_stable")


def sample(pipe, prompts, noise, steps, **options):
    trace = []

    def keep(pipe, step, timestep, given):
        trace.append(given["latents"].clone())
        return {}

    pipe(
        prompts, latents=noise.repeat(len(prompts), 1, 1, 1), num_inference_steps=steps, guidance_scale=7.5,
        output_type="latent", callback_on_step_end=options.pop("after", keep), **options,
    )  # fmt: skip
    return trace


def sample_naively(pipe, prompts, edits, noise, steps, behaviour, blend=None):
    """The whole sampling with every map formed; blend is (words, substruct_words, thresholds, start)."""
    control, trace, masks = controller(edits, prompts, steps, behaviour), [], []

    def after(pipe, step, timestep, given):
        control.end_of_step()
        latents = given["latents"]
        if blend and step >= int(blend[3] * steps):
            maps, size = control.blend_maps(), latents.shape[-2:]
            mask = naive.blend_mask(maps, naive.selection(TOKENIZER, prompts, blend[0]), size, blend[2][0], True)
            mask = mask[:1] | mask
            if blend[1]:
                gone = naive.selection(TOKENIZER, prompts, blend[1])
                gone = naive.blend_mask(maps, gone, size, blend[2][1], False)
                mask = mask & ~(gone[:1] | gone)
            masks.append(mask)
            latents = latents[:1] + mask.float() * (latents - latents[:1])
        trace.append(latents.clone())
        return {"latents": latents}

    original = dict(pipe.unet.attn_processors)
    pipe.unet.set_attn_processor(
        {name: naive.NaiveAttention(control, place_of(name), ".attn2." in name) for name in original}
    )
    try:
        sample(pipe, prompts, noise, steps, after=after)
    finally:
        pipe.unet.set_attn_processor(original)
    return trace, masks


SOURCE = "A painting of a squirrel eating a burger"
LION, LASAGNE = SOURCE.replace("squirrel", "lion"), SOURCE.replace("burger", "lasagne")
WINDOWS = {"cross_replace_steps": {"default_": 0.9, "lion": (0.2, 0.6)}, "self_replace_steps": (0.2, 0.8)}


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", pytest.param("PNDMScheduler", marks=pytest.mark.slow)])
@pytest.mark.parametrize("edits", [
    [Replace(LASAGNE, **WINDOWS), Replace(LION, **WINDOWS)],
    [Refine("charcoal painting of a squirrel", **WINDOWS), Refine(LION + " on a table", **WINDOWS)],
    [Reweight(LASAGNE, {"lasagne": 3.0, "eating": -1.0}, over=Replace(LASAGNE), **WINDOWS)],
    [Reweight(LION, {"lion": 0.0}, **WINDOWS)],
], ids=["replace", "refine", "reweight-over-replace", "reweight"])  # fmt: skip
def test_whole_samplings(tiny_sd, edits, scheduler):
    """The fused path through the pipeline against every map formed; PNDM evaluates the UNet once more than asked."""
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(
        pipe.scheduler.config, **({"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {})
    )
    pipe.set_progress_bar_config(disable=True)
    compare(pipe, edits, seeded_latents([0], (4, 8, 8)), 5, "reference_stable")


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", REFERENCES)
def test_whole_samplings_with_local_blend(tiny_pipe, behaviour):
    """At 32x32 latents, where the two notebooks inject self-attention at different resolutions."""
    edits, blend = [Replace(LION, **WINDOWS)], (["squirrel", "lion"], None, (0.8, 0.8), 0.0)
    if behaviour == "reference_null":
        edits = [*edits, Replace(LASAGNE, **WINDOWS)]
        blend = (["squirrel", "lion", "lasagne"], ["a", ["a"], "painting"], (0.75, 0.9), 0.2)
    compare(tiny_pipe, edits, seeded_latents([0], (4, 32, 32)), 5, behaviour, blend)


def compare(pipe, edits, noise, steps, behaviour, blend=None):
    prompts = [SOURCE, *(edit.target_prompt for edit in edits)]
    expected, masks = sample_naively(pipe, prompts, edits, noise, steps, behaviour, blend)
    options = {}
    if blend:
        words, gone, threshold, start = blend
        threshold = threshold[0] if behaviour == "reference_stable" else threshold
        options["local_blend"] = LocalBlend(words, substruct_words=gone, threshold=threshold, start=start)
    ours = []

    def keep(pipe, step, timestep, given):
        ours.append(given["latents"].clone())
        return {}

    with prompt_to_prompt(pipe, SOURCE, edits, behaviour=behaviour, callback_on_step_end=keep, **options) as p2p:
        pipe(**p2p.inputs, latents=p2p.latents(noise), num_inference_steps=steps, output_type="latent")
    assert len(ours) == len(expected)
    torch.testing.assert_close(ours[0], expected[0], atol=2e-4, rtol=0)
    torch.testing.assert_close(ours[-1], expected[-1], atol=1e-3, rtol=0)
    plain = sample(pipe, prompts, noise, steps)
    assert (plain[-1][1:] - expected[-1][1:]).abs().max() > 0.02
    torch.testing.assert_close(ours[-1][0], plain[-1][0], atol=1e-3, rtol=0)
    for index, mask in enumerate(masks):
        assert torch.equal(p2p.masks.control.masks[index][:, 0], mask)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 51])
def test_self_windows_truncate_the_float_product(steps):
    for hundredth in range(101):
        share = hundredth / 100
        assert self_window(share, steps, "reference_null") == (0, int(steps * share))
        assert self_window(share, steps) == (0, hundredth * steps // 100)
