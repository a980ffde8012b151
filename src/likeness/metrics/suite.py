"""The suites: everything measured of an edited picture, with the name of the weights it was measured with.

Every picture is encoded once, however many others it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from likeness.metrics import backbones, definitions, regions
from likeness.metrics.encoders import Clip, Dino, Lpips, direction, embedded_lpips, standard_lpips
from likeness.metrics.pie import PieBench
from likeness.metrics.readings import compare
from likeness.metrics.structure import structure_distance, tokens_within
from likeness.metrics.subject import Fidelity

HIGHEST_PSNR = 60.0  # dB; identical pictures would be infinite, 8-bit rounding alone gives 59
PIXELS_AT_ONCE = 2**20  # of one arm: 4 seeds of 512 px
Regions = dict[str, Tensor]  # name in definitions.REGIONS -> (n, h, w) booleans


@dataclass(frozen=True)
class Encoded:
    """Pictures (n, 3, h, w) in [0, 1] and what the encoders make of them."""

    pictures: Tensor
    clip: Tensor
    keys: Tensor
    lpips: list[Tensor]
    reading: Any | None


@dataclass
class Suite:
    """Encoders and what they are. `dino` is None on the embedded model; `probe` reads the drawn world only."""

    clip: Clip
    lpips: Lpips
    dino: Dino | None
    probe: Any | None
    backbones: dict[str, str]  # metric -> name@hash of what it was measured with
    device: str = "cpu"
    pie: PieBench | None = None
    fidelity: Fidelity | None = None

    def with_subject(self, fidelity: Fidelity) -> Suite:
        """Return this suite, which then also measures the likeness to a subject's photos."""
        return replace(self, fidelity=fidelity, backbones=self.backbones | fidelity.backbones)

    @property
    def directions(self) -> dict[str, str]:
        return {name: definitions.direction(name) for name in self.backbones}

    def described(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the `backbones` and `directions` of measured names, those of regions included."""
        found = {name: self.backbones[definitions.base_name(name)] for name in names}
        return {"backbones": found, "directions": {name: definitions.direction(name) for name in found}}

    def measure(
        self, source: Tensor, edited: Tensor, source_prompt: str, target_prompt: str, masks: Regions | None = None
    ) -> dict[str, Tensor]:
        """Measure edited pictures against their sources; see `measure_arms`."""
        arms = {"source": source, "edited": edited}
        return self.measure_arms(arms, source_prompt, target_prompt, masks)["edited"]

    @torch.no_grad()
    def measure_arms(
        self, arms: dict[str, Tensor], source_prompt: str, target_prompt: str, masks: Regions | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Measure every arm against the arm "source", all (n, 3, h, w) in [0, 1]; every value is (n,).

        The source arm is compared with itself and its own prompt. What each name means is in
        `definitions`; `masks` adds NAME_inside_REGION and NAME_outside_REGION, and a suite with a probe adds the
        rendered region itself. NaN where a metric is undefined. Raises ValueError for shapes that differ.
        """
        source = arms["source"]
        for pictures in arms.values():
            if source.shape != pictures.shape or source.ndim != 4 or source.shape[1] != 3:
                raise ValueError(
                    f"expected two batches (n, 3, h, w) of the same shape, got {tuple(source.shape)} "
                    f"and {tuple(pictures.shape)}."
                )
        count, size = len(source), source.shape[-2:]
        masks = {name: regions.at_size(mask, size) for name, mask in (masks or {}).items()}
        step = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
        parts: dict[str, list[dict[str, Tensor]]] = {arm: [] for arm in arms}
        for first in range(0, count, step):
            rows = slice(first, first + step)
            shown = {arm: pictures[rows] for arm, pictures in arms.items()}
            some = {name: mask[rows] for name, mask in masks.items()}
            for arm, values in self._measure(shown, source_prompt, target_prompt, some).items():
                parts[arm].append(values)
        return {
            arm: {name: torch.cat([values[name] for values in chunks]) for name in chunks[0]}
            for arm, chunks in parts.items()
        }

    def _measure(self, arms: dict[str, Tensor], source_prompt: str, target_prompt: str, masks: Regions):
        encoded = self.encode(arms)
        source = encoded["source"]
        if self.probe is not None:
            rendered = regions.rendered_region(
                source.reading, source_prompt, target_prompt, source.pictures.shape[-2:]
            )
            masks = masks if rendered is None else masks | {"rendered": rendered}
        return {
            arm: self._compare(
                source, edited, source_prompt, source_prompt if arm == "source" else target_prompt, masks
            )
            for arm, edited in encoded.items()
        }

    def encode(self, arms: dict[str, Tensor]) -> dict[str, Encoded]:
        """Encode the pictures of all arms in one batch for each encoder."""
        pictures = torch.cat(list(arms.values()))
        clip, keys = self.clip.images_and_keys(pictures)
        if self.dino is not None:
            keys = self.dino.keys(pictures)
        layers = self.lpips.features(pictures)
        encoded, first = {}, 0
        for arm, own in arms.items():
            rows = slice(first, first + len(own))
            reading = self.probe.read(own) if self.probe is not None else None
            encoded[arm] = Encoded(own, clip[rows], keys[rows], [layer[rows] for layer in layers], reading)
            first += len(own)
        return encoded

    def _compare(self, source: Encoded, edited: Encoded, source_prompt: str, prompt: str, masks: Regions):
        asked_from, asked_to = self.clip.text(source_prompt), self.clip.text(prompt)
        moved, asked = direction(source.clip, edited.clip), direction(asked_from, asked_to)
        a, b = source.pictures.to(self.device), edited.pictures.to(self.device)
        similarity, similarity_map = structural_similarity_index_measure(
            b, a, data_range=1.0, reduction="none", return_full_image=True
        )
        square_map = (a - b).square().mean(1).cpu()
        structure = "clip_structure" if self.dino is None else "dino_structure"
        values = {
            "clip_t": edited.clip @ asked_to,
            "clip_dir": moved @ asked,
            "lpips": self.lpips.distance(source.lpips, edited.lpips),
            "ssim": similarity.flatten().cpu(),
            "psnr": psnr(square_map.mean((1, 2))),
            structure: structure_distance(source.keys, edited.keys),
        }
        if self.probe is not None:
            values |= compare(source.reading, edited.reading, source_prompt, prompt)
        if self.fidelity is not None:
            values |= self.fidelity.measure(edited.pictures, edited.clip, edited.reading)
        if self.pie is not None:
            values |= self.pie.measure(source.pictures, edited.pictures, prompt, masks)
        if masks:
            lpips_map = self.lpips.map(source.lpips, edited.lpips, a.shape[-2:])
            maps = {"lpips": lpips_map, "ssim": similarity_map.mean(1).cpu(), "psnr": square_map}
            for region, mask in masks.items():
                values |= self._within(region, mask, maps, structure, source, edited, asked_to)
        return values

    def _within(
        self, region: str, mask: Tensor, maps, structure: str, source: Encoded, edited: Encoded, asked: Tensor
    ):
        values = {}
        for side, part in (("inside", mask), ("outside", ~mask)):
            ending = f"{side}_{region}"
            for name, where in maps.items():
                mean = regions.mean_within(where, part)
                values[f"{name}_{ending}"] = psnr(mean) if name == "psnr" else mean
            tokens = tokens_within(part, source.keys.shape[1])
            values[f"{structure}_{ending}"] = structure_distance(source.keys, edited.keys, tokens)
        shown = torch.where(mask[:, None], edited.pictures, self.clip.mean_colour)
        similarity = self.clip.images(shown) @ asked
        values[f"clip_t_inside_{region}"] = torch.where(mask.flatten(1).any(1), similarity, torch.nan)
        return values


def psnr(square: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of mean squares, at most HIGHEST_PSNR; NaN stays."""
    return (-10 * square.clamp_min(1e-12).log10()).clamp(max=HIGHEST_PSNR)


def embedded_suite(device: str) -> Suite:
    """Build the suite of the embedded model's own backbones."""
    from likeness.paperdoll.probe import load_probe
    from likeness.paperdoll.weights import clip_dir, probe_dir

    probe = load_probe(device)
    clip = f"paperdoll-clip@{backbones.file_hash(clip_dir() / 'model.safetensors')}"
    probe_hash = backbones.file_hash(probe_dir() / "model.safetensors")
    names = _names(clip, f"paperdoll-probe-trunk@{probe_hash}") | {"clip_structure": clip}
    names |= dict.fromkeys(definitions.PROBED, f"paperdoll-probe@{probe_hash}")
    return Suite(Clip.load(clip_dir(), device), embedded_lpips(probe.features, device), None, probe, names, device)


def standard_suite(device: str, net: str) -> Suite:
    """Build the suite the field reports: CLIP ViT-L/14, DINO ViT-B/8, LPIPS with learned weights."""
    clip_name = backbones.repository_name(backbones.CLIP_REPOSITORY)
    dino_name = backbones.repository_name(backbones.DINO_STRUCTURE)
    clip, dino = field_encoders(device)
    measured_with = _names(clip_name, lpips_name(net)) | {"dino_structure": dino_name}
    return Suite(clip, standard_lpips(net, device), dino, None, measured_with, device)


@lru_cache(maxsize=2)
def field_encoders(device: str) -> tuple[Clip, Dino]:
    """Return CLIP ViT-L/14 and DINO ViT-B/8, loaded once for the suites that share them."""
    return Clip.load(backbones.CLIP_REPOSITORY, device), Dino.load(backbones.DINO_STRUCTURE, device)


def pie_suite(device: str) -> Suite:
    """Build PIE-Bench's definitions beside the corrected ones, on PIE-Bench's backbones."""
    suite = standard_suite(device, "squeeze")
    suite.pie = PieBench(suite.clip, suite.lpips, suite.dino)
    names = suite.backbones
    names |= {f"pie_{theirs}": names[ours] for theirs, ours in PIE_MEASURED_WITH.items()}
    return suite


PIE_MEASURED_WITH = {
    "structure_x1e3": "dino_structure", "psnr": "psnr", "lpips_x1e3": "lpips", "mse_x1e4": "psnr", "ssim_x1e2": "ssim",
    "clip": "clip_t",
}  # fmt: skip


def lpips_name(net: str) -> str:
    trunk = backbones.LPIPS_NETS[net].removesuffix(".pth")
    return f"lpips-{net}:{trunk}@{backbones.file_hash(backbones.lpips_file(net))}"


def _names(clip: str, lpips: str) -> dict[str, str]:
    from importlib.metadata import version

    window = f"torchmetrics-{version('torchmetrics')}"
    return {"clip_t": clip, "clip_dir": clip, "lpips": lpips, "ssim": window, "psnr": "pixels"}


SUITES: dict[str, Callable[..., Suite]] = {
    "embedded": lambda device, net: embedded_suite(device),
    "standard": standard_suite,
    "pie": lambda device, net: pie_suite(device),
}
