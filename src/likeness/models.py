"""Name a Stable Diffusion model and load it: embedded, hub id, local folder, or one .safetensors file.

Everything that can be known without torch (is it there, which files, which content) is answered without
importing it. Nothing is ever unpickled: only safetensors weights are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from likeness.errors import InputError
from likeness.file_hashes import file_hashes

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
WITHDRAWN = {"runwayml/stable-diffusion-v1-5": SD15}
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
)
DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "no": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}


@dataclass(frozen=True)
class ModelSource:
    """Say where a model comes from; `source` is "embedded", a hub id, a folder or a .safetensors file.

    `config` is a local folder in the diffusers layout that a single file is read against when offline.
    """

    name: str
    source: str
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    local_files_only: bool = False


def check_available(model: ModelSource) -> None:
    """Raise InputError naming what is missing and how to get it; does not import torch."""
    kind, path = locate(model)
    if kind == "folder":
        _check_folder(path, model)
    elif kind == "file":
        _check_single_file(path, model)
    elif path is None and _offline(model):
        raise InputError(_not_cached(model))


def locate(model: ModelSource) -> tuple[str, Path | None]:
    """Return ("folder" | "file" | "hub", path); a hub model that is not cached has no path."""
    source = model.source
    if source == "embedded":
        from likeness.paperdoll.weights import pipeline_dir

        return "folder", Path(pipeline_dir())
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise InputError(
                f"model {model.name}: {source} is a {path.suffix or 'bare'} file; only .safetensors is read, "
                "because other formats can run code when opened. Convert it to safetensors first."
            )
        return "file", path
    if path.is_dir():
        return "folder", path
    if source in WITHDRAWN:
        raise InputError(f"model {model.name}: {source} was withdrawn from the hub; use {WITHDRAWN[source]}.")
    if _looks_local(source):
        raise InputError(
            f"model {model.name}: there is no file or folder {source}. Give a folder in the diffusers layout "
            f"(model_index.json, unet/, vae/, ...), a .safetensors file, or a hub id such as {SD15}."
        )
    return "hub", _cached_snapshot(model)


def to_download(model: ModelSource) -> str | None:
    """Return the command that fetches what is still to come from the hub; None where all is there. Asks nobody."""
    kind, path = locate(model)
    if kind == "hub" and path is None:
        return _download_command(model)
    if kind == "file" and not model.config and _cached_snapshot(ModelSource(model.name, SD15), CONFIGS) is None:
        return f"hf download {SD15} --include '*.json' 'tokenizer/*'"
    return None


def load_pipeline(model: ModelSource, *, dtype: str = "float32", device: str = "cpu") -> StableDiffusionPipeline:
    """Load the whole pipeline, without safety checker and progress bar, in evaluation mode."""
    check_available(model)
    import torch
    from diffusers import StableDiffusionPipeline

    kind, path = locate(model)
    plain = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    try:
        with quietly():
            if kind == "file":
                pipe = StableDiffusionPipeline.from_single_file(
                    str(path),
                    config=model.config or SD15,
                    local_files_only=bool(model.config) or _offline(model),
                    **plain,
                )
            else:
                pipe = StableDiffusionPipeline.from_pretrained(
                    str(path) if kind == "folder" else model.source,
                    revision=model.revision,
                    variant=model.variant,
                    use_safetensors=True,
                    local_files_only=kind == "folder" or _offline(model),
                    **plain,
                )
    except InputError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds, all meaning "this model cannot be read"
        raise InputError(_unreadable(model, kind, error)) from error
    pipe.safety_checker = None
    pipe.set_progress_bar_config(disable=True)
    wanted = getattr(torch, DTYPES[dtype])
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.eval()
        if any(p.dtype != wanted for p in part.parameters()):
            part.to(wanted)
    return pipe.to(resolve_device(device))


def save_pipeline(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write a pipeline in Stable Diffusion's layout as every version of transformers reads it.

    5.6 dropped the first level of the text encoder's names, without which older ones start it at random and only warn;
    5.0 dropped the tokenizer's vocab.json and merges.txt. Newer ones read these forms, too.
    """
    from safetensors.torch import load_file, save_file

    with quietly():
        pipe.save_pretrained(folder, safe_serialization=True)
    file = folder / "text_encoder" / f"{WEIGHTS['text_encoder']}.safetensors"
    weights = load_file(file)
    if not any(name.startswith("text_model.") for name in weights):
        fresh = file.with_suffix(".part")  # the old file is what the tensors lie in
        save_file({f"text_model.{name}": t for name, t in weights.items()}, fresh, metadata={"format": "pt"})
        fresh.replace(file)
    if not (folder / "tokenizer" / "vocab.json").is_file():
        pipe.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence the libraries' loading bars, and give them back as they were."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loud = [lib for lib in (diffusers_logging, transformers_logging) if lib.is_progress_bar_enabled()]
    for library in loud:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in loud:
            library.enable_progress_bar()


def weights_id(model: ModelSource) -> str:
    """Hash what the model is made of (12 hex digits); file hashes are remembered by size and time.

    With a single file, the configuration and tokenizer it is read against count as well. What is not in the local
    cache of the hub is downloaded first.
    """
    kind, path = locate(model)
    if kind == "file":
        config = _configuration(model)
        return _hash_files({path.name: path} | {str(f.relative_to(config)): f for f in _descriptions(config)})
    path = path or _download(model)
    return _hash_files({str(f.relative_to(path)): f for f in _used_files(path, model.variant)})


def file_id(file: Path) -> str:
    """Hash one file of weights that is no model by itself, such as a LoRA (12 hex digits)."""
    return _hash_files({file.name: file})


def resolve_device(name: str) -> str:
    """Turn "auto" into the best device there is; refuse one that is not there."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    kind = name.split(":")[0]
    if kind not in there:
        raise InputError(f"device={name} is unknown; choose auto, {', '.join(there)}.")
    if not there[kind] or (kind == "cuda" and not _has_gpu(name)):
        raise InputError(f"device={name} is not available here; use device=auto or device=cpu.")
    return name


def _has_gpu(name: str) -> bool:
    import torch

    index = name.partition(":")[2] or "0"
    return index.isdigit() and int(index) < torch.cuda.device_count()


def resolve_dtype(name: str, device: str) -> str:
    """Return float32, bfloat16 or float16 as torch names it; refuse one the device does not do."""
    import torch

    if name == "auto":
        return "float16" if device.startswith("cuda") else "float32"
    if name not in DTYPES:
        raise InputError(f"precision {name!r} is unknown; choose one of {', '.join(['auto', *DTYPES])}.")
    dtype = DTYPES[name]
    if device == "cpu" and dtype == "float16":
        raise InputError("float16 does not run on the CPU; use float32 (or bfloat16).")
    if device == "cpu" and dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise InputError("this CPU does not compute in bfloat16; use float32.")
    if device.startswith("cuda") and dtype == "bfloat16" and not torch.cuda.is_bf16_supported(False):
        raise InputError("this GPU does not compute in bfloat16; use float16 or float32.")
    return dtype


def _offline(model: ModelSource) -> bool:
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    on = {"1", "TRUE", "ON", "YES"}
    return model.local_files_only or any(os.environ.get(name, "").upper() in on for name in switches)


def _looks_local(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.endswith(".safetensors") or source.count("/") != 1


def _weight_file(part: str, variant: str | None) -> str:
    return f"{part}/{WEIGHTS[part]}{f'.{variant}' if variant else ''}.safetensors"


def _check_folder(folder: Path, model: ModelSource) -> None:
    needed = [*CONFIGS, *(_weight_file(part, model.variant) for part in WEIGHTS)]
    missing = [name for name in needed if not (folder / name).is_file() and not _sharded(folder / name)]
    if not missing:
        return
    if "model_index.json" in missing:
        raise InputError(
            f"model {model.name}: {folder} is not a folder in the diffusers layout (no model_index.json). "
            "Give the folder that holds model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/."
        )
    pickled = [p.name for p in folder.glob("*/*.bin")]
    hint = f" Pickled weights ({pickled[0]}) are not read: convert them to safetensors." if pickled else ""
    raise InputError(f"model {model.name}: {folder} lacks {', '.join(missing)}.{hint}")


def _sharded(file: Path) -> bool:
    return (file.parent / f"{file.name}.index.json").is_file()


def _check_single_file(path: Path, model: ModelSource) -> None:
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        torn = size <= 0 or size + 8 > path.stat().st_size or stream.read(1) != b"{"
    if torn:
        raise InputError(f"model {model.name}: {path} is not a whole safetensors file; fetch it again.")
    if model.config:
        config = Path(model.config).expanduser()
        missing = [name for name in CONFIGS if not (config / name).is_file()]
        if missing:
            raise InputError(f"model {model.name}: model.config={config} lacks {', '.join(missing)}.")
    elif _offline(model) and _cached_snapshot(ModelSource(model.name, SD15), CONFIGS) is None:
        raise InputError(
            f"model {model.name}: a single file holds weights only, and the configuration and tokenizer of "
            f"{SD15} are not cached. Give a local folder in its layout as model.config=FOLDER, or go online."
        )


def _cached_snapshot(model: ModelSource, needed: tuple[str, ...] | None = None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    needed = needed or (*CONFIGS, *(_weight_file(part, model.variant) for part in WEIGHTS))
    found = [try_to_load_from_cache(model.source, name, revision=model.revision or "main") for name in needed]
    return Path(found[0]).parent if all(isinstance(f, str) for f in found) else None


def _download(model: ModelSource, weights: bool = True) -> Path:
    """Fetch what a pipeline is loaded from, nothing pickled among it; return the folder.

    Without `weights`, only the configuration and tokenizer.
    """
    if _offline(model):
        raise InputError(_not_cached(model))
    from huggingface_hub import snapshot_download

    wanted = [*CONFIGS, "tokenizer/*", *(_weight_file(part, model.variant) for part in WEIGHTS if weights)]
    try:
        folder = Path(snapshot_download(model.source, revision=model.revision, allow_patterns=wanted))
    except Exception as error:  # no network, no such model, gated, disk full: the hub's client has a class for each
        raise InputError(_unreadable(model, "hub", error)) from error
    if weights:
        _check_folder(folder, model)
    return folder


def _not_cached(model: ModelSource) -> str:
    files = ", ".join(_weight_file(part, model.variant) for part in WEIGHTS)
    return (
        f"model {model.name}: {model.source} is not in the local cache and downloads are off or failed. "
        f"Needed: {files} and the *.json and tokenizer files. Either run "
        f"`{_download_command(model)}` with a network, or give a local copy: "
        "model.source=FOLDER (diffusers layout) or a .safetensors file."
    )


def _download_command(model: ModelSource) -> str:
    revision = f" --revision {model.revision}" if model.revision else ""
    variant = f" --include '*.{model.variant}.safetensors' '*.json' '*.txt'" if model.variant else ""
    return f"hf download {model.source}{revision}{variant}"


def _unreadable(model: ModelSource, kind: str, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if kind == "hub":
        return f"{_not_cached(model)} (The library said: {lines[0]})"
    against = ""
    if kind == "file":
        against = f" (It was read against the configuration of {model.config or SD15}; another: model.config=FOLDER.)"
    return f"model {model.name}: {model.source} could not be loaded as Stable Diffusion 1.x/2.x: {lines[0]}{against}"


def _hash_files(files: dict[str, Path]) -> str:
    """Hash names and contents, in this order."""
    digest = hashlib.sha256()
    for name, content in zip(files, file_hashes(list(files.values())), strict=True):
        digest.update(name.encode())
        digest.update(content.encode())
    return digest.hexdigest()[:12]


def _configuration(model: ModelSource) -> Path:
    """Return the folder whose configuration and tokenizer a single file is read against; fetch it if need be."""
    if model.config:
        return Path(model.config).expanduser()
    base = ModelSource(model.name, SD15, local_files_only=model.local_files_only)
    return _cached_snapshot(base, CONFIGS) or _download(base, weights=False)


def _used_files(folder: Path, variant: str | None) -> list[Path]:
    """List the files that decide what the pipeline computes: configurations, tokenizer, chosen weights."""
    chosen = {_weight_file(part, variant) for part in WEIGHTS}
    files = [folder / name for name in chosen if (folder / name).is_file()]
    files += [file for part in WEIGHTS for file in (folder / part).glob("*-of-*.safetensors")]
    return sorted({file for file in [*files, *_descriptions(folder)] if file.is_file()})


def _descriptions(folder: Path) -> list[Path]:
    """List the configurations and the tokenizer's files, in order of their names."""
    files = [folder / part / "config.json" for part in WEIGHTS]
    files += [*(folder / "tokenizer").glob("*"), *(folder / "scheduler").glob("*.json")]
    return sorted(file for file in files if file.is_file())
