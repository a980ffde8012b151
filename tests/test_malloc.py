"""Freed memory stays with the process until it is given back, and goes at once where the user said so."""

import json
import os
import platform
import subprocess
import sys

import pytest

MEMORY = """
import json
from pathlib import Path
import torch
from likeness.malloc import give_back_freed_memory, keep_freed_memory

def held():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

keep_freed_memory()
before = held()
blocks = [torch.ones(2**19) for _ in range(64)]
used = held()
del blocks
freed = held()
give_back_freed_memory()
print(json.dumps([value - before for value in (used, freed, held())]))
"""
USED = 64 * 2  # MB


def megabytes(**environment: str) -> list[float]:
    """Return how much more a process holds with 128 MB taken, with them freed, and with freed memory given back."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, env=env | environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")
def test_freed_memory_is_kept_until_it_is_given_back():
    used, freed, given_back = megabytes()
    assert used > 0.9 * USED and freed > 0.9 * USED and given_back < 0.2 * USED


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")
def test_whoever_said_otherwise_has_it_their_way():
    used, freed, _ = megabytes(MALLOC_TRIM_THRESHOLD_="131072")
    assert used > 0.9 * USED and freed < 0.2 * USED
