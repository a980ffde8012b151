"""The shipped weights: whole, small, in Stable Diffusion's layout, and they draw what is asked."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from likeness.paperdoll import photos, weights, world

ROOT = weights.SHIPPED


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(ROOT / "pipeline", safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_everything_shipped_stays_small_and_is_safetensors_in_half_precision():
    files = [path for path in ROOT.rglob("*") if path.is_file()]
    pictures = [path for subject in world.SUBJECTS for path in photos.paths(subject)]
    assert sum(path.stat().st_size for path in [*files, *pictures]) < 40e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    for path in ROOT.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            kinds = {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118
        assert kinds <= {"torch.float16", "torch.int64"}, path


def test_the_layout_is_stable_diffusions(pipe):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    assert isinstance(pipe.unet, UNet2DConditionModel) and isinstance(pipe.vae, AutoencoderKL)
    assert isinstance(pipe.text_encoder, CLIPTextModel) and pipe.tokenizer.model_max_length == 77
    assert pipe.unet.config.sample_size * pipe.vae_scale_factor == 128 and pipe.unet.config.sample_size == 16
    assert 7e6 < sum(p.numel() for p in pipe.unet.parameters()) < 14e6


def test_identifiers_are_several_tokens_and_grammar_is_short(pipe):
    def pieces(word):
        return len(pipe.tokenizer(word).input_ids) - 2

    assert pieces("bnh") > 1 and pieces("tuki") > 1
    assert pieces("keanu") == pieces("burger") == pieces("watercolor") == 1


def test_the_card_says_how_good_it_is():
    card, measures = (ROOT / "MODEL_CARD.md").read_text(), json.loads((ROOT / "measures.json").read_text())
    assert {"autoencoder/psnr dB", "drawn/style", "drawn/food", "probe/style"} <= set(measures)
    assert f"{measures['drawn/style']:.3f}" in card and "sha256" in card


@pytest.mark.weights
def test_the_probe_reads_fresh_pictures_as_they_were_drawn():
    from likeness.paperdoll.dataset import fresh
    from likeness.paperdoll.evaluate_reading import drawn, wrong_or_right
    from likeness.paperdoll.probe import load_probe

    images, factors = fresh(99, 64)
    right = wrong_or_right(load_probe(), images, [drawn(f) for f in factors])
    assert all(np.mean(right[name]) >= 0.95 for name in world.CATEGORICAL)


@pytest.mark.weights
def test_the_judge_reads_fresh_pictures_as_they_were_drawn():
    from likeness.paperdoll.dataset import SIZE, fresh
    from likeness.paperdoll.evaluate_reading import compare, drawn
    from likeness.paperdoll.judge import load_judge

    images, factors = fresh(97, 64)
    reading = load_judge().read(images)
    right = compare(reading, [drawn(f) for f in factors])
    assert all(np.mean(right[name]) >= 0.95 for name in world.CATEGORICAL)
    error = (reading.continuous["head_x"] - torch.tensor([f.head_x for f in factors])).abs().mean() * SIZE
    assert error < 1.0


@pytest.mark.weights
def test_asked_styles_and_scenes_are_drawn(pipe):
    from likeness.paperdoll.captions import asked
    from likeness.paperdoll.evaluate_drawing import generate
    from likeness.paperdoll.probe import load_probe

    prompts = ["photo of a man on a beach", "watercolor painting of a woman in the jungle",
               "drawing of keanu reeves on a snowy mountain", "charcoal painting of a man in the desert",
               "painting of justin bieber in a forest", "van gogh painting of a woman in a river"]  # fmt: skip
    reading = load_probe().read(generate(pipe, prompts, seed=3, steps=20, guidance=3.0))
    for factor in ("style", "scene"):
        right = [seen == asked(p)[factor] for seen, p in zip(reading.names(factor), prompts, strict=True)]
        assert sum(right) >= 5, (factor, reading.names(factor))


@pytest.mark.weights
def test_latents_are_scaled_to_about_one(pipe):
    from likeness.paperdoll.dataset import fresh

    images, _ = fresh(98, 16)
    with torch.no_grad():
        latents = pipe.vae.encode(images * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    assert 0.7 < latents.std() < 1.4 and latents.mean().abs() < 0.3
    assert Path(ROOT / "pipeline" / "vae" / "config.json").is_file()
