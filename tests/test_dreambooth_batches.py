"""Micro-batches: which picture, noise and words a step is trained on."""

from dataclasses import replace

import pytest
import tiny_dreambooth as tiny
import torch
from PIL import Image
from safetensors import SafetensorError

from likeness.dreambooth.batches import (
    ENCODE_BATCH,
    Batches,
    Posterior,
    posterior_key,
    read_posterior,
    to_bytes,
    to_unit,
    write_posterior,
)
from likeness.models import load_pipeline
from likeness.subjects import load_photos, to_tensor


def batches_of(**options) -> Batches:
    pipe = load_pipeline(tiny.source(tiny.root() / "model"))
    concept = tiny.concept(tiny.root() / "photos", prior=False)
    return Batches(pipe, [concept], [[]], tiny.settings(**options), 32, None, torch.device("cpu"))


def test_noise_offset_moves_whole_channels():
    """Every channel of a row by its own normal number times noise_offset; the rest of the noise is the same."""
    plain, moved = (batches_of(noise_offset=offset, train_batch_size=64).batch(3, 0, 1) for offset in (0.0, 0.5))
    offset = (moved.noise - plain.noise).flatten(2)
    assert torch.allclose(offset, offset[..., :1].expand_as(offset), atol=1e-5), "one number per channel"
    assert float(offset[..., 0].std()) == pytest.approx(0.5, rel=0.2)
    assert float(moved.noise.mean((2, 3)).std()) > 5 * float(plain.noise.mean((2, 3)).std())
    assert torch.equal(moved.latents, plain.latents) and torch.equal(moved.timesteps, plain.timesteps)


def test_caption_dropout_empties_its_share_of_the_prompts():
    batches = batches_of(caption_dropout=0.25, train_batch_size=16)
    with torch.no_grad():
        batches.cache_embeddings()
        drawn = torch.cat([batches.embed(batches.batch(step, 0, 1).captions) for step in range(50)])
    empty, own = batches.embeds[-1], batches.embeds[0]
    dropped = [torch.equal(row, empty) for row in drawn]
    assert all(d or torch.equal(row, own) for d, row in zip(dropped, drawn, strict=True))
    assert sum(dropped) / len(dropped) == pytest.approx(0.25, abs=0.05)


def test_cached_and_uncached_batches_are_the_same_and_always_fresh(tmp_path):
    pipe = load_pipeline(tiny.source(tiny.root() / "model"))
    made = []
    for cached in (True, False):
        batches = Batches(
            pipe,
            [tiny.concept(tiny.root() / "photos", prior=False)],
            [[]],
            tiny.settings(cache_latents=cached, crops=2, flip=True),
            32,
            None,
            torch.device("cpu"),
        )
        made.append(batches)
    for step in (0, 1, 17):
        with torch.autocast("cpu", torch.bfloat16):  # as a step in reduced precision
            one, other = (batches.batch(step, 0, 1) for batches in made)
        assert torch.allclose(one.latents, other.latents, atol=1e-5)
        assert torch.equal(one.noise, other.noise) and torch.equal(one.timesteps, other.timesteps)
    rows = [made[0].stream.instance_rows(made[0].stream.positions(s, 0, 1)) for s in range(40)]
    again = [(s, k) for s in range(40) for k in range(2) if rows[s][k] == rows[0][0]]
    drawn = torch.stack([made[0].batch(s, 0, 1).latents[k] for s, k in again])
    assert len(again) > 2 and drawn.std(0).min() > 0, "one sample of the posterior must not be reused"


def test_caching_holds_a_few_pictures_at_a_time_and_gives_the_same_latents(tmp_path, monkeypatch):
    photos, classes = tiny.save_photos(tmp_path / "photos", 5), sorted(tiny.save_photos(tmp_path / "c", 9).iterdir())
    concept, settings = tiny.concept(photos), tiny.settings(crops=2, flip=True)
    pipe = load_pipeline(tiny.source(tiny.root() / "model"))
    waiting, most, whole = 0, 0, pipe.vae.encode

    def read(image):
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        return to_tensor(image)

    def encode(pixels):
        nonlocal waiting
        waiting -= len(pixels)
        return whole(pixels)

    with monkeypatch.context() as patch:
        patch.setattr("likeness.subjects.to_tensor", read)
        patch.setattr(pipe.vae, "encode", encode)
        batches = Batches(pipe, [concept], [classes], settings, 32, None, torch.device("cpu"))
    assert (most, waiting) == (ENCODE_BATCH, 0)
    pixels = torch.cat([load_photos(concept.photos, 32, crops=2, flip=True), load_photos(classes, 32)])
    assert batches.posterior.mean.shape == (5 * 2 * 2 + 9, 4, 16, 16)
    with torch.no_grad():
        together = whole(pixels * 2 - 1).latent_dist
    assert torch.allclose(batches.posterior.mean, together.mean, atol=1e-5)
    assert torch.allclose(batches.posterior.std, together.std, atol=1e-5)


def test_a_full_disk_only_means_encoding_again(tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    file = tmp_path / "latents.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        write_posterior(Posterior(torch.ones(2), torch.ones(2)), file)
    assert not list(tmp_path.iterdir()) and read_posterior(file) is None
    write_posterior(Posterior(torch.ones(2), torch.ones(2)), file)
    assert torch.equal(read_posterior(file).mean, torch.ones(2))


def test_pictures_held_as_bytes_are_the_same_floats():
    every = torch.arange(256, dtype=torch.uint8)
    read = to_tensor(Image.fromarray(every.view(16, 16, 1).expand(-1, -1, 3).numpy()))
    assert to_bytes(read).dtype == torch.uint8 and torch.equal(to_unit(to_bytes(read)), read)


def test_every_picture_is_trained_with_its_own_words(tmp_path):
    """Captions per photo, several class prompts in turn, and the first class prompt for a user's own folder."""
    photos = tiny.save_photos(tmp_path / "photos", 3)
    (photos / "01.txt").write_text("tuki man by the sea")
    pictures = sorted(tiny.save_photos(tmp_path / "class", 5).iterdir())
    concept = replace(tiny.concept(photos), class_prompts=["a man", "drawing of a man"])
    pipe = load_pipeline(tiny.source(tiny.root() / "model"))

    def words(concept):
        batches = Batches(pipe, [concept], [pictures], tiny.settings(crops=2), 32, None, torch.device("cpu"))
        return [batches.captions[row] for row in batches.caption_rows], batches.captions[-1]

    plain, sea = "photo of tuki man", "tuki man by the sea"
    found, dropped = words(concept)
    assert found[:6] == [plain, plain, sea, sea, plain, plain] and dropped == ""
    assert found[6:] == ["a man", "drawing of a man", "a man", "drawing of a man", "a man"]
    assert words(replace(concept, class_dir=tmp_path / "class"))[0][6:] == ["a man"] * 5


def test_latents_of_another_kind_of_device_are_another_cache():
    about = ("m", [tiny.concept(tiny.root() / "photos")], [[]], tiny.settings(), 32)
    assert len({posterior_key(*about, device) for device in ("cpu", "cuda", "cuda")}) == 2


def test_fresh_crops_differ_at_every_step(tmp_path):
    settings = tiny.settings(crops=-1, train_batch_size=1)
    pipe = load_pipeline(tiny.source(tiny.root() / "model"))
    concept = tiny.concept(tiny.root() / "photos", prior=False)
    batches = Batches(pipe, [concept], [[]], settings, 32, None, torch.device("cpu"))
    assert not batches.cached
    seen = [batches._fresh_crops(torch.tensor([0]), range(p, p + 1)) for p in (0, 1, 0)]
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
