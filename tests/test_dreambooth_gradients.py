"""Gradients, kept in one buffer or freed, clipped before or in the optimizer's step: always the same training."""

import pytest
import torch
from torch import nn

from likeness.dreambooth import gradients
from likeness.dreambooth.gradients import Gradients

STEPS = 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def loss(model, step: int) -> torch.Tensor:
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
    return (30 if step % 2 else 0.01) * model(x).square().mean()  # above and below the norm allowed


def plainly(max_norm: float) -> tuple[nn.Module, list[float]]:
    """Train as torch's documentation does it; return the model and the norms."""
    model, norms = network(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(STEPS):
        loss(model, step).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), max_norm).item())
        optimizer.step()
        optimizer.zero_grad()
    return model, norms


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("in_step", [True, False])
def test_the_weights_are_those_of_plain_clipping(monkeypatch, kept, fused, in_step):
    monkeypatch.setattr(gradients, "KEPT", 2**28 if kept else 0)
    expected, norms = plainly(1.0)
    assert min(norms) < 1 < max(norms)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    held = Gradients(list(model.parameters()))
    for step in range(STEPS):
        loss(model, step).backward()
        assert held.clip(1.0, optimizer, in_step=in_step).item() == pytest.approx(norms[step], rel=1e-4)
        optimizer.step()
        held.clear()
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_small_gradients_keep_their_memory_and_large_ones_are_freed(monkeypatch):
    model = network()
    held = Gradients(list(model.parameters()))
    places = [p.grad.data_ptr() for p in model.parameters()]
    loss(model, 1).backward()
    assert [p.grad.data_ptr() for p in model.parameters()] == places
    assert held.tensors()[0].abs().sum() > 0
    held.clear()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())

    monkeypatch.setattr(gradients, "KEPT", 0)
    model = network()
    held = Gradients(list(model.parameters()))
    loss(model, 1).backward()
    held.clear()
    assert all(p.grad is None for p in model.parameters()) and held.tensors() == []


@pytest.mark.parametrize("adds", [True, False])
def test_large_gradients_that_stay_are_cleared_only_where_a_recording_adds_to_them(monkeypatch, adds):
    monkeypatch.setattr(gradients, "KEPT", 0)
    model = network()
    held = Gradients(list(model.parameters()))
    held.stay(adds=adds)
    assert all((p.grad is not None) == adds for p in model.parameters())
    loss(model, 1).backward()
    places = [p.grad.data_ptr() for p in model.parameters()]
    held.clear()
    assert [p.grad.data_ptr() for p in model.parameters()] == places
    assert all(bool((p.grad == 0).all()) == adds for p in model.parameters())
