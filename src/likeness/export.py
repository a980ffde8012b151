"""Write a fine-tuned model as other programs want it: one checkpoint file, or a kohya-style LoRA, with metadata.

python -m likeness.export RUN_FOLDER [--out FILE] [--dtype float16]
Key names follow the original Stable Diffusion 1.x layout; OpenCLIP text encoders (2.x) are not written.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeness.errors import InputError
from likeness.models import DTYPES

if TYPE_CHECKING:
    from torch import Tensor

OPENCLIP_WIDTH = 1024
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def export(run: Path, out: Path | None = None, dtype: str = "float32") -> Path:
    """Write what suits the run: a checkpoint for method=full, a LoRA file for method=lora; return its path."""
    from likeness.dreambooth.storage import SETTINGS, is_finished, read_json

    run = Path(run)
    if not is_finished(run):
        raise InputError(f"{run} holds no finished fine-tuned model; give the output folder of train.py.")
    record = read_json(run / SETTINGS)
    method = record["identity"]["settings"]["method"]
    target = Path(out) if out else run / "export" / f"{run.resolve().name}.safetensors"
    if method == "lora":
        export_lora(run, target, record, dtype)
    else:
        metadata = {f"modelspec.{name}": value for name, value in _about(record, target).items()}
        export_checkpoint(run / "model", target, dtype, metadata)
    return target


def export_checkpoint(folder: Path, target: Path, dtype: str = "float32", metadata: dict | None = None) -> None:
    """Turn a folder in the diffusers layout into one file in the original Stable Diffusion 1.x layout."""
    folder = Path(folder)
    text_config = json.loads((folder / "text_encoder" / "config.json").read_text())
    if text_config["hidden_size"] == OPENCLIP_WIDTH:
        raise InputError(
            f"{folder} has the text encoder of Stable Diffusion 2.x, whose single-file form is not written here. "
            "Use the folder itself: every diffusers program reads it."
        )
    unet_config = json.loads((folder / "unet" / "config.json").read_text())
    vae_config = json.loads((folder / "vae" / "config.json").read_text())
    tensors: dict[str, Tensor] = {}
    for name, tensor in _load(folder / "unet").items():
        tensors[f"model.diffusion_model.{unet_name(name, unet_config)}"] = tensor
    for name, tensor in _load(folder / "vae").items():
        short, square = vae_name(name, len(vae_config["block_out_channels"]))
        tensors[f"first_stage_model.{short}"] = tensor[..., None, None] if square else tensor
    for name, tensor in _load(folder / "text_encoder").items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors[f"cond_stage_model.transformer.{name}"] = tensor
    _save(tensors, target, dtype, metadata or {})


# peft's names, and the two that diffusers gives UNet and text encoder
LORA_KEY = re.compile(r"(.*)\.(?:lora_|lora\.|lora_linear_layer\.)(A|B|down|up)\.weight")


def export_lora(run: Path, target: Path, record: dict[str, Any], dtype: str = "float32") -> None:
    """Turn run/lora into a file with lora_unet_* and lora_te_* keys, alpha included, and its metadata."""
    from safetensors.torch import load_file
    from torch import tensor

    settings = record["settings"]
    alpha = settings["lora_rank"] if settings["lora_alpha"] is None else settings["lora_alpha"]
    tensors: dict[str, Tensor] = {}
    for name, weight in load_file(run / "lora" / "pytorch_lora_weights.safetensors").items():
        module, which = LORA_KEY.fullmatch(name).groups()
        part, path = module.split(".", 1)
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + path.replace(".", "_")
        end = "lora_down" if which in {"A", "down"} else "lora_up"
        tensors[f"{prefix}.{end}.weight"] = weight
        tensors[f"{prefix}.alpha"] = tensor(float(alpha))
    about, second = _about(record, target), _is_second(record)
    v_prediction = record["prediction_type"] == "v_prediction"
    subjects = record["identity"]["subjects"]
    metadata = {f"modelspec.{name}": value for name, value in about.items()} | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(settings["lora_rank"]),
        "ss_network_alpha": str(float(alpha)),
        "ss_base_model_version": f"sd_v2{'_v' if v_prediction else ''}" if second else "sd_v1",
        "ss_v2": str(second),
        "ss_sd_model_name": _name_of_base(record["model"]["source"]),
        "ss_output_name": target.stem,
        "ss_learning_rate": str(settings["learning_rate"]),
        "ss_max_train_steps": str(settings["num_train_steps"]),
        "ss_resolution": about["resolution"],
        "ss_num_train_images": str(sum(len(s["captions"]) for s in subjects)),
        "ss_tag_frequency": json.dumps({s["identifier"]: _frequency(s["captions"]) for s in subjects}),
    }
    _save(tensors, target, dtype, metadata)


def unet_name(name: str, config: dict[str, Any]) -> str:
    """Return the original name of a diffusers UNet tensor."""
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    per_block = config["layers_per_block"] + 1
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        place, block, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        index = block * per_block + layer + (1 if place == "down" else 0)
        side = "input_blocks" if place == "down" else "output_blocks"
        return f"{side}.{index}.0.{_resnet(rest)}" if kind == "resnets" else f"{side}.{index}.1.{rest}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(match[1]) + 1) * per_block}.0.op.{match[2]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
        block = int(match[1])
        place = 2 if "CrossAttn" in config["up_block_types"][block] else 1
        return f"output_blocks.{block * per_block + per_block - 1}.{place}.conv.{match[2]}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        if match[1] == "attentions":
            return f"middle_block.1.{match[3]}"
        return f"middle_block.{2 * int(match[2])}.{_resnet(match[3])}"
    raise InputError(f"the UNet tensor {name} has no place in the Stable Diffusion 1.x file layout.")


def vae_name(name: str, blocks: int) -> tuple[str, bool]:
    """Return the original name of a diffusers VAE tensor, and whether it must become a 1x1 convolution."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample.", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", name)
    square = False
    if match := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.*)\.(weight|bias)", name):
        name = f"{match[1]}mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
        square = match[3] == "weight" and match[2] != "group_norm"
    return name, square


def _resnet(rest: str) -> str:
    part, end = rest.split(".", 1)
    return f"{RESNET[part]}.{end}"


def _about(record: dict[str, Any], target: Path) -> dict[str, str]:
    """Return the modelspec fields (sai_model_spec 1.0.1)."""
    subjects, side = record["identity"]["subjects"], str(record["resolution"])
    lora = record["identity"]["settings"]["method"] == "lora"
    second = "v2-768-v" if record["prediction_type"] == "v_prediction" else "v2-512"
    return {
        "sai_model_spec": "1.0.1",
        "architecture": f"stable-diffusion-{second if _is_second(record) else 'v1'}{'/lora' if lora else ''}",
        "implementation": "diffusers",
        "title": target.stem,
        "trigger_phrase": ", ".join(f"{s['identifier']} {s['class_word']}" for s in subjects),
        "prediction_type": {"epsilon": "epsilon", "v_prediction": "v"}[record["prediction_type"]],
        "resolution": f"{side}x{side}",
    }


def _is_second(record: dict[str, Any]) -> bool:
    """Say whether the base model is of the Stable Diffusion 2.x family; records of before it was noted do not know."""
    return record.get("text_width") == OPENCLIP_WIDTH


def _name_of_base(source: str) -> str:
    """Return a hub id as it is, and of a folder or file its name alone, as kohya's scripts do."""
    return source if re.fullmatch(r"[\w.-]+/[\w.-]+", source) else Path(source).name


def _frequency(captions: list[str]) -> dict[str, int]:
    return {caption: captions.count(caption) for caption in dict.fromkeys(captions)}


def _load(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def _save(tensors: dict[str, Tensor], target: Path, dtype: str, metadata: dict[str, str]) -> None:
    import torch
    from safetensors.torch import save_file

    from likeness.dreambooth.storage import need_space
    from likeness.subjects import make_folder

    wanted = getattr(torch, DTYPES[dtype])
    tensors = {n: (t.to(wanted) if t.is_floating_point() else t).contiguous() for n, t in tensors.items()}
    make_folder(target.parent)
    need_space(target.parent, sum(t.numel() * t.element_size() for t in tensors.values()), target.name)
    fresh = target.with_name(f".{target.name}.partial")
    save_file(tensors, fresh, metadata={"format": "pt", **metadata})
    fresh.replace(target)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m likeness.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="output folder of train.py")
    parser.add_argument("--out", type=Path, help="file to write (default: RUN/export/<name>.safetensors)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    asked = parser.parse_args(arguments)
    try:
        print(export(asked.run, asked.out, asked.dtype))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
