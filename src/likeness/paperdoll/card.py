"""Put a pretraining's parts into the shipped folders (fp16); write the model card with its measures."""

from __future__ import annotations

import json
from pathlib import Path

from likeness.paperdoll.checkpoints import read_state, write_atomic, write_json
from likeness.paperdoll.presets import Preset


def assemble_weights(out: Path, target: Path, preset: Preset) -> None:
    """Write `target`/pipeline, clip and probe from the stages' averaged weights, finished or not; and the judge."""
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPModel

    from likeness.paperdoll.checkpoints import load_average
    from likeness.paperdoll.clip import save_clip, text_encoder_from
    from likeness.paperdoll.judge import load_judge, save_judge
    from likeness.paperdoll.probe import load_probe, save_probe
    from likeness.paperdoll.tokenizer import load_tokenizer
    from likeness.paperdoll.unet import assemble, build_unet

    tokenizer = load_tokenizer(out / "tokenizer")
    clip = CLIPModel.from_pretrained(out / "clip" / "model")
    model = torch.nn.ModuleDict({"unet": build_unet(preset), "text_encoder": text_encoder_from(clip)})
    load_average(out / "unet" / "checkpoint.safetensors", model)
    vae = AutoencoderKL.from_pretrained(out / "vae" / "model")
    pipe = assemble(vae, model["text_encoder"], tokenizer, model["unet"])
    pipe.to(dtype=torch.float16).save_pretrained(target / "pipeline")
    save_clip(clip.half(), tokenizer, target / "clip")
    save_probe(load_probe(folder=out / "probe" / "model"), target / "probe")
    if (out / "judge" / "model" / "config.json").is_file():
        save_judge(load_judge(folder=out / "judge" / "model"), target / "judge")
    for config in (target / "pipeline" / "text_encoder", target / "clip"):
        load_in_float32(config / "config.json")


def load_in_float32(config: Path) -> None:
    """Make transformers load fp16 weights as float32, as diffusers does: the parts must fit together."""
    content = json.loads(config.read_text())
    for part in (content, content.get("text_config", {}), content.get("vision_config", {})):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = "float32"
    write_json(config, content)


def training(out: Path, preset: Preset) -> str:
    """Return how long each stage trained, as a Markdown table."""
    lines = ["| stage | steps | batch | rounds | minutes |", "|---|---|---|---|---|"]
    for stage in ("vae", "clip", "probe", "unet", "judge"):
        state = read_state(out / stage / "checkpoint.safetensors")
        if state:
            minutes = (state.earlier_elapsed + state.elapsed) / 60
            steps, batch = state.earlier_steps + state.step, getattr(preset, stage).batch
            lines.append(f"| {stage} | {steps} | {batch} | {state.round + 1} | {minutes:.1f} |")
    return "\n".join(lines)


def write_card(
    out: Path, weights: Path, preset_name: str, seed: int, *, pictures: int, steps: int = 50, guidance=5.0
) -> None:
    """Measure `weights` and write MODEL_CARD.md and measures.json beside them."""
    from likeness.paperdoll.evaluate import measure_all, table
    from likeness.paperdoll.presets import PRESETS

    values = measure_all(weights, pictures=2 * pictures, count=pictures, steps=steps, guidance=guidance)
    data = json.loads((out / "data" / "data.json").read_text())
    text = f"""# The embedded model `paperdoll`

A latent-diffusion model in Stable Diffusion's layout that draws paper-doll portraits at 128 px, its CLIP and
its probe, trained from nothing by
`python -m likeness.paperdoll.pretrain --preset {preset_name} --seed {seed}`.
It knows the drawn world of this repository and nothing else: no photographs, no real faces, no words beyond
the world's grammar.

## Measured quality

By `python -m likeness.paperdoll.evaluate --prompts {pictures} --pictures {2 * pictures} --steps {steps} \
--guidance {guidance}`, on pictures, prompts
and seeds not trained on. The aim is what later training is judged by; what is below it is below it.

{table(values)}

`drawn/x` is the share of generated pictures in which the shipped probe reads factor x as the prompt asks it.

## Training

{training(out, PRESETS[preset_name])}

Data: {data["pictures"]} pictures, seed {data["seed"]}, sha256 `{data["sha256"]}`.
Where a stage's schedule was ended by minutes (`--minutes`), the number of steps above is what the machine
managed; `--steps` repeats it.
"""
    write_json(weights / "measures.json", values)
    write_atomic(weights / "MODEL_CARD.md", lambda place: place.write_text(text))
