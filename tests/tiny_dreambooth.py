"""A tiny random Stable Diffusion and photos to fine-tune it on; run as a script it trains, to be killed.

python tiny_dreambooth.py FOLDER OUT '{"method": "lora", ...}' ['["module", "function", calls]']
"""

import atexit
import functools
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from likeness.dreambooth import Concept, TrainSettings
from likeness.models import ModelSource
from likeness.subjects import find_photos


def save_model(folder: Path, *, prediction_type: str = "epsilon", channels: int = 4, width: int = 16) -> Path:
    """Write a random pipeline of 32 px pictures and 16x16 latents, in the diffusers layout."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=32,
        mid_block_add_attention=False,
        scaling_factor=0.5,
    )
    tokenizer = _tokenizer(folder / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    ).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path):
    """Build a CLIPTokenizer whose only tokens are bytes."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def save_photos(folder: Path, count: int = 4, size: int = 96, offset: int = 0) -> Path:
    """Draw photos that differ from each other."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        rng = np.random.default_rng(offset + k)
        image = Image.new("RGB", (size, size + 16 * (k % 2)), tuple(rng.integers(0, 255, 3).tolist()))
        left, top = rng.integers(0, size // 2, 2).tolist()
        ImageDraw.Draw(image).ellipse((left, top, left + 40, top + 40), fill=tuple(rng.integers(0, 255, 3).tolist()))
        image.save(folder / f"{k:02d}.png")
    return folder


def concept(photos: Path, identifier: str = "tuki", class_word: str = "man", prior: bool = True) -> Concept:
    """Describe the subject of a photo folder."""
    return Concept(
        identifier,
        class_word,
        f"photo of {identifier} {class_word}",
        find_photos(photos),
        class_prompts=[f"photo of a {class_word}"] if prior else [],
    )


QUICK = {
    "num_train_steps": 6,
    "learning_rate": 1e-3,
    "train_batch_size": 2,
    "num_class_images": 8,
    "class_num_inference_steps": 2,
    "log_every": 1,
    "checkpoint_every": 2,
    "sample_every": 0,
    "sample_num_inference_steps": 2,
    "sample_seeds": (0,),
    "validation_every": 3,
}


def settings(**changes) -> TrainSettings:
    """Return settings of a run of seconds."""
    return TrainSettings(**(QUICK | changes))


CALLBACKS = ("on_event", "probe_samples", "choose_step")


@functools.cache
def root() -> Path:
    """Return a folder with model/, photos/ and photos2/, made once per process and removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="likeness-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save_model(folder / "model")
    save_photos(folder / "photos")
    save_photos(folder / "photos2", count=3, offset=50)
    return folder


def train_tiny(out: Path, *, model: Path | None = None, class_root: Path | None = None, concepts=None, **options):
    """Train the tiny model in this process; options not known to the trainer are settings."""
    from likeness.dreambooth import train

    known = {name: options.pop(name) for name in CALLBACKS if name in options}
    return train(
        source(model or root() / "model"),
        concepts or [concept(root() / "photos")],
        settings(**options),
        out,
        class_root=class_root or root() / "class",
        device="cpu",
        **known,
    )


def weights(out: Path, part: str = "unet") -> dict:
    """Return the tensors of a finished model; the text encoder's under the names of any version of transformers."""
    from safetensors.torch import load_file

    name = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
    folder = out / "model" if (out / "model").exists() else out
    return {key.removeprefix("text_model."): tensor for key, tensor in load_file(folder / part / name).items()}


def same(one: dict, other: dict) -> bool:
    """Say whether two sets of tensors are equal bit for bit."""
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def pixels(images):
    """Return the pictures of a sample grid (n, values) in [0, 1]."""
    import torch

    return torch.tensor([list(image.tobytes()) for row in images.values() for image in row]).float() / 255


def grid(folder):
    """Return the sample grid of a model that was saved, or of a pipeline, as `pixels`."""
    from likeness.dreambooth.sampling import SampleGrid
    from likeness.models import load_pipeline

    pipe = load_pipeline(source(folder)) if isinstance(folder, Path) else folder
    return pixels(SampleGrid(pipe, [concept(root() / "photos")], settings(), 32).draw())


def source(folder: Path) -> ModelSource:
    """Name a local model."""
    return ModelSource("tiny", str(folder), local_files_only=True)


def die_at(module: str, name: str, calls: int) -> None:
    """Have this process killed with SIGKILL at the given call of a function."""
    importlib.import_module("likeness.dreambooth.loop")  # whose modules keep the functions they import
    target = importlib.import_module(module)
    real, seen = getattr(target, name), [0]

    def counting(*args, **kwargs):
        seen[0] += 1
        if seen[0] == calls:
            if name == "save_file":  # leave half a file behind
                Path(args[1]).write_bytes(b"\x08\x00\x00\x00torn")
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(target, name, counting)


def main(root: Path, out: Path, changes: dict) -> None:
    """Train in a process of its own; root holds model/ and photos/, class pictures go to out's parent."""
    import torch

    from likeness.dreambooth import train

    torch.set_num_threads(1)
    subjects = changes.pop("subjects", ["photos"])
    names = ["tuki", "bnhx"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        concepts = [concept(root / folder, names[k]) for k, folder in enumerate(subjects)]
        result = train(
            source(root / "model"),
            concepts,
            settings(**changes),
            out,
            class_root=out.parent / f"{out.name}-class",
            device="cpu",
            on_event=lambda event: sys.stdout.write(f"{event.kind} {event.step}\n"),
            choose_step=lambda rows: 2,
        )
    sys.stdout.write(f"\nresumed {result.resumed_from} notices {result.notices}\n")  # whole, beside another process
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) > 4:
        die_at(*json.loads(sys.argv[4]))
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
