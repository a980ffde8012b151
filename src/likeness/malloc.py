"""The C library's allocator, told to keep for the next step what a step frees.

glibc gives freed memory back to the system and faults it in anew, page by page; on a CPU that is a tenth of a training
step of the embedded model (measured).
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
KEPT = 2**30  # bytes free at the heap's top before any go back
ON_THE_HEAP = 2**25  # bytes; larger pieces are mapped and unmapped alone. glibc takes no more
OWN = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> None:
    """Set it up for this process; whoever set one of OWN keeps theirs, and other C libraries are left alone."""
    if sys.platform != "linux" or any(name in os.environ for name in OWN):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, ON_THE_HEAP)
        mallopt(TRIM_THRESHOLD, KEPT)


def give_back_freed_memory() -> None:
    """Give back once what is free now, before a long stretch of other work."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
