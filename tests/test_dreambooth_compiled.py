"""A UNet that is laid out for compilation computes, trains, is saved and resumed as any other."""

import pytest
import tiny_dreambooth as tiny
import torch
from diffusers.models.upsampling import Upsample2D

from likeness.dreambooth import gradients, loop
from likeness.dreambooth.compiled import lay_out


@pytest.mark.parametrize("size", [None, (7, 9)])
def test_pictures_are_enlarged_as_before(size):
    torch.manual_seed(0)
    unet = torch.nn.Sequential(Upsample2D(6, use_conv=True))
    given = torch.randn(2, 6, 4, 5, requires_grad=True)
    wanted = unet[0](given, size)
    (slope,) = torch.autograd.grad(wanted.square().sum(), given)
    lay_out(unet)
    found = unet[0](given, size)
    assert found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(torch.autograd.grad(found.square().sum(), given)[0], slope, atol=1e-4)


def test_a_whole_unet_computes_the_same():
    from likeness.models import load_pipeline

    unet = load_pipeline(tiny.source(tiny.root() / "model")).unet
    given = torch.randn(2, 4, 16, 16), torch.tensor([5, 900]), torch.randn(2, 77, 16)
    wanted = unet(*given).sample
    names = list(unet.state_dict())
    lay_out(unet)
    assert torch.allclose(unet(*given).sample, wanted, atol=1e-5) and list(unet.state_dict()) == names


def test_channels_stay_first_for_an_optimizer_that_moves_them():
    unet = torch.nn.Sequential(Upsample2D(6, use_conv=True))
    lay_out(unet, channels_last=False)
    assert unet[0].conv.weight.is_contiguous() and not unet[0].interpolate


@pytest.mark.parametrize("kept", [gradients.KEPT, 0], ids=["kept", "large"])
def test_it_trains_and_resumes_the_same(kept, tmp_path, monkeypatch):
    """Without compiling, which takes half a minute."""
    options = {"compile": True, "ema_decay": 0.9, "num_train_steps": 4}
    unets = []
    monkeypatch.setattr(gradients, "KEPT", kept)
    monkeypatch.setattr(loop, "compiled", lambda unet: unets.append(unet) or unet)

    def lose_power(event):
        if event.kind == "checkpoint":
            raise KeyboardInterrupt

    tiny.train_tiny(tmp_path / "one", **options)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in unets[0].parameters() if p.ndim == 4)
    with pytest.raises(KeyboardInterrupt):
        tiny.train_tiny(tmp_path / "pieces", on_event=lose_power, **options)
    assert tiny.train_tiny(tmp_path / "pieces", **options).resumed_from == 2
    one = tiny.weights(tmp_path / "one")
    assert tiny.same(one, tiny.weights(tmp_path / "pieces"))
    tiny.train_tiny(tmp_path / "plain", **options | {"compile": False})
    plain = tiny.weights(tmp_path / "plain")
    assert all(torch.allclose(one[name], plain[name], atol=1e-4) for name in plain)


@pytest.mark.slow
def test_a_compiled_unet_trains_the_same(tmp_path):
    for name, on in (("a", False), ("b", True)):
        tiny.train_tiny(tmp_path / name, compile=on, num_train_steps=2)
    one, other = tiny.weights(tmp_path / "a"), tiny.weights(tmp_path / "b")
    assert all(torch.allclose(one[n], other[n], atol=1e-4) for n in one)
