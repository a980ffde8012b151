"""The judge: a second reader of the world's factors, by which everything generated is judged.

It shares nothing with any metric or loss: a residual network with group normalisation and attention-pooled slots
(the probe is an AlexNet trunk), trained from another seed on its own pictures with its own augmentation.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likeness.paperdoll import world
from likeness.paperdoll.probe import IDENTITY_DIM, NAMES, Reading, read_with
from likeness.paperdoll.weights import judge_dir

GROUPS = 8


class Block(nn.Module):
    """Two convolutions around a shortcut, normalised in groups before each (He et al. 2016b; Wu and He 2018)."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            h = convolution(F.silu(norm(h)))
        return x + h


class Slots(nn.Module):
    """Look at `count` places of a feature map: where each lies, and what is there."""

    def __init__(self, width: int, count: int, content: int):
        super().__init__()
        self.where, self.what = nn.Conv2d(width, count, 1), nn.Conv2d(width, content, 1)
        self.size = count * (2 + content)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, width, h, w) to (n, size): centres of attention in [-1, 1], then attended content."""
        h, w = features.shape[-2:]
        weight = self.where(features).flatten(2).softmax(-1)  # (n, count, h w)
        ys, xs = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        grid = torch.stack([xs.flatten(), ys.flatten()], 1).to(weight)  # (h w, 2)
        content = weight @ self.what(features).flatten(2).transpose(1, 2)
        return torch.cat([(weight @ grid).flatten(1), content.flatten(1)], 1)


class Judge(nn.Module):
    """Read style, scene, food, glasses, hat, pose, identity and class from pictures, as `Probe` does."""

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 64, 128, 192),
        blocks: tuple[int, ...] = (0, 1, 2, 2),
        slots=24,
        hidden=256,
    ):
        super().__init__()
        self.widths, self.blocks, self.slots, self.hidden = tuple(widths), tuple(blocks), slots, hidden
        self.stem = nn.Conv2d(4 * 5, widths[0], 3, 1, 1)  # 2x2 pixels of RGB, x and y
        self.stages = nn.ModuleList()
        for index, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
            down = [nn.Conv2d(widths[index - 1], width, 3, 2, 1)] if index else []
            self.stages.append(nn.Sequential(*down, *(Block(width) for _ in range(depth))))
        self.lateral = nn.Conv2d(widths[3], widths[2], 1)  # what the coarse stage knows, given to the fine one
        self.norm = nn.GroupNorm(GROUPS, widths[2])
        self.look = Slots(widths[2], slots, 24)
        self.read_in = nn.Linear(self.look.size + widths[2] + widths[3], hidden)
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, len(v)) for name, v in NAMES.items()})
        self.continuous = nn.Linear(hidden + 2 * slots, len(world.CONTINUOUS))
        self.identity = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, IDENTITY_DIM))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map pictures (n, 3, 128, 128) in [0, 1] to logits, and `continuous` and `identity` in [-1, 1]."""
        fine, coarse = self.features(images)
        with torch.autocast(images.device.type, enabled=False):  # places need more than bfloat16's 8 bits
            return self.answers(fine.float(), coarse.float())

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map pictures in [0, 1] to features of 16x16, which know the coarse ones, and of 8x8."""
        x = F.pixel_unshuffle(with_coordinates(images * 2 - 1), 2).contiguous(memory_format=torch.channels_last)
        x = F.silu(self.stem(x))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        above = F.interpolate(self.lateral(x), scale_factor=2.0, mode="nearest")
        return F.silu(self.norm(features[2] + above)), x

    def answers(self, fine: Tensor, coarse: Tensor) -> dict[str, Tensor]:
        """Read both feature maps: what lies at the places looked at, and the mean over the picture."""
        places = self.look(fine)
        hidden = F.silu(self.read_in(torch.cat([places, fine.mean((2, 3)), coarse.mean((2, 3))], 1)))
        out = {name: head(hidden) for name, head in self.heads.items()}
        located = torch.cat([hidden, places[:, : 2 * self.slots]], 1)
        return out | {"continuous": self.continuous(located), "identity": self.identity(hidden)}

    def read(self, images: Tensor) -> Reading:
        """Read pictures (n, 3, h, w) in [0, 1]; they are resized to 128 px."""
        return read_with(self, images, self.stem.weight.device)


def with_coordinates(images: Tensor) -> Tensor:
    """Append each pixel's x and y in [-1, 1] as two channels (CoordConv, Liu et al. 2018)."""
    n, _, h, w = images.shape
    x = torch.linspace(-1, 1, w, device=images.device).expand(n, 1, h, w)
    y = torch.linspace(-1, 1, h, device=images.device)[:, None].expand(n, 1, h, w)
    return torch.cat([images, x, y], 1)


def save_judge(judge: Judge, folder: Path) -> None:
    """Write config.json and fp16 weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half().contiguous() for k, v in judge.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    shape = {"widths": judge.widths, "blocks": judge.blocks, "slots": judge.slots, "hidden": judge.hidden}
    factors = {k: list(v) for k, v in NAMES.items()}
    (folder / "config.json").write_text(json.dumps({**shape, "factors": factors}, indent=1) + "\n")


def load_judge(device: str = "cpu", folder: Path | None = None) -> Judge:
    """Load the shipped judge (or the one in `folder`); raises InputError if its weights are absent."""
    from safetensors.torch import load_file

    folder = folder or judge_dir()
    config = json.loads((folder / "config.json").read_text())
    judge = Judge(tuple(config["widths"]), tuple(config["blocks"]), config["slots"], config["hidden"])
    judge.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return judge.eval().requires_grad_(False).to(device)
