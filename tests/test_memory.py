"""What a process holds: freed memory until it is given back, unless the user said otherwise; no finished training."""

import gc
import json
import os
import platform
import subprocess
import sys
import weakref

import pytest
import tiny_dreambooth as tiny

MEMORY = """
import json
import torch
from likeness.malloc import give_back_freed_memory, keep_freed_memory
from likeness.prompt_to_prompt.benchmark import resident

keep_freed_memory()
before = resident()
blocks = [torch.ones(2**19) for _ in range(64)]
used = resident()
del blocks
freed = resident()
give_back_freed_memory()
print(json.dumps([value - before for value in (used, freed, resident())]))
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


def test_a_finished_training_leaves_nothing_in_memory(tmp_path, monkeypatch):
    import likeness.dreambooth.loop as module

    built, real = [], module.build

    def build(*args):
        loop = real(*args)
        built.append(weakref.ref(loop))
        return loop

    monkeypatch.setattr(module, "build", build)
    gc.disable()  # a cycle would wait for it, and on a GPU for too long
    try:
        tiny.train_tiny(tmp_path / "run")
        assert built[0]() is None
    finally:
        gc.enable()
