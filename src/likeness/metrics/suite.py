"""The two suites: everything measured of an edited picture, with the name of the weights it was measured with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from likeness.metrics.backbones import CLIP_REPOSITORY, LPIPS_NETS, file_hash, lpips_file
from likeness.metrics.encoders import Clip, direction, embedded_lpips, standard_lpips
from likeness.metrics.readings import DIRECTIONS as PROBED
from likeness.metrics.readings import compare

HIGHEST_PSNR = 60.0  # dB; identical pictures would be infinite, 8-bit rounding alone gives 59
DIRECTIONS = {"clip_t": "higher", "clip_dir": "higher", "lpips": "lower", "ssim": "higher", "psnr": "higher"}


@dataclass
class Suite:
    """Encoders and what they are. `probe` reads the drawn world and is None elsewhere."""

    clip: Clip
    lpips: torch.nn.Module
    probe: object | None
    backbones: dict[str, str]  # metric -> name@hash of what it was measured with
    directions: dict[str, str]  # metric -> "higher", "lower" or "neutral"
    device: str = "cpu"

    @torch.no_grad()
    def measure(self, source: Tensor, edited: Tensor, source_prompt: str, target_prompt: str) -> dict[str, Tensor]:
        """Measure edited pictures against their sources, both (n, 3, h, w) in [0, 1]; every value is (n,).

        `clip_t` is a cosine in [-1, 1] with the target prompt; `clip_dir` the cosine between the step of the
        images and that of the prompts (Gal et al. 2022, eq. 2), NaN where either stands still; `lpips`, `ssim`
        and `psnr` (dB, at most 60) compare with the source.
        """
        if source.shape != edited.shape or source.ndim != 4 or source.shape[1] != 3:
            raise ValueError(
                f"expected two batches (n, 3, h, w) of the same shape, got {tuple(source.shape)} "
                f"and {tuple(edited.shape)}."
            )
        start, end = self.clip.images(source), self.clip.images(edited)
        asked_from, asked_to = self.clip.text(source_prompt), self.clip.text(target_prompt)
        moved, asked = direction(start, end), direction(asked_from, asked_to)
        a, b = source.to(self.device), edited.to(self.device)
        values = {
            "clip_t": end @ asked_to,
            "clip_dir": moved @ asked,
            "lpips": self.lpips(a * 2 - 1, b * 2 - 1).flatten().cpu(),
            "ssim": structural_similarity_index_measure(b, a, data_range=1.0, reduction="none").flatten().cpu(),
            "psnr": psnr(b, a).cpu(),
        }
        if self.probe is not None:
            values |= compare(self.probe.read(source), self.probe.read(edited), source_prompt, target_prompt)
        return values


def psnr(edited: Tensor, source: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB, at most HIGHEST_PSNR."""
    ratio: Callable[..., Tensor] = peak_signal_noise_ratio
    return ratio(edited, source, data_range=1.0, reduction="none", dim=(1, 2, 3)).clamp(max=HIGHEST_PSNR)


def embedded_suite(device: str) -> Suite:
    """Build the suite of the embedded model's own backbones."""
    from likeness.paperdoll.probe import load_probe
    from likeness.paperdoll.weights import clip_dir, probe_dir

    probe = load_probe(device)
    clip = f"paperdoll-clip@{file_hash(clip_dir() / 'model.safetensors')}"
    trunk = file_hash(probe_dir() / "model.safetensors")
    backbones = _names(clip, f"paperdoll-probe-trunk@{trunk}")
    backbones |= dict.fromkeys(PROBED, f"paperdoll-probe@{trunk}")
    distance = embedded_lpips(probe.features).to(device)
    return Suite(Clip.load(clip_dir(), device), distance, probe, backbones, DIRECTIONS | PROBED, device)


def standard_suite(device: str, net: str) -> Suite:
    """Build the suite the field reports: CLIP ViT-L/14 and LPIPS with learned weights."""
    distance = standard_lpips(net).to(device)
    trunk = LPIPS_NETS[net].removesuffix(".pth")
    backbones = _names(CLIP_REPOSITORY, f"lpips-{net}:{trunk}@{file_hash(lpips_file(net))}")
    return Suite(Clip.load(CLIP_REPOSITORY, device), distance, None, backbones, dict(DIRECTIONS), device)


def _names(clip: str, lpips: str) -> dict[str, str]:
    from importlib.metadata import version

    pixels = f"torchmetrics-{version('torchmetrics')}"
    return {"clip_t": clip, "clip_dir": clip, "lpips": lpips, "ssim": pixels, "psnr": pixels}
