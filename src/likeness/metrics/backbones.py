"""Where the metrics' weights are, and what is missing. Imports no torch: it is asked before long work."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from likeness.errors import InputError

CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
LPIPS_NETS = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}


def missing_embedded() -> list[str]:
    """Return one line for each folder of the embedded model's judges that is not there."""
    from likeness.paperdoll import weights

    lines = []
    for folder in (weights.clip_dir, weights.probe_dir):
        try:
            folder()
        except InputError as error:
            lines.append(f"- {error}")
    return lines


def missing_standard(lpips_net: str) -> list[str]:
    """Return one line for each file of CLIP ViT-L/14 and of the LPIPS trunk that is not cached."""
    from huggingface_hub import try_to_load_from_cache

    lines = []
    found = {name: isinstance(try_to_load_from_cache(CLIP_REPOSITORY, name), str) for name in ("config.json",)}
    weights = ("model.safetensors", "pytorch_model.bin")
    if not all(found.values()) or not any(
        isinstance(try_to_load_from_cache(CLIP_REPOSITORY, name), str) for name in weights
    ):
        lines.append(
            f"- CLIP ViT-L/14 ({CLIP_REPOSITORY}: config.json, model.safetensors, tokenizer): on a machine with "
            f"network run `hf download {CLIP_REPOSITORY}`, or copy its cache folder here (HF_HOME)."
        )
    path = lpips_file(lpips_net)
    if not path.is_file():
        lines.append(
            f"- LPIPS {lpips_net} needs torchvision's ImageNet weights as {path}; they are fetched by "
            f"`python -c \"import lpips; lpips.LPIPS(net='{lpips_net}')\"` on a machine with network."
        )
    return lines


def lpips_file(net: str) -> Path:
    """Return where torch.hub keeps the ImageNet trunk that LPIPS uses."""
    cache = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch"
    return Path(cache) / "hub" / "checkpoints" / LPIPS_NETS[net]


def file_hash(path: Path) -> str:
    """Return eight hex digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
