"""What the probe says of an edit on the drawn world: did the asked factor change, and what else moved."""

from __future__ import annotations

import torch
from torch import Tensor

from likeness.paperdoll.captions import asked
from likeness.paperdoll.world import CATEGORICAL

PIXELS = 128  # positions are reported in pixels of a 128 px picture


def compare(source, edited, source_prompt: str, target_prompt: str) -> dict[str, Tensor]:
    """Return probe metrics (n,) of two readings.

    `edit_success`: 1 where every factor whose asked value differs between the prompts is read as the target
    asks, NaN if the prompts ask for the same. `asked_shown`: share of all factors read as the target prompt
    asks. `head_shift_px`: distance between head centres at 128 px. `size_change`: relative, absolute value.
    `other_changed`: share of the factors not asked to change whose reading moved. `identity_shift`: root mean
    square over the traits, which lie in [-1, 1]. `blossom`: share of the crown, read from the edited picture.
    """
    before, after = asked(source_prompt), asked(target_prompt)
    changed = [name for name in CATEGORICAL if before[name] != after[name]]
    kept = [name for name in CATEGORICAL if name not in changed]
    shown = {name: edited.categorical[name] == CATEGORICAL[name].index(after[name]) for name in CATEGORICAL}
    moved = {name: edited.categorical[name] != source.categorical[name] for name in kept}
    n = len(edited.identity)
    dx, dy = (edited.continuous[axis] - source.continuous[axis] for axis in ("head_x", "head_y"))
    size = source.continuous["head_size"]
    return {
        "edit_success": share([shown[name] for name in changed], n).eq(1).float() if changed else nothing(n),
        "asked_shown": share(list(shown.values()), n),
        "head_shift_px": torch.hypot(dx, dy) * PIXELS,
        "size_change": (edited.continuous["head_size"] / size - 1).abs(),
        "other_changed": share(list(moved.values()), n),
        "identity_shift": (edited.identity - source.identity).pow(2).mean(1).sqrt(),
        "blossom": edited.continuous["blossom"],
    }


def share(flags: list[Tensor], n: int) -> Tensor:
    """Return the share of true flags of each picture; NaN if there are none."""
    return torch.stack(flags).float().mean(0) if flags else nothing(n)


def nothing(n: int) -> Tensor:
    return torch.full((n,), torch.nan)
