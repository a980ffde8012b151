"""The finished model: saved as diffusers and its users expect it, and loaded again."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from likeness.dreambooth.settings import TrainSettings
from likeness.dreambooth.storage import (
    RESULTS,
    SETTINGS,
    is_finished,
    need_space,
    read_json,
    write_folder,
    write_text,
)
from likeness.errors import InputError
from likeness.models import ModelSource, load_pipeline, save_pipeline

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


def save_finetuned(pipe, settings: TrainSettings, out: Path) -> None:
    """Write out/model (full) or out/lora from the pipeline as it is now, in float32."""
    if settings.method == "full":
        size = sum(p.numel() * 4 for m in (pipe.unet, pipe.vae, pipe.text_encoder) for p in m.parameters())
        need_space(out, size, "the fine-tuned model")
        write_folder(out / "model", lambda folder: _save_full(pipe, folder), "the fine-tuned model")
    else:
        write_folder(out / "lora", lambda folder: save_lora(pipe, folder), "the LoRA")


def _save_full(pipe, folder: Path) -> None:
    frozen = {part: part.dtype for part in (pipe.vae, pipe.text_encoder) if part.dtype != torch.float32}
    for part in frozen:
        part.to(torch.float32)
    try:
        save_pipeline(pipe, folder)
    finally:
        for part, dtype in frozen.items():
            part.to(dtype)


def save_lora(pipe, folder: Path) -> None:
    """Write pytorch_lora_weights.safetensors as `load_lora_weights` reads it, alpha and rank included."""
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata

    parts = {"unet": pipe.unet}
    layers = {"unet_lora_layers": lora_layers(pipe.unet)}
    if getattr(pipe.text_encoder, "peft_config", None):
        parts["text_encoder"] = pipe.text_encoder
        layers["text_encoder_lora_layers"] = _classic_names(lora_layers(pipe.text_encoder))
    StableDiffusionPipeline.save_lora_weights(folder, **layers, **_collate_lora_metadata(parts))


def lora_layers(module) -> dict[str, torch.Tensor]:
    """Return a module's adapter weights under diffusers' names, float32, on the CPU."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(module))
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in layers.items()}


def _classic_names(layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put back the text_model level that transformers 5.6 dropped and every older reader expects."""
    return {f"text_model.{n}" if n.startswith("encoder.") else n: t for n, t in layers.items()}


def load_finetuned(base: ModelSource, folder: str | Path, dtype: str = "float32", device: str = "cpu"):
    """Load what `train` left in a folder: its own model (full), or the base model with its LoRA."""
    folder = Path(folder)
    if not is_finished(folder):
        raise InputError(f"{folder} holds no finished fine-tuned model; run train.py for it first.")
    record = read_json(folder / SETTINGS)["identity"]
    if record["settings"]["method"] == "full":
        own = ModelSource(f"{base.name} ({folder.name})", str((folder / "model").resolve()))
        return load_pipeline(own, dtype=dtype, device=device)
    pipe = load_pipeline(base, dtype=dtype, device=device)
    file = folder / RESULTS["lora"]
    pipe.load_lora_weights(str(file.parent.resolve()), weight_name=file.name, adapter_name="likeness")
    return pipe


def write_record(out: Path, model: ModelSource, settings: TrainSettings, about: dict[str, Any]) -> None:
    """Write settings.json, which makes the run finished."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    given = {"model": asdict(model), "settings": asdict(settings), "packages": packages}
    record = {"finished": True, **about, **given}
    write_text(out / SETTINGS, json.dumps(record, indent=1) + "\n")
