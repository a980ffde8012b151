"""A UNet made ready for torch.compile: what its kernels would convert or sort at every step is laid out beforehand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def lay_out(unet: nn.Module, *, channels_last: bool = True) -> None:
    """Prepare a UNet, in place, whose weights are the same numbers afterwards.

    With `channels_last` convolutions have them so, as a GPU's matrix units read them; 8-bit Adam would put each weight
    and gradient into new memory with the channels first, out of reach of what was recorded. Pictures are doubled by
    repeating pixels, whose gradient is a sum: that of compiled indexing is sorted where every run must give the same
    bits.
    """
    from diffusers.models.upsampling import Upsample2D

    if channels_last:
        unet.to(memory_format=torch.channels_last)
    for module in unet.modules():
        if isinstance(module, Upsample2D) and module.interpolate and module.norm is None:
            module.interpolate = False
            module.register_forward_pre_hook(_enlarge)


def compiled(unet: nn.Module) -> nn.Module:
    """Return a UNet that `lay_out` prepared, to be compiled when it is first called.

    Channels stay last between convolutions too, which torch does not choose for a UNet by itself.
    """
    return torch.compile(unet, options={"force_layout_optimization": True})


def _enlarge(module: nn.Module, args: tuple) -> tuple[Tensor]:
    """Do what an upsampler does before its convolution: double the sides, or give the size it was asked for."""
    hidden_states, *size = args
    if size and size[0] is not None:
        return (F.interpolate(hidden_states, size=size[0], mode="nearest"),)
    b, c, h, w = hidden_states.shape
    return (hidden_states[:, :, :, None, :, None].expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w),)
