"""Fixtures shared by all tests: a tiny Stable-Diffusion-shaped pipeline and a quiet, offline environment."""

import os
import shutil
from pathlib import Path

import pytest
from golden_unet import random_unet

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: the cores are shared out already
    os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory) -> Path:
    """Folder of a tiny random-weight StableDiffusionPipeline: that of the golden samplings, 32x32 latents."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("tiny") / "pipe"
    shutil.copytree(GOLDEN / "pipe", folder)
    rows = folder / "text_encoder" / "rows.safetensors"
    weights = load_file(rows)
    rows.unlink()
    name = next(key for key in weights if "token_embedding" in key)
    token_ids = weights.pop("token_ids")
    table = torch.zeros(49408, weights[name].shape[1])
    table[token_ids] = weights[name]
    random_unet("unet_3_levels").save_pretrained(folder / "unet")
    named = {f"text_model.{key}": tensor for key, tensor in (weights | {name: table}).items()}  # transformers < 5.6
    save_file(named, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of random weights that take the place of the embedded model in all tests of a file."""
    import tiny_study

    from likeness import metrics
    from likeness.study import draw

    def forget():
        metrics.forget()
        draw.load_cached.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        root = tiny_study.build_world(tmp_path_factory.mktemp("world"))
        patch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(root))
        forget()
        yield root
    forget()


def load_tiny(folder: Path):
    """Load the tiny pipeline, progress bar off."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def tiny_pipe(tiny_sd):
    """A tiny pipeline of the test's own, which it may change."""
    return load_tiny(tiny_sd)


@pytest.fixture(scope="module")
def pipe(tiny_sd):
    """A tiny pipeline that the tests of a module share; they leave it as it was."""
    return load_tiny(tiny_sd)


@pytest.fixture(autouse=True)
def _isolated_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb"))
