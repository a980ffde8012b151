"""What a record says about where it was made: packages, git state, device, command."""

from __future__ import annotations

import functools
import platform
import shlex
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "likeness", "torch", "torchvision", "diffusers", "transformers", "tokenizers", "accelerate", "peft",
    "safetensors", "lpips", "torchmetrics", "numpy", "pillow",
)  # fmt: skip


@functools.cache
def environment() -> dict[str, Any]:
    """Return package versions, python, platform and git state of the checkout, if it is one."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "packages": packages,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git_state(),
    }


def git_state() -> dict[str, Any] | None:
    """Return commit and dirtiness of the checkout this package runs from; None outside one."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def short_commit(state: dict[str, Any] | None) -> str:
    """Return what `git_state` found as "1a2b3c4d", with a plus where files were changed since; "unknown" for None."""
    state = state or {}
    return f"{str(state.get('commit', 'unknown'))[:8]}{'+' if state.get('dirty') else ''}"


def hardware(device: str) -> dict[str, Any]:
    """Return what the device is, and the thread count, on which the last bits of a CPU's sums depend."""
    import torch

    if device.startswith("cuda"):
        return {"name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "threads": None}
    return {"name": platform.processor() or platform.machine(), "cuda": None, "threads": torch.get_num_threads()}


def option_name(override: str) -> str:
    """Return what an override of the command line names: "model.source" of "++model.source=/x"."""
    return override.partition("=")[0].lstrip("+~")


def entry_command(script: str, overrides: list[str]) -> str:
    """Return `python script override ...`, quoted for a shell."""
    return shlex.join(["python", script, *overrides])
