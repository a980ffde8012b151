"""Attention health: the reader attends as diffusers does, is taken off again, and the numbers mean what they say."""

import contextlib

import pytest
import tiny_dreambooth as tiny
import torch

from likeness.dreambooth.batches import Batches
from likeness.dreambooth.health import shape_of, token_positions, word_maps
from likeness.dreambooth.setup import training_scheduler
from likeness.dreambooth.validation import Validation
from likeness.models import load_pipeline


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline(tiny.source(tiny.root() / "model"))


def test_reading_maps_changes_nothing_and_is_undone(pipe):
    inputs = torch.randn(2, 4, 16, 16), torch.tensor([3, 700]), torch.randn(2, 77, 16)
    kept = dict(pipe.unet.attn_processors)
    outputs = []
    hook = pipe.unet.register_forward_hook(lambda module, given, output: outputs.append(output.sample))
    with torch.no_grad():
        plain = pipe.unet(*inputs).sample
    maps = word_maps(pipe.unet, *inputs)
    hook.remove()
    assert torch.allclose(outputs[-1], plain, atol=1e-5)
    assert pipe.unet.attn_processors == kept
    assert len(maps) == sum(".attn2." in name for name in kept)
    assert all(torch.allclose(layer.sum(-1), torch.ones(layer.shape[:2]), atol=1e-5) for layer in maps)
    with pytest.raises(RuntimeError):
        word_maps(pipe.unet, inputs[0], inputs[1], torch.randn(2, 77, 99))
    assert pipe.unet.attn_processors == kept, "also after an exception"


def test_even_and_pointed_maps():
    even = torch.full((1, 64, 4), 0.25)
    flat = shape_of([even], [1, 2])
    assert flat == pytest.approx({"entropy": 1.0, "focus": 6 / 64, "mass": 0.5}, abs=1e-5)
    pointed = torch.full((1, 64, 4), 0.0)
    pointed[0, 10, 1] = 1.0
    sharp = shape_of([pointed], [1])
    assert sharp["entropy"] == pytest.approx(0, abs=1e-4) and sharp["focus"] == pytest.approx(1, abs=1e-5)


def test_words_are_found_by_their_tokens(pipe):
    prompt = "photo of tuki man"
    ids = pipe.tokenizer(prompt).input_ids
    found = token_positions(pipe.tokenizer, prompt, "tuki")
    assert pipe.tokenizer.decode([ids[k] for k in found]).strip() == "tuki" and len(found) == 4
    assert token_positions(pipe.tokenizer, prompt, "dog") == []


def test_every_subject_is_read_at_the_same_timesteps_on_photos_that_differ(pipe, monkeypatch):
    concepts = [tiny.concept(tiny.root() / "photos", prior=False)]
    concepts.append(tiny.concept(tiny.root() / "photos2", "bnhx", "dog", prior=False))
    batches = Batches(pipe, concepts, [[], []], tiny.settings(crops=2), 32, None, torch.device("cpu"))
    seen = []
    monkeypatch.setattr(
        "likeness.dreambooth.health.measure", lambda pipe, concept, *given: seen.append((concept, *given)) or {}
    )
    Validation(batches, concepts, training_scheduler(pipe), contextlib.nullcontext).health()
    assert [concept for concept, *_ in seen] == concepts
    for _, latents, noise, timesteps, _ in seen:
        assert timesteps.tolist() == [125, 375, 625, 875]
        assert torch.equal(noise, seen[0][2])
        assert len(latents.flatten(1).unique(dim=0)) == (4 if latents is seen[0][1] else 3)
