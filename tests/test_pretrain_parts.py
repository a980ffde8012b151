"""The parts of pretraining on their own: tokenizer, averaged weights, losses, folding."""

import pytest
import torch

from likeness.paperdoll.autoencoder import build_autoencoder, centre_latents, crops
from likeness.paperdoll.checkpoints import Loop, Plan, generator, load_tensors, read_state
from likeness.paperdoll.clip import contrastive_loss, trimmed
from likeness.paperdoll.presets import PRESETS
from likeness.paperdoll.probe import Probe, centres, folded
from likeness.paperdoll.tokenizer import encode, load_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    captions = ["photo of keanu reeves eating a burger", "drawing of justin bieber on a beach", "a man"]
    train_tokenizer(captions * 50, folder)
    return load_tokenizer(folder)


def test_words_are_single_tokens_and_identifiers_several(tokenizer):
    for word in ("burger", "keanu", "beach", "photo"):
        assert len(tokenizer.tokenize(word)) == 1, word
    for word in ("bnh", "tuki", "xqz", "élan", "12"):
        pieces = tokenizer.tokenize(word)
        assert len(pieces) > 1 and tokenizer.unk_token not in pieces, word
    ids = encode(tokenizer, ["photo of a bnh keanu reeves"])
    assert ids.shape == (1, 77) and ids[0, 0] == tokenizer.bos_token_id
    assert "photo of a bnh keanu reeves" in tokenizer.decode(ids[0], skip_special_tokens=True)


def test_trimming_keeps_the_first_end_of_every_caption(tokenizer):
    ids = encode(tokenizer, ["a burger", "photo of keanu reeves eating a burger"])
    short = trimmed(ids, tokenizer.eos_token_id)
    assert short.shape[1] < 77 and (short == tokenizer.eos_token_id).any(1).all()


def test_equal_requests_are_not_negatives():
    image = torch.eye(3)
    text = image[[0, 0, 2]]  # the second caption is the first one again
    asked = torch.tensor([[1, 0], [1, 0], [2, 0]])
    masked, _ = contrastive_loss(image[[0, 0, 2]], text, torch.tensor(20.0), asked)
    strict, _ = contrastive_loss(image[[0, 0, 2]], text, torch.tensor(20.0), torch.arange(3)[:, None])
    assert masked < 0.01 < strict


def test_centring_moves_latents_but_not_pictures():
    torch.manual_seed(0)
    model = build_autoencoder(PRESETS["tiny"]).eval()
    model.quant_conv.bias.data.normal_(std=2)
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        before = model.decode(model.encode(images * 2 - 1).latent_dist.mean).sample
        centre_latents(model, images)
        latents = model.encode(images * 2 - 1).latent_dist.mean
        after = model.decode(latents).sample
    assert torch.allclose(before, after, atol=1e-4)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert (latents * model.config.scaling_factor).std().item() == pytest.approx(1, abs=1e-4)


def test_crops_stay_inside_and_follow_heads():
    images = torch.arange(128.0).expand(64, 3, 128, 128)  # each pixel holds its column
    cut = crops(images, 64, torch.tensor([[0.0, 0.5]]).expand(64, 2), generator(0))
    left = cut[:, 0, 0, 0]
    assert cut.shape == (64, 3, 64, 64) and left.min() == 0 and left.max() <= 64
    assert (left <= 16).float().mean() > 0.5


def test_folding_batch_norm_keeps_the_reading():
    torch.manual_seed(0)
    probe = Probe((8, 8, 8, 8, 8), 16, normalised=True)
    probe(torch.rand(8, 3, 128, 128))  # moves the running statistics
    plain, images = folded(probe), torch.rand(2, 3, 128, 128)
    kinds = [type(layer).__name__ for layer in plain.features]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d"] * 2 + ["Conv2d", "ReLU"] * 3 + ["MaxPool2d"]
    for key, value in probe.eval()(images).items():
        assert torch.allclose(plain(images)[key], value, atol=1e-4), key


def test_soft_argmax_finds_a_spot():
    maps = torch.zeros(1, 1, 16, 16)
    maps[0, 0, 15, 0] = 50
    assert centres(maps).tolist()[0] == pytest.approx([-1, 1], abs=1e-3)


def test_another_round_starts_from_the_averaged_weights(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    plan = Plan(steps=5, batch=1, learning_rate=0.1, warmup=1, ema=0.5)

    def loss_at(step, rng):
        return (model(torch.rand(4, 2, generator=rng)) - 1).pow(2).mean(), {}

    Loop(tmp_path, plan, seed=0).run(model, loss_at)
    average = load_tensors(tmp_path / "checkpoint.safetensors", "ema.")
    assert torch.equal(model.weight, average["weight"])  # the average is what the loop leaves behind
    more = Loop(tmp_path, plan, seed=0)
    more.another_round()
    assert torch.equal(load_tensors(more.path, "model.")["weight"], average["weight"])
    more.run(model, loss_at)
    state = read_state(more.path)
    assert (state.round, state.step, state.earlier_steps, state.finished) == (1, 5, 5, True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    model = torch.nn.Linear(2, 1)
    plan = Plan(steps=9, batch=1, learning_rate=0.1, warmup=1)
    good = Loop(tmp_path, plan, seed=0, stop_after=2)
    good.run(model, lambda step, rng: (model(torch.ones(1, 2)).sum(), {}))
    kept = good.path.read_bytes()
    loop = Loop(tmp_path, plan, seed=0)
    with pytest.raises(FloatingPointError, match="step 3"):
        loop.run(model, lambda step, rng: (model(torch.ones(1, 2)).sum() * torch.nan, {}))
    assert good.path.read_bytes() == kept
