"""What was kept outside an edited region and what changed inside it; each value is of the region alone.

Shapes: n pictures of h x w pixels; a region (n, h, w) is boolean, True where the edit is meant to act.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

GREY_LEVELS = 12  # of 255; renderings that differ by less show the same thing
CONTRASTING = ("snowy mountain", "jungle")
MARGIN = 0.02  # of the picture's side, added around a rendered difference: the probe's error in place and size


def mean_within(values: Tensor, region: Tensor) -> Tensor:
    """Return the mean (n,) of values (n, h, w) over a region; NaN where it is empty."""
    inside = region.to(values)
    count = inside.sum((1, 2))
    return torch.where(count > 0, (values * inside).sum((1, 2)) / count.clamp_min(1), torch.nan)


def at_size(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (n, y, x) as boolean regions (n, h, w), each pixel that of the nearest map pixel."""
    return F.interpolate(masks[:, None].float(), size, mode="nearest-exact")[:, 0] > 0.5


def rendered_region(reading, source_prompt: str, target_prompt: str, size: tuple[int, int]) -> Tensor | None:
    """Return where the drawn world itself would change its picture for this edit (n, h, w); None if nowhere.

    Two renderings for each reading of a source picture, at the pose and looks the probe reads: one with what the
    source prompt asks, one with what the target prompt asks. A new style changes every pixel and has no outside:
    None. It is as true as the probe's reading of the pose.
    """
    from likeness.paperdoll.captions import asked
    from likeness.paperdoll.world import CATEGORICAL

    before, after = asked(source_prompt), asked(target_prompt)
    changed = [name for name in CATEGORICAL if before[name] != after[name]]
    if not changed or "style" in changed:
        return None
    regions = [_difference(factors_of(reading, i), before, after) for i in range(len(reading.identity))]
    return at_size(torch.from_numpy(np.stack(regions)), size)


def factors_of(reading, index: int):
    """Return the factors of a photo with the pose, place and looks that were read from a picture."""
    from likeness.paperdoll.world import Factors, Identity

    continuous = {name: float(values[index]) for name, values in reading.continuous.items()}
    identity = Identity.from_vector(reading.identity[index].numpy())
    return Factors(identity=identity, **continuous | {"blossom": 1.0})


def _difference(factors, before: dict[str, str], after: dict[str, str]) -> np.ndarray:
    from dataclasses import replace

    import cv2

    from likeness.paperdoll.captions import as_fields
    from likeness.paperdoll.world import render

    def drawn(asked: dict[str, str]) -> np.ndarray:
        fields = as_fields(asked)
        shown = {name: fields[name] for name in ("scene", "food", "sunglasses", "hat")}
        return render(replace(factors, **shown)).astype(np.int16)

    drawings = [drawn(before), drawn(after)]
    if before["scene"] != after["scene"]:  # two scenes agree by chance in places; the whole background is meant
        drawings += [drawn(after | {"scene": scene}) for scene in CONTRASTING]
    differs = (np.ptp(np.stack(drawings), axis=0).max(2) > GREY_LEVELS).astype(np.uint8)
    side = 2 * round(MARGIN * len(differs)) + 1
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.dilate(cv2.morphologyEx(differs, cv2.MORPH_CLOSE, ellipse), ellipse).astype(bool)
