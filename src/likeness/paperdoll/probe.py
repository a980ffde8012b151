"""The probe: an AlexNet trunk that reads the world's factors from a picture.

`features` is laid out as torchvision's AlexNet.features (with smaller widths and strides), so it also
serves as an LPIPS trunk. Batch normalisation is used while training, then folded into the
convolutions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likeness.paperdoll import world
from likeness.paperdoll.weights import probe_dir

SIZE = 128
NAMES = {**world.CATEGORICAL, "who": tuple(world.CLASSES)}
IDENTITY_DIM = len(world.SUBJECTS["tuki"].vector())


@dataclass
class Reading:
    """What the probe sees in n pictures; `continuous` in world units, `identity` scaled to [-1, 1]."""

    categorical: dict[str, Tensor]  # factor -> (n,) class indices
    probabilities: dict[str, Tensor]  # factor -> (n, classes)
    continuous: dict[str, Tensor]  # factor -> (n,)
    identity: Tensor  # (n, identity dimension)
    who: Tensor  # (n,) indices into world.CLASSES

    def names(self, factor: str) -> list[str]:
        """Return the value of a categorical factor (or `who`) of every picture, as the world names it."""
        indices = self.who if factor == "who" else self.categorical[factor]
        return [NAMES[factor][i] for i in indices.tolist()]


def trunk(widths: tuple[int, ...], *, normalised: bool) -> nn.Sequential:
    """Return the five convolutions of AlexNet; every convolution carries its batch norm while training."""

    def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
        layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=True)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs)) if normalised else layer

    a, b, c, d, e = widths
    return nn.Sequential(
        convolution(3, a, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        convolution(a, b, 5), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        convolution(b, c, 3), nn.ReLU(),
        convolution(c, d, 3), nn.ReLU(),
        convolution(d, e, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
    )  # fmt: skip


class Probe(nn.Module):
    """Read style, scene, food, glasses, hat, pose, identity and class from pictures."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 128, 96), hidden=256, *, normalised=False):
        super().__init__()
        self.widths, self.hidden = tuple(widths), hidden
        self.features = trunk(self.widths, normalised=normalised)
        self.spots = nn.Conv2d(widths[-1], 32, 1)  # maps whose centres of mass locate things
        self.squeeze = nn.Linear(widths[-1] * 8 * 8, hidden)
        read = hidden + 64
        self.heads = nn.ModuleDict({name: nn.Linear(read, len(v)) for name, v in NAMES.items()})
        self.continuous = nn.Linear(read, len(world.CONTINUOUS))
        self.identity = nn.Sequential(nn.Linear(read, hidden), nn.ReLU(), nn.Linear(hidden, IDENTITY_DIM))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map pictures (n, 3, 128, 128) in [0, 1] to logits, and `continuous` and `identity` in [-1, 1]."""
        fine = self.features[:12](images * 2 - 1)
        spots = centres(self.spots(fine))
        hidden = F.relu(self.squeeze(self.features[12](fine).flatten(1)))
        read = torch.cat([hidden, spots], 1)
        out = {name: head(read) for name, head in self.heads.items()}
        return out | {"continuous": self.continuous(read), "identity": self.identity(read)}

    def read(self, images: Tensor) -> Reading:
        """Read pictures (n, 3, h, w) in [0, 1]; they are resized to 128 px."""
        return read_with(self, images, self.squeeze.weight.device)


@torch.no_grad()
def read_with(model: nn.Module, images: Tensor, device: torch.device) -> Reading:
    """Read pictures (n, 3, h, w) in [0, 1] with a model of 128 px pictures on `device`."""
    images = images.to(device, torch.float32)
    if images.shape[-2:] != (SIZE, SIZE):
        images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    parts = [model(part) for part in images.split(64)]
    out = {key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]}
    probabilities = {name: out[name].softmax(1) for name in NAMES}
    values = {
        name: (low + (out["continuous"][:, i].clamp(-1, 1) + 1) / 2 * (high - low))
        for i, (name, (_, low, high)) in enumerate(world.CONTINUOUS.items())
    }
    return Reading(
        categorical={name: probabilities[name].argmax(1) for name in world.CATEGORICAL},
        probabilities=probabilities,
        continuous=values,
        identity=out["identity"],
        who=probabilities["who"].argmax(1),
    )


def centres(maps: Tensor) -> Tensor:
    """Return the soft-argmax (n, 2 * maps) of feature maps, in [-1, 1]."""
    n, k, h, w = maps.shape
    weight = maps.flatten(2).softmax(-1).view(n, k, h, w)
    x = (weight.sum(2) * torch.linspace(-1, 1, w, device=maps.device)).sum(-1)
    y = (weight.sum(3) * torch.linspace(-1, 1, h, device=maps.device)).sum(-1)
    return torch.cat([x, y], 1)


def folded(trained: Probe) -> Probe:
    """Return the same function without batch normalisation, in evaluation mode."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    trained = trained.eval()
    plain = Probe(trained.widths, trained.hidden).eval()
    weights = {k: v for k, v in trained.state_dict().items() if not k.startswith("features.")}
    for index, layer in enumerate(trained.features):
        if isinstance(layer, nn.Sequential):
            fused = fuse_conv_bn_eval(layer[0].cpu(), layer[1].cpu())
            weights |= {f"features.{index}.{k}": v for k, v in fused.state_dict().items()}
    plain.load_state_dict(weights)
    return plain


def save_probe(probe: Probe, folder: Path) -> None:
    """Write config.json and fp16 weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half().contiguous() for k, v in probe.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    factors = {k: list(v) for k, v in NAMES.items()}
    config = {"widths": probe.widths, "hidden": probe.hidden, "factors": factors}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def load_probe(device: str = "cpu", folder: Path | None = None) -> Probe:
    """Load the shipped probe (or the one in `folder`); raises InputError if its weights are absent."""
    from safetensors.torch import load_file

    folder = folder or probe_dir()
    config = json.loads((folder / "config.json").read_text())
    probe = Probe(tuple(config["widths"]), config["hidden"])
    probe.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return probe.eval().requires_grad_(False).to(device)
