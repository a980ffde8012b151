"""Prompt-to-Prompt on a real, tiny pipeline: what is kept, what changes, what is refused, what is put back."""

import pytest
import torch
from p2p_drawing import LASAGNE, SOURCE, STEPS, TARGET, attention_of, close, draw, noise, pictures_of, plain, tiny_xl

from likeness.prompt_to_prompt import LocalBlend, Refine, Replace, Reweight, prompt_to_prompt
from likeness.prompt_to_prompt.blend import Blender
from likeness.prompt_to_prompt.edits import compile_edit, edited_maps
from likeness.prompt_to_prompt.processor import split_heads


def test_an_identity_edit_is_plain_sampling_and_an_edit_is_not(pipe):
    start = noise(0)
    (source, same, other), _ = draw(pipe, [Replace(SOURCE), Replace(TARGET)], start)
    close(source, plain(pipe, SOURCE, start))
    close(same, source)
    assert (other - source).abs().max() > 0.05
    assert (other - plain(pipe, TARGET, start)).abs().max() > 0.05


def test_an_image_depends_on_its_seed_alone(pipe):
    (source, edited), _ = draw(pipe, [Replace(TARGET)], noise(3, 7, 11))
    (one_source, one_edited), _ = draw(pipe, [Replace(TARGET)], noise(7))
    assert torch.equal(noise(3, 7, 11)[1], noise(7)[0])
    close(source[1:2], one_source)
    close(edited[1:2], one_edited)
    assert (edited[0] - edited[1]).abs().max() > 0.1
    together, alone = (pictures_of(pipe, latents) for latents in (edited[1:2], one_edited))
    close(together, alone, atol=1e-4)  # of [0, 1]


def test_targets_do_not_influence_one_another(pipe):
    start = noise(5)
    edits = [
        Replace(TARGET, self_replace_steps=0.5),
        Refine("charcoal painting of a squirrel eating a burger", cross_replace_steps=0.5),
        Reweight(None, {"burger": -2.0}),
    ]
    together, _ = draw(pipe, edits, start)
    for index, edit in enumerate(edits):
        (_, alone), _ = draw(pipe, [edit], start)
        close(together[1 + index], alone)


@pytest.mark.parametrize("weight", [0.0, -2.0, 4.0])
def test_reweighting_changes_the_picture(pipe, weight):
    (source, edited), p2p = draw(pipe, [Reweight(None, {"burger": weight})], noise(1))
    assert (edited - source).abs().max() > 0.01 and not p2p.notices
    (source, same), p2p = draw(pipe, [Reweight(None, {"burger": 1.0})], noise(1))
    close(same, source)
    assert "nothing is re-weighted" in p2p.notices[0]


@pytest.mark.parametrize("edit", [
    Replace(TARGET, cross_replace_steps={"default_": 1.0, "lion": 0.2}),
    Replace(LASAGNE, cross_replace_steps=(0.2, 0.9)),
    Refine("charcoal painting of a squirrel eating a burger"),
    Reweight(TARGET, {"lion": 3.0, "eating": 0.0}, over=Replace(TARGET)),
    Reweight("a cat sitting", {"cat": -1.0}, over=Refine("a cat sitting")),
])  # fmt: skip
def test_the_fused_path_equals_edited_maps_times_values(pipe, edit, monkeypatch):
    """Layer by layer: softmax(QK) edited as defined, times V, against what the processor returns."""
    from likeness.prompt_to_prompt import processor

    compiled = compile_edit(edit, pipe.tokenizer, SOURCE, STEPS, STEPS, "corrected")
    original, worst, seen = processor.EditedAttention._cross, [], []

    def compare(self, attn, query, key, value, mask):
        maps = ((split_heads(attn, query) * attn.scale) @ split_heads(attn, key).transpose(-1, -2)).softmax(-1)
        values, (source, target) = split_heads(attn, value), (self.control.rows(0), self.control.rows(1))
        edited = edited_maps(maps[source], maps[target], compiled.cross[self.control.step])
        expected = (edited @ values[target]).transpose(1, 2).flatten(2)
        out = original(self, attn, query, key, value, mask)
        worst.append(float((out[target] - expected).abs().max()))
        seen.append(float((edited - maps[target]).abs().max()))
        return out

    monkeypatch.setattr(processor.EditedAttention, "_cross", compare)
    draw(pipe, [edit], noise(2))
    assert max(worst) < 1e-5 and max(seen) > 0.01


def test_processors_come_back_after_the_windows_and_after_an_exception(pipe):
    def snapshot():
        return {name: type(processor).__name__ for name, processor in pipe.unet.attn_processors.items()}

    before, during = snapshot(), []

    def look(pipe, step, timestep, given):
        during.append("EditedAttention" in snapshot().values())
        if step == 2 and fail:
            raise RuntimeError("stop")
        return {}

    fail = False
    draw(pipe, [Replace(TARGET, cross_replace_steps=0.5, self_replace_steps=0.5)], noise(0), callback_on_step_end=look)
    assert during == [True, False, False, False] and snapshot() == before
    fail = True
    with pytest.raises(RuntimeError, match="stop"):
        draw(pipe, [Replace(TARGET)], noise(0), callback_on_step_end=look)
    assert snapshot() == before and not pipe.unet._forward_pre_hooks


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
def test_any_size_with_and_without_guidance(pipe, guidance, size):
    start = noise(4, size=size)
    blend = LocalBlend(["squirrel", "lion"], threshold=0.6)
    options = {"local_blend": blend, "store_attention": True, "guidance": guidance}
    (source, edited), p2p = draw(pipe, [Replace(TARGET)], start, **options)
    close(source, plain(pipe, SOURCE, start, guidance))
    assert (edited - source).abs().max() > 0.01
    assert p2p.attention_maps.word("lion", prompt=1).shape == size == tuple(p2p.masks.last().shape)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_maps_are_the_probabilities_of_the_layers_at_one_resolution(pipe, guidance):
    """Against maps formed while each prompt is drawn alone; of a target that takes the source's, the source's."""
    start, options = noise(4, size=(8, 12)), {"store_attention": True, "guidance": guidance}
    own = Replace(TARGET, cross_replace_steps=0.0, self_replace_steps=1.0)  # at no layer, by the limit
    _, p2p = draw(pipe, [own], start, self_replace_resolution=1, **options)
    for prompt, text, word in ((0, SOURCE, "squirrel"), (1, TARGET, "lion")):
        expected = attention_of(pipe, text, start, guidance, pixels=8 * 12).unflatten(0, (8, 12))
        position = expected[..., text.split().index(word) + 1]
        torch.testing.assert_close(p2p.attention_maps.word(word, prompt=prompt), position, atol=1e-5, rtol=0)
        assert position.std() > 1e-4
    _, p2p = draw(pipe, [Replace(TARGET, cross_replace_steps=1.0)], start, **options)
    assert torch.equal(p2p.attention_maps.word("lion", prompt=1), p2p.attention_maps.word("squirrel"))


def test_negative_prompts_reach_the_pipeline(pipe):
    start = noise(4)
    (source, _), _ = draw(pipe, [Replace(TARGET)], start, negative_prompt="burger")
    close(source, plain(pipe, SOURCE, start, negative_prompt=["burger"]))
    assert (source - plain(pipe, SOURCE, start)).abs().max() > 0.01


SCHEDULERS = (
    "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler",
    "UniPCMultistepScheduler", "LMSDiscreteScheduler",
)  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_solvers_with_memory_keep_the_source_where_the_mask_is_empty(pipe, name, monkeypatch):
    """Two steps with an empty mask leave a target nothing of its own: drawn on as the source, it is the source.

    Its UNet saw another prompt in these steps, so what the solver remembers of them is another's.
    """
    import diffusers

    def masks(blender, maps, size):
        kept.append(torch.full((2, 1, 1, *size), len(kept) >= 2))
        return kept[-1]

    def one_prompt(pipe, step, timestep, given):
        if step == 1:
            given["prompt_embeds"][3] = given["prompt_embeds"][2]
        return {}

    kept, original = [], pipe.scheduler
    pipe.scheduler = getattr(diffusers, name).from_config(original.config)
    monkeypatch.setattr(Blender, "masks", masks)
    edit = Replace(TARGET, cross_replace_steps=0.25, self_replace_steps=0.0)
    blend = LocalBlend(["squirrel", "lion"], start=0.0)
    try:
        start = noise(6)
        with prompt_to_prompt(pipe, SOURCE, [edit], local_blend=blend, callback_on_step_end=one_prompt) as p2p:
            inputs = p2p.inputs | {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
            source, target = pipe(
                **inputs, latents=p2p.latents(start), num_inference_steps=STEPS, guidance_scale=5.0,
                output_type="latent",
            ).images  # fmt: skip
        assert len(kept) >= STEPS
        close(source[None], plain(pipe, SOURCE, start), atol=1e-3)
        close(target, source)
        (source, edited), _ = draw(pipe, [Replace(TARGET)], start)
        assert (edited - source).abs().max() > 0.01
    finally:
        pipe.scheduler = original


def test_an_empty_mask_returns_the_source_and_is_said(pipe):
    blend = LocalBlend(["squirrel", "lion"], threshold=1.0, start=0.0)
    (source, kept), p2p = draw(pipe, [Replace(TARGET)], noise(6), local_blend=blend)
    close(kept, source, atol=1e-5)
    assert any("is empty: the source is returned" in notice for notice in p2p.notices)


@pytest.mark.parametrize("listed", [False, True])
def test_source_and_targets_share_the_noise_that_ddim_draws_with_eta(pipe, listed):
    """An identity edit stays the source, and the source plain sampling, though every step adds noise."""

    def generators(count):
        one = torch.Generator().manual_seed(3)
        return [torch.Generator().manual_seed(i) for i in range(count)] if listed else one

    start, step = noise(0, 5), pipe.scheduler.step
    with prompt_to_prompt(pipe, SOURCE, [Replace(SOURCE), Replace(TARGET)], images_per_prompt=2) as p2p:
        latents = pipe(
            **p2p.inputs, latents=p2p.latents(start), num_inference_steps=STEPS, guidance_scale=5.0, eta=0.8,
            generator=generators(6), output_type="latent",
        ).images  # fmt: skip
    source, same, other = p2p.split(latents)
    close(source, plain(pipe, SOURCE, start, eta=0.8, generator=generators(2)))
    close(same, source)
    assert (source - plain(pipe, SOURCE, start)).abs().max() > 0.1 and (other - source).abs().max() > 0.05
    assert pipe.scheduler.step == step


def test_local_blend_keeps_what_lies_outside_the_mask(pipe):
    blend = LocalBlend(["squirrel", ["lion"]], threshold=0.9, start=0.0)
    (source, edited), p2p = draw(pipe, [Replace(TARGET, cross_replace_steps=0.4)], noise(8), local_blend=blend)
    mask = p2p.masks.last()
    assert 0 < mask.float().mean() < 1 and len(p2p.masks) == STEPS
    assert (edited - source)[0, :, ~mask].abs().max() < 1e-5 < (edited - source)[0, :, mask].abs().max()


@pytest.mark.parametrize("weight", [-2.0, 0.0, 5.0])
def test_local_blend_judges_where_a_word_attends_whatever_its_weight(pipe, weight):
    """The re-weighted word takes the source's map, so the source's mask is the target's too."""
    blend = LocalBlend(["burger", "burger"], threshold=0.9, start=0.0)
    options = {"local_blend": blend, "store_attention": True}
    edit = Reweight(None, {"burger": weight}, cross_replace_steps=1.0)
    (source, edited), p2p = draw(pipe, [edit], noise(8), **options)
    maps = p2p.attention_maps
    assert torch.equal(maps.word("burger", prompt=1), maps.word("burger"))
    assert all(torch.equal(p2p.masks.at(step), p2p.masks.at(step, prompt=0)) for step in range(STEPS))
    assert 0 < p2p.masks.last().float().mean() < 1 and (edited - source).abs().max() > 0.01
    charcoal = "charcoal " + SOURCE
    edit = Reweight(charcoal, {"charcoal": weight, "burger": weight}, over=Refine(charcoal), cross_replace_steps=0.5)
    _, p2p = draw(pipe, [edit], noise(8), local_blend=LocalBlend(["burger", "charcoal"], threshold=0.9, start=0.0))
    assert p2p.masks.control.averaged().min() > 0 and len(p2p.masks) == STEPS
    shares = [p2p.masks.at(step).float().mean() for step in range(STEPS)]
    assert all(0 < share < 1 for share in shares)


def test_attention_slicing_before_entering_is_put_back(pipe):
    start = noise(9)
    (_, expected), _ = draw(pipe, [Replace(TARGET)], start)
    pipe.enable_attention_slicing(1)
    try:
        (_, sliced), _ = draw(pipe, [Replace(TARGET)], start)
        assert "Sliced" in type(next(iter(pipe.unet.attn_processors.values()))).__name__
    finally:
        pipe.disable_attention_slicing()
    close(sliced, expected)


def test_a_lora_edits_as_the_merged_model_does(tiny_sd):
    """With the adapter in place and with its weights merged, the same edit gives the same pictures."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig

    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    (base, _), _ = draw(pipe, [Replace(TARGET)], noise(0))
    torch.manual_seed(0)
    pipe.unet.add_adapter(
        LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    (source, edited), _ = draw(pipe, [Replace(TARGET)], noise(0))
    close(source, plain(pipe, SOURCE, noise(0)), atol=5e-3)
    assert (source - base).abs().max() > 0.01 and (edited - source).abs().max() > 0.01
    pipe.fuse_lora()
    (merged_source, merged), _ = draw(pipe, [Replace(TARGET)], noise(0))
    close(merged_source, source, atol=5e-3)
    close(merged, edited, atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tiny_sd, pipe, dtype):
    """An edit rounds no more than plain sampling, and what lies outside of the mask stays exact."""
    from diffusers import StableDiffusionPipeline

    half = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None, torch_dtype=dtype)
    half.set_progress_bar_config(disable=True)
    edits = [Replace(SOURCE), Reweight(TARGET, {"lion": -3}, over=Replace(TARGET), cross_replace_steps=1.0)]
    (source, same, edited), _ = draw(half, edits, noise(0))
    assert source.dtype == dtype and torch.equal(same, source)
    (full_source, _, full), _ = draw(pipe, edits, noise(0))
    rounding, change = (source.float() - full_source).abs().mean(), (full - full_source).abs().mean()
    assert (edited.float() - full).abs().mean() < 1.5 * rounding < change / 2
    blend = LocalBlend(["squirrel", "lion"], threshold=0.9, start=0.0)
    (source, edited), p2p = draw(half, edits[1:], noise(0), local_blend=blend)
    mask = p2p.masks.last()
    assert 0 < mask.float().mean() < 1
    assert torch.equal(edited[..., ~mask], source[..., ~mask]) and not torch.equal(edited, source)


def test_stable_diffusion_xl(tiny_sd):
    pipe = tiny_xl(tiny_sd)
    start = noise(1, 2)
    (source, edited), p2p = draw(pipe, [Replace(TARGET)], start, store_attention=True)
    close(source, plain(pipe, SOURCE, start))
    assert (edited - source).abs().max() > 1e-3
    assert p2p.attention_maps.word("lion", prompt=1, image=1).shape == (4, 4)


@pytest.mark.parametrize(
    ("edit", "options", "message"),
    [
        (Replace("A painting of a lion"), {}, "same number of words"),
        (Reweight(None, {"cake": 2.0}), {}, "'cake'.*is not in the prompt"),
        (Reweight(None, {"burger": float("nan")}), {}, "expected finite numbers"),
        (Reweight(None, {"squirrel eating": (1.0, float("inf"))}), {}, "expected finite numbers"),
        (Reweight(None, {"squirrel eating": (1.0, 2.0, 3.0)}), {}, "3 factors, but the word has 2 tokens"),
        (Replace(TARGET, cross_replace_steps=0.0, self_replace_steps=0.0), {}, "injects nothing"),
        (
            Refine(
                "charcoal " + SOURCE, cross_replace_steps={"default_": 0.0, "charcoal": 1.0}, self_replace_steps=0.0
            ),
            {},
            "injects nothing",
        ),
        (Replace(TARGET, cross_replace_steps=1.5), {}, "expected 0 <= start"),
        (Replace(TARGET), {"local_blend": LocalBlend(["cat", "lion"])}, "'cat'.*LocalBlend"),
        (Replace(TARGET), {"local_blend": LocalBlend(["lion"])}, "one entry for the source"),
        (Replace(TARGET), {"behaviour": "exact"}, "behaviour='exact' is unknown"),
        (Reweight(None, {"burger": 2.0}, cross_replace_steps=0.0), {}, "weights act inside"),
        (Reweight(None, {"burger": 3.0}, cross_replace_steps={"default_": 0.8, "burger": 0.0}), {}, "weights act"),
        (Reweight("a charcoal painting of a squirrel", {"charcoal": 3.0}), {}, "which reads otherwise.*over="),
        (Reweight(TARGET, {"eating": 2.0}, over=Replace(LASAGNE)), {}, "from Replace's target prompt"),
    ],
)
def test_what_cannot_work_is_refused_before_sampling(pipe, edit, options, message):
    with pytest.raises(ValueError, match=message), prompt_to_prompt(pipe, SOURCE, [edit], **options):
        pass


def test_calls_that_would_silently_do_nothing_are_refused(pipe):
    with prompt_to_prompt(pipe, SOURCE, [Replace(TARGET)]) as p2p:
        with pytest.raises(ValueError, match="different noise"):
            pipe(**p2p.inputs, latents=noise(0, 1), num_inference_steps=2, output_type="latent")
        with pytest.raises(ValueError, match=r"p2p\.inputs"):
            pipe([SOURCE, TARGET], latents=p2p.latents(noise(0)), num_inference_steps=3, output_type="latent")
        with pytest.raises(ValueError, match="one noise for each image"):
            p2p.latents(noise(0, 1))
        pipe(**p2p.inputs, latents=p2p.latents(noise(0)), num_inference_steps=2, output_type="latent")
    assert not pipe.unet._forward_pre_hooks


def test_processors_replaced_while_sampling_are_an_error(pipe):
    """Switched on between calls, slicing is put up with; between steps it would silently end the edit."""

    def slice_it(pipe, step, timestep, given):
        if between_steps:
            pipe.enable_attention_slicing(1)
        return {}

    between_steps = False
    try:
        with prompt_to_prompt(pipe, SOURCE, [Replace(TARGET)], callback_on_step_end=slice_it) as p2p:
            options = dict(latents=p2p.latents(noise(0)), num_inference_steps=STEPS, output_type="latent")
            pipe(**p2p.inputs, **options)
            pipe.enable_attention_slicing(1)
            pipe(**p2p.inputs, **options)
            pipe.disable_attention_slicing()
            between_steps = True
            with pytest.raises(ValueError, match="attention processors were replaced while it was active"):
                pipe(**p2p.inputs, **options)
    finally:
        pipe.disable_attention_slicing()
    assert not pipe.unet._forward_pre_hooks
