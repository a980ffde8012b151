"""Ours against numbers measured on the reference implementation, in its two behaviours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_unet import need_the_same_weights, random_unet
from transformers import CLIPTokenizer

from likeness.prompt_to_prompt import LocalBlend, Refine, Replace, Reweight, prompt_to_prompt
from likeness.prompt_to_prompt.alignment import refine_mapper, replace_mapper
from likeness.prompt_to_prompt.blend import compile_blend, mix, region
from likeness.prompt_to_prompt.control import Control, Layer
from likeness.prompt_to_prompt.edits import compile_edit, edited_maps, equalizer
from likeness.prompt_to_prompt.plugin import REFERENCE_LIMITS
from likeness.prompt_to_prompt.schedule import cross_alphas, self_window
from likeness.prompt_to_prompt.words import reference_indices

GOLDEN = Path(__file__).parent / "golden"

SEQ, SEQ_ARRAYS = json.loads((GOLDEN / "seq.json").read_text()), np.load(GOLDEN / "seq.npz")
CTRL, CTRL_ARRAYS = json.loads((GOLDEN / "ctrl.json").read_text()), np.load(GOLDEN / "ctrl.npz")
BLEND_ARRAYS = np.load(GOLDEN / "blend.npz")
LB, LB_ARRAYS = json.loads((GOLDEN / "lb.json").read_text()), np.load(GOLDEN / "lb.npz")
E2E, E2E_ARRAYS = json.loads((GOLDEN / "e2e.json").read_text()), np.load(GOLDEN / "e2e.npz")
BEHAVIOUR = {"stable": "reference_stable", "null": "reference_null"}


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(GOLDEN / "pipe" / "tokenizer")


def tuples(value):
    """JSON made lists of the windows."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def by_id(cases):
    return pytest.mark.parametrize("case", cases, ids=[case["id"] for case in cases])


@by_id(SEQ["pairs"])
def test_mappers(case, tokenizer):
    source, target = case["prompts"]
    if case["replace"]["error"]:
        counts = "same number of words" if "same length" in case["replace"]["error"] else "look-up"
        with pytest.raises(ValueError, match=counts):
            replace_mapper(tokenizer, source, target, "reference_stable")
    else:
        expected = SEQ_ARRAYS[case["replace"]["key"]][0]
        np.testing.assert_array_equal(replace_mapper(tokenizer, source, target, "reference_stable"), expected)
    if case["refine"]["error"]:
        with pytest.raises(ValueError, match="77"):
            refine_mapper(tokenizer, source, target, "reference_null")
    else:
        mapper, alphas = refine_mapper(tokenizer, source, target, "reference_null")
        np.testing.assert_array_equal(mapper, SEQ_ARRAYS[case["refine"]["mapper_key"]][0])
        np.testing.assert_array_equal(alphas, SEQ_ARRAYS[case["refine"]["alphas_key"]][0])


@by_id(SEQ["alphas"])
def test_alphas(case, tokenizer):
    windows = tuples(case["cross_replace_steps"])
    if case["error"]:
        with pytest.raises(ValueError, match="cross_replace_steps"):
            cross_alphas(tokenizer, case["prompts"][1], windows, case["num_steps"], "reference_stable")
        return
    expected = SEQ_ARRAYS[case["key"]][:, :, 0, 0]
    for row, target in enumerate(case["prompts"][1:]):
        ours = cross_alphas(tokenizer, target, windows, case["num_steps"], "reference_stable")
        np.testing.assert_array_equal(ours, expected[:, row])


def weights_of(words, values, flavour):
    """Weights by word: "stable" gives all its values to every word, one or as many as the word has tokens."""
    return dict(zip(words, [values] * len(words) if flavour == "stable" else values, strict=False))


@by_id(SEQ["equalizers"])
def test_equalizers(case, tokenizer):
    words = [case["word_select"]] if isinstance(case["word_select"], str) else case["word_select"]
    weights, behaviour = weights_of(words, case["values"], case["flavour"]), BEHAVIOUR[case["flavour"]]
    if case["error"]:
        with pytest.raises(ValueError):
            equalizer(tokenizer, case["text"], weights, behaviour)
        return
    ours = equalizer(tokenizer, case["text"], weights, behaviour)
    for row in SEQ_ARRAYS[case["key"]]:
        np.testing.assert_array_equal(ours, row)


@pytest.mark.parametrize("case", SEQ["word_inds"], ids=lambda case: f"{case['text']}: {case['word_place']}")
def test_word_look_ups(case, tokenizer):
    if case["error"]:
        with pytest.raises(ValueError, match="cannot look up"):
            reference_indices(tokenizer, case["text"], case["word_place"])
    else:
        assert reference_indices(tokenizer, case["text"], case["word_place"]) == case["inds"]


@pytest.mark.parametrize("case", CTRL["self_windows"], ids=str)
def test_self_windows(case):
    window = tuples(case["self_replace_steps"])
    assert list(self_window(window, case["num_steps"], "reference_stable")) == case["num_self_replace"]


@pytest.mark.parametrize("case", CTRL["self_replace_thresholds"], ids=str)
def test_self_attention_limits(case, tokenizer):
    edit = compile_edit(Replace("a dog", self_replace_steps=1.0), tokenizer, "a cat", 5, 5, "reference_null")
    control = Control([edit], self_limit=REFERENCE_LIMITS[BEHAVIOUR[case["flavour"]]])
    control.begin(2, True, (64, 64), frozenset())
    layer = Layer("any", "down", is_cross=False, level=0)
    assert control.acts_on(layer, case["query_tokens"]) == case["self_replaced"]


def edits_of(case):
    windows = {name: tuples(case[name]) for name in ("cross_replace_steps", "self_replace_steps")}
    kinds = {"replace": Replace, "refine": Refine}
    edits = []
    for target in case["prompts"][1:]:
        if case["kind"] in kinds:
            edits.append(kinds[case["kind"]](target, **windows))
        else:
            weights = weights_of(*case["equalizer"], case["flavour"])
            over = kinds[case["over"]](target, **windows) if case["over"] else None
            edits.append(Reweight(target, weights, over=over, **windows))
    return edits


@by_id([case for case in CTRL["cases"] if case["kind"] != "store"])
def test_edited_maps(case, tokenizer):
    heads, count, steps = CTRL["heads"], case["B"], CTRL["num_steps"]
    behaviour = BEHAVIOUR[case["flavour"]]
    compiled = [compile_edit(edit, tokenizer, case["prompts"][0], steps, steps, behaviour) for edit in edits_of(case)]
    changed = 0.0
    for step in range(steps):
        for index, layer in enumerate(CTRL["layers"]):
            maps = torch.from_numpy(CTRL_ARRAYS[f"in_B{count}_s{step}_l{index}"])[count * heads :]
            maps = maps.unflatten(0, (count, heads))
            expected = torch.from_numpy(CTRL_ARRAYS[f"out_{case['id']}_s{step}_l{index}"]).unflatten(0, (-1, heads))
            for row, edit in enumerate(compiled):
                if layer["is_cross"]:
                    ours = edited_maps(maps[0], maps[row + 1], edit.cross[step])
                else:
                    ours = maps[0] if edit.injects_self(step) else maps[row + 1]
                torch.testing.assert_close(ours, expected[row], atol=1e-6, rtol=0)
                changed = max(changed, float((ours - maps[row + 1]).abs().max()))
    assert changed > 0.01


def blend_of(words, options):
    """A LocalBlend from the names that the two notebooks give its options."""
    return LocalBlend(
        words, substruct_words=options.get("substruct_words"),
        threshold=options.get("th", options.get("threshold", 0.3)), start=options.get("start_blend"),
    )  # fmt: skip


@by_id(CTRL["blend"]["cases"])
def test_local_blend_alone(case, tokenizer):
    count = len(case["prompts"])
    maps = torch.stack([torch.from_numpy(BLEND_ARRAYS[f"maps_B{count}_{i}"]) for i in range(5)]).mean(0)
    maps = maps.unflatten(1, (16, 16)).unsqueeze(1)
    options = case["kwargs"]
    blend, steps = blend_of(case["words"], options), case["num_steps_global"]
    if case["error"]:
        with pytest.raises(ValueError):
            compile_blend(blend, tokenizer, case["prompts"], steps, BEHAVIOUR[case["flavour"]])
        return
    blender = compile_blend(blend, tokenizer, case["prompts"], steps, BEHAVIOUR[case["flavour"]])
    assert blender.first_step == case["start_blend_calls_skipped"]
    latents = torch.from_numpy(BLEND_ARRAYS[f"x_B{count}"])
    values = region(maps, blender.selected, (64, 64), pool=True)[:, 0]
    torch.testing.assert_close(
        values, torch.from_numpy(BLEND_ARRAYS[f"maskvalue_{case['id']}"]), atol=1e-6, rtol=0, equal_nan=True
    )
    for call in range(case["calls"]):
        expected = torch.from_numpy(BLEND_ARRAYS[f"y_{case['id']}_{call}"])
        ours = mix(latents, blender.masks(maps, (64, 64))) if call >= blender.first_step else latents
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def sampled(pipe, case, noise, expected, **options):
    """Draw a case, hold its latents after the first and the last step against the golden ones, return the context."""
    trace = []

    def keep(pipe, step, timestep, given):
        trace.append(given["latents"].clone().cpu())
        return {}

    with prompt_to_prompt(
        pipe, case["prompts"][0], edits_of(case), behaviour=BEHAVIOUR[case["flavour"]],
        callback_on_step_end=keep, **options,
    ) as p2p:  # fmt: skip
        pipe(
            **p2p.inputs, latents=p2p.latents(noise), num_inference_steps=case["num_inference_steps"],
            guidance_scale=case["guidance_scale"], output_type="latent",
        )  # fmt: skip
    torch.testing.assert_close(trace[0], torch.from_numpy(expected[0]), atol=2e-4, rtol=0)
    torch.testing.assert_close(trace[-1], torch.from_numpy(expected[-1]), atol=1e-3, rtol=0)
    return p2p


@by_id([case for case in E2E["cases"] if case["kind"] != "none"])
def test_whole_sampling(case, tiny_pipe):
    """A UNet of four levels, as Stable Diffusion 1.x has: 32 attention calls a step, maps of 1024 to 16 queries."""
    tiny_pipe.unet = random_unet("unet_4_levels")
    need_the_same_weights("unet_4_levels", tiny_pipe.unet)
    sampled(tiny_pipe, case, torch.from_numpy(E2E_ARRAYS["x_T"]), E2E_ARRAYS[case["key"]])
    assert tiny_pipe.scheduler.timesteps.tolist() == case["timesteps"]


@by_id(LB["cases"])
def test_whole_sampling_with_local_blend(case, tiny_pipe):
    need_the_same_weights("unet_3_levels", tiny_pipe.unet)
    blend = blend_of(case["local_blend"]["words"], case["local_blend"])
    p2p = sampled(tiny_pipe, case, torch.from_numpy(LB_ARRAYS["x_T"]), LB_ARRAYS[case["key"]], local_blend=blend)
    masks = np.unpackbits(LB_ARRAYS[case["mask_key"]])[: np.prod(case["mask_shape"])].reshape(case["mask_shape"])
    got = torch.stack([mask[:, 0] for mask in p2p.masks.control.masks])
    np.testing.assert_array_equal(got.numpy(), masks.astype(bool))
