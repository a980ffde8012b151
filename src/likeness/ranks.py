"""Which process of a launch this is, as torchrun, accelerate and MPI say it. Asked before torch is imported."""

from __future__ import annotations

import os

NAMES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # accelerate reads the same ones


def is_main_process() -> bool:
    """Say whether this process is the one that prints, tracks and writes; a lone process is."""
    return not any(int(os.environ.get(name, 0)) for name in NAMES)
