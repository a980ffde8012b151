"""The gradients of what is trained: where they lie, how they are clipped, and how they are cleared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

KEPT = 2**28  # bytes; larger gradients are freed after each step, since there memory is dearer than time


class Gradients:
    """The gradients of float32 parameters on one device.

    Small ones are views of one buffer that stays: it is averaged, measured and cleared at once, and backward need not
    find memory anew. Large ones are torch's own, which do not exist while the forward pass needs memory most; a
    recorded backward writes to the same memory every time, so there they `stay`.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters, self.buffer, self.clearing = parameters, None, "free"  # or "zero", or "leave"
        sizes = [p.numel() for p in parameters]
        if parameters and 4 * sum(sizes) <= KEPT:
            self.buffer, self.clearing = torch.zeros(sum(sizes), device=parameters[0].device), "zero"
            for p, piece in zip(parameters, self.buffer.split(sizes), strict=True):
                p.grad = piece.as_strided(p.shape, p.stride())

    def tensors(self) -> list[Tensor]:
        """Return what holds all gradients."""
        if self.buffer is not None:
            return [self.buffer]
        return [p.grad for p in self.parameters if p.grad is not None]

    def clip(self, max_norm: float, optimizer: torch.optim.Optimizer, *, in_step: bool) -> Tensor:
        """Bring the norm over all gradients down to `max_norm` and return what it was.

        With `in_step` a fused optimizer divides in its next step, which passes over the gradients anyway.
        """
        norm = torch.nn.utils.get_total_norm(self.tensors())
        excess = ((norm + 1e-6) / max_norm).clamp(min=1)
        if in_step and optimizer.defaults.get("fused"):
            optimizer.grad_scale = excess
        else:
            torch._foreach_div_(self.tensors(), excess)
        return norm

    def stay(self, *, adds: bool) -> None:
        """Keep large gradients where the next backward has them, which `adds` to what is there or overwrites it."""
        if self.buffer is not None:
            return
        self.clearing = "zero" if adds else "leave"
        for p in self.parameters:
            p.grad = torch.zeros_like(p) if adds else None

    def clear(self) -> None:
        """Forget the gradients of this step."""
        if self.clearing == "zero":
            torch._foreach_zero_(self.tensors())
        elif self.clearing == "free":
            for p in self.parameters:
                p.grad = None


class Unread:
    """Loss and gradient norm of a step, on their way to the CPU; reading them waits for that step alone."""

    def __init__(self, step: int, loss: torch.Tensor, grad_norm: torch.Tensor) -> None:
        self.step, self.arrived = step, torch.cuda.Event() if loss.is_cuda else None
        self.values = torch.stack([loss.detach(), grad_norm]).to("cpu", non_blocking=True)
        if self.arrived is not None:
            self.arrived.record()

    def read(self) -> tuple[float, float]:
        """Return (loss, gradient norm)."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, grad_norm = self.values.tolist()
        return loss, grad_norm
