"""Freed memory stays with the process that asked for it, and goes back where the user said so."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from likeness.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def work():
    torch.set_num_threads(1)
    return [torch.ones(2**19) for _ in range(8)]
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str, **environment: str) -> int:
    """Return how many pages were fetched anew while 16 MB were taken and freed fifty times."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS, word]
    done = subprocess.run(command, env=env | environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")
def test_freed_memory_is_kept_unless_the_user_said_otherwise():
    given_back = faults("given back")
    assert 10 * faults("kept") < given_back
    assert 2 * faults("kept", MALLOC_TRIM_THRESHOLD_="131072") > given_back
