"""Where the embedded model's weights are: a pipeline in Stable Diffusion's layout, its CLIP, probe and judge."""

from __future__ import annotations

import os
from pathlib import Path

from likeness.errors import InputError

OVERRIDE = "LIKENESS_PAPERDOLL_WEIGHTS"
SHIPPED = Path(__file__).parent / "weights"
COMMAND = "python -m likeness.paperdoll.pretrain --out outputs/pretrain --install"


def weights_root() -> Path:
    """Return the folder of all parts; LIKENESS_PAPERDOLL_WEIGHTS overrides the shipped one."""
    return Path(os.environ[OVERRIDE]) if os.environ.get(OVERRIDE) else SHIPPED


def pipeline_dir() -> Path:
    """Return the folder that `StableDiffusionPipeline.from_pretrained` loads."""
    return _present("pipeline", "model_index.json", "unet/diffusion_pytorch_model.safetensors")


def clip_dir() -> Path:
    """Return the folder that `CLIPModel` and `CLIPProcessor` load."""
    return _present("clip", "config.json", "model.safetensors")


def probe_dir() -> Path:
    """Return the folder that `load_probe` reads."""
    return _present("probe", "config.json", "model.safetensors")


def judge_dir() -> Path:
    """Return the folder that `load_judge` reads."""
    return _present("judge", "config.json", "model.safetensors")


def _present(name: str, *files: str) -> Path:
    folder = weights_root() / name
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        where = f"${OVERRIDE} points there. " if os.environ.get(OVERRIDE) else ""
        raise InputError(
            f"The embedded model's {name} is not in {folder} (missing: {', '.join(missing)}). "
            f"{where}Train it with: {COMMAND}"
        )
    return folder
