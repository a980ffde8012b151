"""Where the metrics' weights are, and what is missing. Imports no torch: it is asked before long work."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from likeness.errors import InputError

CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
DINO_STRUCTURE = "facebook/dino-vitb8"  # Tumanyan et al. 2022; PIE-Bench
DINO_SUBJECT = "facebook/dino-vits16"  # Ruiz et al. 2023, sec. 4.1
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # either will do, the first is named to who has neither
CLIP_FILES = (
    ("config.json",),
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer_config.json",),
    ("tokenizer.json", "vocab.json"),
    WEIGHTS,
)
DINO_FILES = (("config.json",), WEIGHTS)
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


def missing_standard(lpips_net: str, *, subject: bool = False) -> list[str]:
    """Return one line for each backbone of the field's metrics that is not cached; `subject` adds DINO ViT-S/16."""
    lines = missing_repository("CLIP ViT-L/14", CLIP_REPOSITORY, CLIP_FILES)
    lines += missing_repository("DINO ViT-B/8", DINO_STRUCTURE, DINO_FILES)
    if subject:
        lines += missing_repository("DINO ViT-S/16", DINO_SUBJECT, DINO_FILES)
    path = lpips_file(lpips_net)
    if not path.is_file():
        lines.append(
            f"- LPIPS {lpips_net} needs torchvision's ImageNet weights as {path}; they are fetched by "
            f"`python -c \"import lpips; lpips.LPIPS(net='{lpips_net}')\"` on a machine with network."
        )
    return lines


def missing_repository(title: str, repository: str, files: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return a line that says which files of a hub repository are missing and where they go; [] if none is.

    Of each entry of `files`, one name is enough.
    """
    missing = [names[0] for names in files if not any(cached(repository, name) for name in names)]
    if not missing:
        return []
    return [
        f"- {title}: {', '.join(missing)} of {repository} in {cache_folder(repository)}: run "
        f"`hf download {repository} {' '.join(missing)}` with network, or copy that folder from a machine that has it."
    ]


def cached(repository: str, name: str) -> Path | None:
    """Return where a file of a hub repository lies in the local cache, None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name)
    return Path(found) if isinstance(found, str) else None


def cache_folder(repository: str) -> Path:
    """Return the folder of a repository in the Hugging Face cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def repository_name(repository: str) -> str:
    """Return owner/name@hash, the hash that of the weights in the local cache.

    The cache keeps large files under their SHA-256, which spares reading gigabytes.
    """
    path = next(found for name in WEIGHTS if (found := cached(repository, name)))
    stored = path.resolve().name
    return f"{repository}@{stored[:8] if re.fullmatch('[0-9a-f]{64}', stored) else file_hash(path)}"


def lpips_file(net: str) -> Path:
    """Return where torch.hub keeps the ImageNet trunk that LPIPS uses."""
    cache = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch"
    return Path(cache) / "hub" / "checkpoints" / LPIPS_NETS[net]


def file_hash(path: Path) -> str:
    """Return eight hex digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
