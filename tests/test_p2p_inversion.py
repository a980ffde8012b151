"""Photos instead of drawn pictures: the way from a photo to noise, and the source that is held to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from p2p_drawing import LASAGNE, SOURCE, STEPS, TARGET, close, noise, tiny_xl
from PIL import Image

from likeness.paperdoll.photos import FOLDER
from likeness.paperdoll.weights import pipeline_dir
from likeness.prompt_to_prompt import LocalBlend, Refine, Replace, Reweight, invert, prompt_to_prompt
from likeness.prompt_to_prompt.inversion import encode
from likeness.subjects import find_photos, load_photos

EDITS = [Replace(TARGET), Refine("charcoal " + SOURCE), Reweight(None, {"burger": 4.0})]


def photos(*seeds, size=(64, 64)):
    """Smooth pictures (n, 3, h, w) in [0, 1]."""
    coarse = [torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.nn.functional.interpolate(torch.cat(coarse), size, mode="bilinear")


@pytest.fixture(scope="module")
def inverted(pipe):
    return invert(pipe, photos(0, 1), SOURCE, num_inference_steps=STEPS)


def draw(pipe, edits, inverted, *, steps=STEPS, guidance=5.0, eta=0.0, latents=None, **options):
    with prompt_to_prompt(pipe, inverted.prompt, edits, inversion=inverted, **options) as p2p:
        drawn = pipe(
            **p2p.inputs, latents=p2p.latents(latents), num_inference_steps=steps, guidance_scale=guidance, eta=eta,
            output_type="latent",
        ).images  # fmt: skip
    return p2p.split(drawn), p2p


@torch.no_grad()
def naive_step(pipe, latents, prompt, timestep, steps):
    """Song et al. 2021, eq. 12 with sigma 0, solved for the noisier side."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    now, then = alphas[max(0, timestep - 1000 // steps)], alphas[timestep]
    ids = pipe.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
    found = pipe.unet(latents, timestep, pipe.text_encoder(ids)[0].repeat(len(latents), 1, 1)).sample
    if pipe.scheduler.config.prediction_type == "v_prediction":
        found = now**0.5 * found + (1 - now) ** 0.5 * latents
    clean = (latents - (1 - now) ** 0.5 * found) / now**0.5
    return then**0.5 * clean + (1 - then) ** 0.5 * found


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_way_is_ddim_gone_backwards(tiny_pipe, prediction):
    tiny_pipe.scheduler = DDIMScheduler.from_config(tiny_pipe.scheduler.config, prediction_type=prediction)
    found = invert(tiny_pipe, photos(3, 4), SOURCE, num_inference_steps=5)
    assert found.latents.shape == (6, 2, 4, 8, 8) and found.timesteps == (801, 601, 401, 201, 1)
    assert torch.equal(found.latents[-1], encode(tiny_pipe, photos(3, 4)))
    for step, timestep in enumerate(found.timesteps):
        expected = naive_step(tiny_pipe, found.latents[step + 1], SOURCE, timestep, 5)
        close(found.latents[step], expected)


def test_plain_sampling_without_guidance_goes_the_way_back():
    """The embedded model and a photo of its world; with guidance the same noise leads elsewhere."""
    pipe = StableDiffusionPipeline.from_pretrained(pipeline_dir(), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    prompt, missed = "photo of a justin bieber", {}
    photo = load_photos(find_photos(FOLDER / "tuki")[:1], 128)
    for steps, guidance in ((10, 1.0), (30, 1.0), (30, 7.5)):
        found = invert(pipe, photo, prompt, num_inference_steps=steps)
        back = pipe(
            prompt, latents=found.noise, num_inference_steps=steps, guidance_scale=guidance, output_type="latent"
        ).images
        missed[steps, guidance] = (back - found.latents[-1]).square().mean().sqrt().item()
    assert missed[30, 1.0] < missed[10, 1.0] / 2 and missed[30, 1.0] < missed[30, 7.5] / 2, missed


def test_the_source_is_the_photo_whatever_the_guidance(pipe, inverted):
    for guidance in (1.0, 7.5):
        (source, *edited), p2p = draw(pipe, EDITS, inverted, guidance=guidance)
        assert torch.equal(source, encode(pipe, photos(0, 1))) and not p2p.notices
        assert all((target - source).abs().max() > 0.01 for target in edited)
    assert len(edited) == 3 and len(source) == 2


def test_targets_see_a_source_that_was_put_back_after_every_step(pipe, inverted):
    """The same by hand: ordinary Prompt-to-Prompt, and a callback that replaces the source's rows."""

    def put_back(_, step, timestep, given):
        return {"latents": torch.cat([inverted.latents[step + 1], given["latents"][2:]])}

    with prompt_to_prompt(pipe, SOURCE, EDITS, images_per_prompt=2, callback_on_step_end=put_back) as by_hand:
        expected = pipe(
            **by_hand.inputs, latents=by_hand.latents(inverted.noise), num_inference_steps=STEPS, guidance_scale=5.0,
            output_type="latent",
        ).images  # fmt: skip
    found, _ = draw(pipe, EDITS, inverted)
    assert torch.equal(torch.cat(list(found)), expected)


def test_a_blend_keeps_the_photo_outside_of_its_mask(pipe, inverted):
    blend = LocalBlend(["burger", "lasagne"], threshold=0.95)
    (source, edited), p2p = draw(pipe, [Replace(LASAGNE)], inverted, local_blend=blend)
    for image in range(2):
        mask = p2p.masks.last(image=image)
        assert 0 < mask.float().mean() < 1
        assert torch.equal(edited[image][:, ~mask], encode(pipe, photos(0, 1))[image][:, ~mask])
        assert not torch.equal(edited[image][:, mask], source[image][:, mask])


def test_each_photo_is_edited_alone_and_callbacks_see_the_photo(pipe, inverted):
    seen = []

    def look(_, step, timestep, given):
        seen.append(given["latents"][:2])
        return {}

    (_, together), _ = draw(pipe, EDITS[:1], inverted, callback_on_step_end=look)
    assert torch.equal(torch.stack(seen), inverted.latents[1:])
    one = replace(inverted, latents=inverted.latents[:, 1:])
    (_, alone), _ = draw(pipe, EDITS[:1], one)
    close(together[1:], alone)
    close(invert(pipe, photos(1), SOURCE, num_inference_steps=STEPS).latents[-2], one.latents[-2])


def test_pictures_of_any_size_in_any_form(pipe):
    tensor = photos(5, size=(64, 96))
    picture = Image.fromarray((tensor[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    found = invert(pipe, [picture], SOURCE, num_inference_steps=2)
    assert found.noise.shape == (1, 4, 8, 12)
    close(found.latents[-1], encode(pipe, tensor), atol=0.05)
    (source, _), _ = draw(pipe, EDITS[:1], found, steps=2)
    assert torch.equal(source, found.latents[-1])


def test_stable_diffusion_xl(tiny_sd):
    """Its UNet is told the picture's size, which has to be the same on both ways."""
    pipe, told = tiny_xl(tiny_sd), []
    pipe.unet.register_forward_pre_hook(
        lambda _, args, given: told.append(given["added_cond_kwargs"]["time_ids"][0].tolist()), with_kwargs=True
    )
    wide = photos(0, 1, size=(64, 96))
    found = invert(pipe, wide, SOURCE, num_inference_steps=STEPS)
    (source, edited), _ = draw(pipe, EDITS[:1], found)
    assert torch.equal(source, encode(pipe, wide)) and (edited - source).abs().max() > 1e-3
    assert all(sizes == [64, 96, 0, 0, 64, 96] for sizes in told) and len(told) == 2 * STEPS


def test_the_pipeline_is_put_back(tiny_pipe, monkeypatch):
    scheduler, processors = tiny_pipe.scheduler, dict(tiny_pipe.unet.attn_processors)
    invert(tiny_pipe, photos(0), SOURCE, num_inference_steps=2)
    assert tiny_pipe.scheduler is scheduler and tiny_pipe.unet.attn_processors == processors
    monkeypatch.setattr(tiny_pipe.unet, "forward", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        invert(tiny_pipe, photos(0), SOURCE, num_inference_steps=2)
    assert tiny_pipe.scheduler is scheduler


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clip_sample": True}, "clip_sample=True cannot invert photos"),
        ({"thresholding": True}, "thresholding=True cannot invert"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=True cannot invert"),
        ({"timestep_spacing": "trailing"}, "timestep_spacing='trailing' cannot invert photos: set 'leading'"),
    ],
)
def test_samplers_that_cannot_be_gone_backwards(tiny_pipe, changed, message):
    tiny_pipe.scheduler = DDIMScheduler.from_config(tiny_pipe.scheduler.config, **changed)
    with pytest.raises(ValueError, match=message):
        invert(tiny_pipe, photos(0), SOURCE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no photos to invert"),
        ([Image.new("RGB", (64, 64)), Image.new("RGB", (64, 96))], r"photos of 2 sizes, .* crop them to one"),
        (Image.new("RGB", (64, 64)), "expected a list of PIL images"),
        (["me.png"], "expected a list of PIL images"),
        (photos(0)[0], r"photos of shape \(3, 64, 64\): expected \(images, 3, h, w\)"),
        (photos(0)[:, :1], "expected .* at least one image"),
        (photos(0)[:0], "at least one image"),
        (photos(0) * 255, "from 0 to 1"),
        ((photos(0) * 255).byte(), "from 0 to 1"),
    ],
)
def test_what_are_no_photos(pipe, given, message):
    with pytest.raises(ValueError, match=message):
        invert(pipe, given, SOURCE)


def test_photos_are_turned_upright_and_to_rgb(pipe):
    picture = Image.fromarray((photos(5, size=(64, 96))[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be seen turned to the right by 90 degrees
    assert torch.equal(encode(pipe, [turned]), encode(pipe, [picture]))
    for mode in ("L", "RGBA", "P"):
        close(encode(pipe, [picture.convert(mode)]), encode(pipe, [picture.convert(mode).convert("RGB")]), atol=0)


def test_where_nothing_can_be_inverted(tiny_pipe):
    with pytest.raises(ValueError, match="num_inference_steps=0: expected at least 1"):
        invert(tiny_pipe, photos(0), SOURCE, num_inference_steps=0)
    with (
        prompt_to_prompt(tiny_pipe, SOURCE, EDITS),
        pytest.raises(ValueError, match="is active on this pipeline's UNet already"),
    ):
        invert(tiny_pipe, photos(0), SOURCE)
    tiny_pipe.scheduler = PNDMScheduler.from_config(tiny_pipe.scheduler.config)
    with pytest.raises(ValueError, match="PNDMScheduler cannot invert photos"):
        invert(tiny_pipe, photos(0), SOURCE)


def test_half_precision(tiny_pipe, recwarn):
    tiny_pipe.to(torch.float16)
    tiny_pipe.vae.register_to_config(force_upcast=True)
    recwarn.clear()
    found = invert(tiny_pipe, photos(0), SOURCE, num_inference_steps=2)
    assert found.latents.dtype == torch.float16 and found.latents.isfinite().all()
    assert tiny_pipe.vae.dtype == torch.float16 and not recwarn.list
    exact = tiny_pipe.to(torch.float32)
    close(found.latents[-1].float(), encode(exact, photos(0)), atol=2e-2)


def test_what_does_not_fit_the_inversion(tiny_pipe):
    found = invert(tiny_pipe, photos(0, 1), SOURCE, num_inference_steps=STEPS)
    with pytest.raises(ValueError, match=r"inverted in 4 steps from timestep 751, and are drawn in 8 from 876: give"):
        draw(tiny_pipe, EDITS, found, steps=8)
    with pytest.raises(ValueError, match=r"pass latents=p2p.latents\(\)"):
        draw(tiny_pipe, EDITS, found, latents=noise(0, 1))
    with pytest.raises(ValueError, match="draws noise, which an inverted photo does not hold"):
        draw(tiny_pipe, EDITS, found, eta=0.5)
    with pytest.raises(ValueError, match="images_per_prompt=3, for 2 inverted photos"):
        draw(tiny_pipe, EDITS, found, images_per_prompt=3)
    with (
        pytest.raises(ValueError, match=r"were inverted as 'A painting of a squirrel .* and the source is 'a cat'"),
        prompt_to_prompt(tiny_pipe, "a cat", [Refine("a big cat")], inversion=found),
    ):
        pass
    with (
        prompt_to_prompt(tiny_pipe, SOURCE, EDITS) as p2p,
        pytest.raises(ValueError, match=r"p2p.latents\(noise\): only inverted photos have theirs"),
    ):
        p2p.latents()
    config = tiny_pipe.scheduler.config
    for other in ({"beta_end": 0.02}, {"set_alpha_to_one": True}):
        tiny_pipe.scheduler = DDIMScheduler.from_config(config, **other)
        with pytest.raises(ValueError, match="noise levels are not those the photos were inverted with"):
            draw(tiny_pipe, EDITS, found)
    tiny_pipe.scheduler = PNDMScheduler.from_config(config)
    with pytest.raises(ValueError, match="PNDMScheduler cannot invert photos"):
        draw(tiny_pipe, EDITS, found)
