"""The model card beside a fine-tuned model: what it is, how it was made, what was measured, how it is used."""

from __future__ import annotations

import json

from likeness.dreambooth.setup import Run
from likeness.dreambooth.storage import write_text
from likeness.models import ModelSource
from likeness.subjects import photos_hash

PIPELINE = "pipe = StableDiffusionPipeline"


def write_card(run: Run, before: dict[str, float], after: dict[str, float], step: int) -> None:
    """Write README.md into the run's folder; `before` holds what was measured of the base model."""
    lora = run.settings.method == "lora"
    concepts, model = run.concepts, run.model
    load = f'{_load_base(model)}\npipe.load_lora_weights("lora")' if lora else f'{PIPELINE}.from_pretrained("model")'
    if lora and model.source == "embedded":
        load = load.replace('"embedded"', "likeness.paperdoll.weights.pipeline_dir()")
        load = f"import likeness.paperdoll.weights\n\n{load}"
    subjects = "\n".join(
        f"- `{c.identifier}` ({c.class_word}): {len(c.photos)} photos ({photos_hash(c.photos)}), "
        f"prompt {c.instance_prompt!r}, class prompts: {', '.join(map(repr, c.class_prompts)) or 'none'}"
        for c in concepts
    )
    chosen = f"; the weights are those of step {step}, chosen from a ladder" if run.settings.ladder else ""
    write_text(
        run.out / "README.md",
        f"""---
base_model: {model.source}
library_name: diffusers
instance_prompt: {json.dumps(concepts[0].instance_prompt)}
tags: [diffusers, text-to-image, stable-diffusion, dreambooth{", lora" if lora else ""}]
---

# {", ".join(c.identifier for c in concepts)} on {model.name}

{model.name} ({model.source}, weights {run.identity["model"]}), fine-tuned with DreamBooth
({"LoRA" if lora else "full weights"}) for {run.settings.num_train_steps} steps{chosen}.

{subjects}

```python
from diffusers import StableDiffusionPipeline

{load}
image = pipe("{concepts[0].instance_prompt}").images[0]
```

Name the subject with identifier and class word together. The model shows a particular person, animal or thing:
use it only with their consent.

## Measured

Fixed noise and timesteps, so that runs compare; `samples/` and `history.csv` hold every look on the way.

| | base model | step {step} |
|---|---|---|
{_measured(before, after)}

## Settings

`settings.json` holds them too, with package versions.

| setting | value |
|---|---|
{_rows(run.settings.deciding())}
""",
    )


def _load_base(model: ModelSource) -> str:
    """Return the line that loads the base model: by its hub name, from a folder, or from one file."""
    if not model.source.endswith(".safetensors"):
        return f'{PIPELINE}.from_pretrained("{model.source}")'
    layout = f', config="{model.config}"' if model.config else ""
    return f'{PIPELINE}.from_single_file("{model.source}"{layout})'


def _measured(before: dict[str, float], after: dict[str, float]) -> str:
    def shown(values: dict[str, float], name: str) -> str:
        return f"{values[name]:.4g}" if name in values else ""

    return "\n".join(f"| {name} | {shown(before, name)} | {shown(after, name)} |" for name in sorted(after))


def _rows(values: dict) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in sorted(values.items()))
