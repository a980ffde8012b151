"""Draw prompts with a fine-tuned model, nothing edited: is it the subject, and does it still do as it is told?

python -m likeness.sample FOLDER "photo of a tuki justin bieber eating a pizza" ... [--seeds 0 1 2 3] [--out FOLDER]
The noise of a seed is that of the cells, so that a seed's composition is found again there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from likeness import models
from likeness.errors import InputError


def sample(
    run: Path,
    prompts: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2, 3),
    *,
    steps: int = 50,
    guidance_scale: float | None = None,
    device: str = "auto",
    out: Path | None = None,
) -> Path:
    """Draw every prompt from every seed with DDIM; return the folder of grid.png, the pictures and sample.json.

    `guidance_scale` None: as the model's class pictures were drawn. What is there is not drawn again. InputError
    where the run is not finished, a prompt is empty, or a number makes no sense.
    """
    from likeness.dreambooth.storage import SETTINGS, is_finished, read_json, write_folder
    from likeness.report.grid import make_grid

    run = Path(run)
    if not is_finished(run):
        raise InputError(f"{run} holds no finished fine-tuned model; give the output folder of train.py.")
    prompts = [" ".join(prompt.split()) for prompt in prompts]
    if not all(prompts) or not prompts or not seeds or steps < 1:
        raise InputError("give at least one prompt that is not empty, one seed, and one step.")
    record = read_json(run / SETTINGS)
    if guidance_scale is None:
        guidance_scale = record["settings"]["class_guidance_scale"]
    about = {"prompts": prompts, "seeds": list(seeds), "steps": steps, "guidance_scale": guidance_scale}
    target = Path(out) if out else run / "drawn" / _name(about)
    if target.exists():
        if read_json(target / "sample.json") != about | {"model": run.resolve().name}:
            raise InputError(f"{target} is there and holds something else; choose another --out.")
        return target
    pictures = _draw(run, record, about, models.resolve_device(device))

    def fill(folder: Path) -> None:
        for row, images in enumerate(pictures):
            for seed, image in zip(seeds, images, strict=True):
                image.save(folder / f"prompt{row + 1:02d}-seed{seed:04d}.png")
        make_grid(pictures, prompts, [f"seed {seed}" for seed in seeds]).save(folder / "grid.png")
        (folder / "sample.json").write_text(json.dumps(about | {"model": run.resolve().name}, indent=1) + "\n")

    target.parent.mkdir(parents=True, exist_ok=True)
    write_folder(target, fill, "the pictures")
    return target


def _name(about: dict) -> str:
    first = "_".join(re.findall(r"[a-z0-9]+", about["prompts"][0].lower()))[:48] or "x"
    return f"{first}-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:8]}"


def _draw(run: Path, record: dict, about: dict, device: str) -> list[list[Image.Image]]:
    """Return a row of pictures for each prompt."""
    from tqdm import tqdm

    from likeness.dreambooth import load_finetuned
    from likeness.dreambooth.sampling import draw_all, latent_shape, spare_memory
    from likeness.prompt_to_prompt import seeded_latents

    pipe = load_finetuned(models.ModelSource(**record["model"]), run, models.resolve_dtype("auto", device), device)
    spare_memory(pipe, record["resolution"])
    noise = seeded_latents(about["seeds"], latent_shape(pipe, record["resolution"]))
    wanted = [(prompt, one) for prompt in about["prompts"] for one in noise]
    pictures = draw_all(pipe, wanted, about["steps"], about["guidance_scale"])
    off = not sys.stderr.isatty()
    drawn = list(tqdm(pictures, total=len(wanted), desc="drawing", unit="picture", disable=off))
    columns = len(about["seeds"])
    return [drawn[start : start + columns] for start in range(0, len(drawn), columns)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.sample", description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="the output folder of train.py")
    parser.add_argument("prompts", nargs="+", help="what to draw, one row each")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="one column each (default: 0 1 2 3)"
    )
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps (default: %(default)d)")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance scale (default: the model's)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="a new folder (default: FOLDER/drawn/PROMPT-HASH)")
    given = parser.parse_args(argv)
    numbers = {"steps": given.steps, "guidance_scale": given.guidance, "device": given.device, "out": given.out}
    try:
        print(sample(given.run, given.prompts, given.seeds, **numbers) / "grid.png")
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
