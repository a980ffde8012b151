"""The two loops that the training benchmark compares, and the models they run on.

`Ours` is the trainer's own loop; `Uncached` does the same arithmetic as the scripts people use: encode the pictures,
embed the prompts, forward, backward, clip, step. Both draw rows, noise and timesteps for every step.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from likeness.dreambooth import Concept, TrainSettings
from likeness.dreambooth.batches import tokenize
from likeness.dreambooth.loop import build
from likeness.dreambooth.processes import Processes
from likeness.dreambooth.settings import PRECISION
from likeness.dreambooth.setup import Run, training_scheduler
from likeness.dreambooth.trainable import prepare
from likeness.malloc import keep_freed_memory
from likeness.models import ModelSource, load_pipeline
from likeness.paperdoll.weights import pipeline_dir
from likeness.prompt_to_prompt.benchmark_models import sd15_unet, wait
from likeness.subjects import find_photos, load_photos

CLASS_PICTURES = 8
PROMPTS = ("photo of tuki justin bieber", "photo of justin bieber")


@dataclass(frozen=True)
class Case:
    """What is trained, and how."""

    shape: str = "paperdoll"
    method: str = "full"
    batch: int = 2
    precision: str = "no"
    gradient_checkpointing: bool = False
    compile: bool = False
    cuda_graph: bool = True
    device: str = "cpu"

    def settings(self) -> TrainSettings:
        """Return the trainer's settings of this case: UNet only, class pictures at hand, nothing shown."""
        return TrainSettings(
            method=self.method,
            num_train_steps=10**6,
            learning_rate=1e-6,
            train_batch_size=self.batch,
            mixed_precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing,
            compile=self.compile,
            cuda_graph=self.cuda_graph,
            num_class_images=CLASS_PICTURES,
            sample_every=0,
            validation_every=0,
            checkpoint_every=0,
        )


def load(case: Case):
    """Return the embedded pipeline, or one of Stable Diffusion 1.5's dimensions with random weights."""
    if case.shape == "paperdoll":
        return load_pipeline(ModelSource("paperdoll", "embedded"), device=case.device)
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    widths = (128, 256, 512, 512)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    parts = {
        "unet": _random(sd15_unet, case.device),
        "text_encoder": _random(lambda: CLIPTextModel(text), case.device),
        "vae": _random(
            lambda: AutoencoderKL(block_out_channels=widths, layers_per_block=2, latent_channels=4, **blocks),
            case.device,
        ),
    }
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    tokenizer = CLIPTokenizer.from_pretrained(pipeline_dir() / "tokenizer")
    plain = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = StableDiffusionPipeline(scheduler=scheduler, tokenizer=tokenizer, **parts, **plain)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _random(build_module, device: str) -> torch.nn.Module:
    """Build on no memory, then fill with small numbers; the libraries' own initialisation takes minutes."""
    with torch.device("meta"):
        module = build_module()
    module = module.to_empty(device=device).eval()
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.02)
    for name, buffer in module.named_buffers():
        if "position_ids" in name:
            buffer.copy_(torch.arange(buffer.shape[-1])[None])
    return module


def photos_and_class(folder: Path, side: int) -> Concept:
    """Return the shipped subject with a class folder of noise; what it shows does not change how long it takes."""
    from likeness.paperdoll.photos import FOLDER

    folder.mkdir(exist_ok=True)
    for number in range(CLASS_PICTURES):
        noise = torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / f"{number}.png")
    return Concept("tuki", "justin bieber", PROMPTS[0], find_photos(FOLDER / "tuki"), [PROMPTS[1]], folder)


class Ours:
    """The trainer's loop, from its first step on."""

    def __init__(self, case: Case, pipe, folder: Path) -> None:
        concept = photos_and_class(folder / "class", pipe.unet.config.sample_size * pipe.vae_scale_factor)
        processes = Processes(case.device, case.precision)
        self.settings, model = case.settings(), ModelSource(case.shape, "embedded")
        run = Run(model, [concept], self.settings, folder / "out", processes, {}, lambda event: None)
        self.loop = build(run, pipe, f"benchmark-{case}", folder)
        self.gradients = self.loop.trained_from(0)
        pipe.unet.train()
        self.device, self.number = processes.device, 0
        self.dtype = getattr(torch, PRECISION[case.precision])

    def step(self) -> None:
        self.loop.advance(self.number, self.gradients)
        self.number += 1

    @contextmanager
    def countable(self):
        """Step with the UNet as it was before it was compiled or recorded, where a counter of operations sees none."""
        loop = self.loop
        timed, loop.unet, loop.recorded = (loop.unet, loop.recorded), loop.pipe.unet, None
        try:
            yield
        finally:
            loop.unet, loop.recorded = timed


class Uncached:
    """The same arithmetic without caches or compilation; pictures are decoded beforehand, there at every step."""

    def __init__(self, case: Case, pipe, folder: Path) -> None:
        self.pipe, self.case = pipe, case
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        concept = photos_and_class(folder / "class", side)
        self.device = next(pipe.unet.parameters()).device
        self.photos = load_photos(concept.photos, side)
        self.classes = load_photos(sorted(concept.class_dir.iterdir()), side)
        self.ids = tokenize(pipe.tokenizer, list(PROMPTS)).repeat_interleave(case.batch, 0)
        self.dtype = getattr(torch, PRECISION[case.precision])
        self.parameters = prepare(pipe, case.settings(), [], self.device, self.dtype).parameters()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)
        self.noise_scheduler = training_scheduler(pipe)
        torch.nn.Module.to(pipe.vae, self.dtype)
        pipe.unet.train()

    def step(self) -> None:
        batch, total = self.case.batch, self.noise_scheduler.config.num_train_timesteps
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            with torch.no_grad():
                pixels = (self._pick() * 2 - 1).to(self.device, self.dtype)
                latents = self.pipe.vae.encode(pixels).latent_dist.sample() * self.pipe.vae.config.scaling_factor
                embeds = self.pipe.text_encoder(self.ids.to(self.device))[0]
            noise = torch.randn_like(latents)
            timesteps = torch.randint(total, (2 * batch,), device=self.device)
            noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
            pred = self.pipe.unet(noisy, timesteps, embeds, return_dict=False)[0]
            instance, prior = (pred.float() - noise.float()).square().chunk(2)
        (instance.mean() + prior.mean()).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def countable(self):
        """Nothing stands between its operations and a counter."""
        return nullcontext()

    def _pick(self) -> Tensor:
        rows = [torch.randint(len(pictures), (self.case.batch,)) for pictures in (self.photos, self.classes)]
        return torch.cat([self.photos[rows[0]], self.classes[rows[1]]])


ARMS = {"ours": Ours, "uncached": Uncached}


def start(arm: str, case: Case, folder: Path) -> Ours | Uncached:
    """Return a loop before its first step, in a process that is set up as its users have it."""
    if arm == "ours":
        keep_freed_memory()
    return ARMS[arm](case, load(case), folder)


class Stopwatch:
    """Seconds in the UNet's forward, in backward (or a recording of both) and in the optimizer, while `running`."""

    def __init__(self, arm: Ours) -> None:
        self.arm, self.device, self.seconds = arm, arm.loop.processes.device, 0.0

    def _timed(self, call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            started = now(self.device)
            result = call(*args, **kwargs)
            self.seconds += now(self.device) - started
            return result

        return wrapped

    @contextmanager
    def running(self):
        """Measure every call inside the block."""
        loop, backward = self.arm.loop, Tensor.backward
        unet, optimizer = loop.unet, loop.trainable.optimizer
        step, recorded = optimizer.step, loop.recorded
        loop.unet, optimizer.step, Tensor.backward = self._timed(unet), self._timed(step), self._timed(backward)
        loop.recorded = recorded and self._timed(recorded)
        try:
            yield self
        finally:
            loop.unet, optimizer.step, Tensor.backward, loop.recorded = unet, step, backward, recorded


def now(device: torch.device) -> float:
    """Return the time when everything asked of the device so far is done."""
    wait(device)
    return time.perf_counter()
