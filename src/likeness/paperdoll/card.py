"""Put a pretraining's parts into the shipped folders (fp16); write the model card from what was measured."""

from __future__ import annotations

import json
from pathlib import Path

from likeness.errors import InputError
from likeness.paperdoll.bars import table, verdict
from likeness.paperdoll.checkpoints import read_state, write_atomic, write_json
from likeness.paperdoll.presets import Preset

TRAINING, SUBJECTS = "training.json", "subjects.md"
NOTES = "notes.json"  # beside the stages: sentences on how they came about, for the card
OPEN, CLOSE = "<!-- subjects -->", "<!-- /subjects -->"


def assemble_weights(out: Path, target: Path, preset: Preset, preset_name: str, seed: int) -> None:
    """Write `target`/pipeline, clip and probe from the stages' averaged weights, finished or not; and the judge."""
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPModel

    from likeness.models import save_pipeline
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
    vae.register_to_config(_name_or_path="")  # no path of this machine is shipped
    pipe = assemble(vae, model["text_encoder"], tokenizer, model["unet"])
    save_pipeline(pipe.to(dtype=torch.float16), target / "pipeline")
    save_clip(clip.half(), tokenizer, target / "clip")
    save_probe(load_probe(folder=out / "probe" / "model"), target / "probe")
    if (out / "judge" / "model" / "config.json").is_file():
        save_judge(load_judge(folder=out / "judge" / "model"), target / "judge")
    for config in (target / "pipeline" / "text_encoder", target / "clip"):
        load_in_float32(config / "config.json")
    write_json(target / TRAINING, training_record(out, preset, preset_name, seed))


def load_in_float32(config: Path) -> None:
    """Make transformers load fp16 weights as float32, as diffusers does: the parts must fit together."""
    content = json.loads(config.read_text())
    for part in (content, content.get("text_config", {}), content.get("vision_config", {})):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = "float32"
    write_json(config, content)


def training_record(out: Path, preset: Preset, preset_name: str, seed: int) -> dict:
    """Return how the weights came about: data and its hash, and how long each stage trained."""
    stages = {}
    for stage in ("vae", "clip", "probe", "unet", "judge"):
        state = read_state(out / stage / "checkpoint.safetensors")
        if state:
            stages[stage] = {
                "steps": state.earlier_steps + state.step,
                "batch": getattr(preset, stage).batch,
                "rounds": state.round + 1,
                "minutes": round((state.earlier_elapsed + state.elapsed) / 60, 1),
            }
    data = {"shared": out / "data" / "data.json", "judge": out / "judge" / "data" / "data.json"}
    read = {name: json.loads(file.read_text()) for name, file in data.items() if file.is_file()}
    notes = json.loads((out / NOTES).read_text()) if (out / NOTES).is_file() else []
    return {"preset": preset_name, "seed": seed, "data": read, "stages": stages, "notes": notes}


def training_table(stages: dict[str, dict]) -> str:
    lines = ["| stage | steps | batch | rounds | minutes |", "|---|---|---|---|---|"]
    lines += [f"| {stage} | {' | '.join(str(v) for v in about.values())} |" for stage, about in stages.items()]
    return "\n".join(lines)


def write_card(weights: Path, values: dict[str, float], command: str) -> None:
    """Write MODEL_CARD.md beside the weights; raises InputError if nothing there says how they were trained."""
    if not (weights / TRAINING).is_file():
        raise InputError(f"{weights / TRAINING} is missing: pretraining's stage 'card' writes it with the weights.")
    training = json.loads((weights / TRAINING).read_text())
    data = "\n".join(
        f"- {name}: {about['pictures']} pictures, seed {about['seed']}, sha256 `{about['sha256']}`"
        for name, about in training["data"].items()
    )
    notes = "".join(f"\n{note}\n" for note in training.get("notes", []))
    text = f"""# The embedded model `paperdoll`

A latent-diffusion model in Stable Diffusion's layout that draws paper-doll portraits at 128 px, its CLIP, its
probe and its judge, trained from nothing by
`python -m likeness.paperdoll.pretrain --preset {training["preset"]} --seed {training["seed"]}`.
It knows the drawn world of this repository and nothing else: no photographs, no real faces, no words beyond
the world's grammar.

Its text encoder starts as the CLIP's text tower with nothing passed from word to word and with the end token and
padding held constant: the picture is read from the words themselves, whose maps Prompt-to-Prompt edits. Stable
Diffusion's encoder mixes its words and gathers the sentence in the end token, so there one word's map decides less.

## Measured quality

By `{command}`, on pictures, prompts and seeds not trained on. A bar that is missed is missed: the measure stays.

{table(values)}

{verdict(values)}

`probe/x` and `judge/x` are the accuracies (errors: mean absolute) of the two readers on fresh renderings.
`autoencoder/x gained` is a reader's accuracy on reconstructions minus that on their originals. `drawn/x` is the
share of generated pictures in which the **judge** reads factor x as the prompt asks it; the judge shares neither
architecture, seed, data nor augmentation with the probe, and no metric or loss uses it. `diversity/x` compares many
seeds of one prompt with renderings of it: the 1-Wasserstein distance in standard deviations of the world, the same
between two samples of the world, and the ratio of the spreads; `asked to drawn` is a total variation distance.
{subjects_section(weights)}
## Training

{training_table(training["stages"])}

Data:
{data}

Where a stage's schedule was ended by minutes (`--minutes`), the number of steps above is what the machine
managed; `--steps` repeats it.
{notes}"""
    write_atomic(weights / "MODEL_CARD.md", lambda place: place.write_text(text))


def subjects_section(weights: Path) -> str:
    """Return what was measured on fine-tuned subjects, if it was (`python -m likeness.study.evaluate_subjects`)."""
    file = weights / SUBJECTS
    text = file.read_text().strip() if file.is_file() else "Not measured yet."
    return f"\n## Fine-tuned subjects\n\n{OPEN}\n{text}\n{CLOSE}\n"


def put_subjects(weights: Path, text: str) -> None:
    """Keep a table of fine-tuned subjects beside the weights and put it into their card; InputError without one."""
    card = weights / "MODEL_CARD.md"
    page = card.read_text() if card.is_file() else ""
    if page.count(OPEN) != 1 or page.count(CLOSE) != 1:
        raise InputError(f"{card} has no place for subjects: write it first with `make evaluate-paperdoll`.")
    write_atomic(weights / SUBJECTS, lambda place: place.write_text(f"{text.strip()}\n"))
    before, after = page[: page.index(OPEN)], page[page.index(CLOSE) + len(CLOSE) :]
    section = f"{OPEN}\n{text.strip()}\n{CLOSE}"
    write_atomic(card, lambda place: place.write_text(before + section + after))
