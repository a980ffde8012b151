"""The judge: a second reader of the world's factors, by which everything generated is judged.

It shares nothing with any metric or loss: a residual network with group normalisation and attention-pooled slots
(the probe is an AlexNet trunk), trained from another seed on its own pictures with its own augmentation.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likeness.paperdoll import world
from likeness.paperdoll.probe import IDENTITY_DIM, NAMES, Reading, read_with
from likeness.paperdoll.weights import judge_dir

GROUPS = 8
SPAN = (0.6, 0.75)  # the part of the picture, from its middle, in which places start: people stand there
REACH = 4.0  # a quarter of half a picture is far: heads move no further
CONTENT, FINE = 24, 16  # numbers read at each place; side of the feature map they are read from


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
    """Look at `count` places of a feature map of `side` x `side`: where each lies, and what is there.

    Each place starts near a point of a regular grid and moves with what the features say.
    """

    def __init__(self, width: int, count: int, content: int, side: int):
        super().__init__()
        self.where, self.what = nn.Conv2d(width, count, 1), nn.Conv2d(width, content, 1)
        self.side, self.size = side, count * (2 + content)
        columns = math.ceil(math.sqrt(count))
        rows = math.ceil(count / columns)
        x = ((torch.arange(count) % columns + 0.5) / columns * 2 - 1) * SPAN[0]
        y = ((torch.arange(count) // columns + 0.5) / rows * 2 - 1) * SPAN[1]
        self.register_buffer("home", torch.stack([x, y], 1), persistent=False)
        distance = (self.grid()[:, None] - self.home).pow(2).sum(-1)  # (side side, count)
        self.prior = nn.Parameter(-distance.T * (columns / (2 * SPAN[0])) ** 2)

    def grid(self) -> Tensor:
        """Return x and y in [-1, 1] of every cell, (side side, 2)."""
        line = torch.linspace(-1, 1, self.side)
        ys, xs = torch.meshgrid(line, line, indexing="ij")
        return torch.stack([xs.flatten(), ys.flatten()], 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, width, side, side) to (n, size): how far each centre is from home, attended content."""
        weight = (self.where(features).flatten(2) + self.prior).softmax(-1)  # (n, count, side side)
        content = weight @ self.what(features).flatten(2).transpose(1, 2)
        moved = (weight @ self.grid().to(weight) - self.home) * REACH
        return torch.cat([moved.flatten(1), content.flatten(1)], 1)


class Judge(nn.Module):
    """Read style, scene, food, glasses, hat, pose, identity and class from pictures, as `Probe` does."""

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 64, 128, 192),
        blocks: tuple[int, ...] = (0, 1, 2, 2),
        slots: int = 36,
        hidden: int = 256,
    ):
        super().__init__()
        self.widths, self.blocks, self.slots, self.hidden = tuple(widths), tuple(blocks), slots, hidden
        self.stem = nn.Conv2d(4 * 5, widths[0], 3, 1, 1)  # 2x2 pixels of RGB, x and y
        self.stages = nn.ModuleList()
        for index, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
            above = widths[index - 1]
            down = [nn.GroupNorm(GROUPS, above), nn.SiLU(), nn.Conv2d(above, width, 3, 2, 1)] if index else []
            self.stages.append(nn.Sequential(*down, *(Block(width) for _ in range(depth))))
        self.lateral = nn.Conv2d(widths[3], widths[2], 1)  # what the coarse stage knows, given to the fine one
        self.norm = nn.GroupNorm(GROUPS, widths[2])
        self.look = Slots(widths[2], slots, CONTENT, FINE)
        self.read_in = nn.Linear(self.look.size + widths[2] + widths[3], hidden)
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, len(v)) for name, v in NAMES.items()})
        self.continuous = head(hidden + 2 * slots, hidden, len(world.CONTINUOUS))
        self.identity = head(hidden, hidden, IDENTITY_DIM)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map pictures (n, 3, 128, 128) in [0, 1] to logits, and `continuous` and `identity` in [-1, 1]."""
        fine, coarse = self.features(images)
        with torch.autocast(images.device.type, enabled=False):  # places need more than bfloat16's 8 bits
            return self.answers(fine.float(), coarse.float())

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map pictures in [0, 1] to features of 16x16, which know the coarse ones, and of 8x8."""
        x = F.pixel_unshuffle(with_coordinates(images * 2 - 1), 2).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
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


def head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


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
