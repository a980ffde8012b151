"""What the benchmark draws with: a folder's pipeline, at Stable Diffusion 1.5's dimensions if asked; its FLOPs."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch


def load(pipeline: Path | None, shape: str | None, device: str = "cpu", dtype: str = "float32") -> Any:
    """Return the pipeline to measure: a folder (None: the embedded model), or random weights of a known shape."""
    from diffusers import StableDiffusionPipeline

    if pipeline is None:
        pipeline = Path(str(files("likeness"))) / "paperdoll" / "weights" / "pipeline"
    pipe = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    if shape == "sd15":
        with torch.device("meta"):
            unet = sd15_unet()
        pipe.unet = unet.to_empty(device="cpu").eval()
        for parameter in pipe.unet.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        width = pipe.text_encoder.config.hidden_size
        widen = torch.randn(width, 768, generator=torch.Generator().manual_seed(0)) / width**0.5
        pipe.encode_prompt = widened(pipe.encode_prompt, widen)
    pipe.set_progress_bar_config(disable=True)
    if dtype != "float32":
        pipe = pipe.to(getattr(torch, dtype))
    return pipe.to(device)


def sd15_unet() -> Any:
    """Return a UNet of Stable Diffusion 1.5's dimensions (860 M parameters)."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def widened(encode: Callable[..., Any], matrix: torch.Tensor) -> Callable[..., Any]:
    """Wrap `encode_prompt` so that a small text encoder feeds a UNet that expects 768 channels."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return tuple(None if e is None else e @ matrix.to(e) for e in encode(*args, **kwargs))

    return wrapped


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def evaluation_flops(pipe: Any, rows: int) -> int:
    """Return the floating-point operations of one UNet evaluation of a batch of `rows`."""
    from torch.utils.flop_counter import FlopCounterMode

    unet = pipe.unet
    side, width, dtype = unet.config.sample_size, unet.config.cross_attention_dim, unet.dtype
    sample = torch.zeros(rows, unet.config.in_channels, side, side, device=pipe.device, dtype=dtype)
    context = torch.zeros(rows, pipe.tokenizer.model_max_length, width, device=pipe.device, dtype=dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(sample, 1, encoder_hidden_states=context)
    return counter.get_total_flops()


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype, count: int = 10) -> float:
    """Return the best speed of a large matrix product: what the arithmetic floor is counted with."""
    side = 8192 if device.type == "cuda" else 1024
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(count):
        wait(device)
        started = time.perf_counter()
        matrix @ matrix
        wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best
