"""Everything before the first step: the run's description, checks of the model, class pictures, caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from likeness.dreambooth.batches import Batches, posterior_key, tokenize
from likeness.dreambooth.processes import Processes
from likeness.dreambooth.sampling import draw, latent_shape
from likeness.dreambooth.settings import Concept, Event, Samples, TrainSettings, class_request, has_prior
from likeness.dreambooth.storage import RUNGS, need_space
from likeness.errors import InputError
from likeness.models import ModelSource
from likeness.subjects import (
    ClassRequest,
    check_class_dir,
    class_images,
    make_folder,
    small_photos,
    unused_pictures,
)

OnEvent = Callable[[Event], None]
ProbeSamples = Callable[[Samples], "dict[str, float]"]
ChooseStep = Callable[["dict[int, dict[str, float]]"], int]
# CLIP's tokens are in order of frequency: "burger" is 6548 and "violin" 17058 of 49408, "sks" 48136.
FREQUENT, SMALL = 0.25, 10_000


@dataclass
class Run:
    """What the parts of one run share."""

    model: ModelSource
    concepts: list[Concept]
    settings: TrainSettings
    out: Path
    processes: Processes
    identity: dict
    on_event: OnEvent
    probe_samples: ProbeSamples | None = None
    choose_step: ChooseStep | None = None
    notices: list[str] = field(default_factory=list)
    resolution: int = 0


def check_pipeline(pipe, run: Run) -> None:
    """Refuse a model, resolution, prompt or identifier that cannot be trained; settle the resolution."""
    kind = pipe.scheduler.config.prediction_type
    if kind not in {"epsilon", "v_prediction"}:
        raise InputError(f"model {run.model.name} predicts {kind!r}; epsilon and v_prediction can be trained.")
    native = pipe.unet.config.sample_size * pipe.vae_scale_factor
    run.resolution = run.settings.resolution or native
    step = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    if run.resolution % step:
        raise InputError(f"resolution={run.resolution} must be a multiple of {step} for this model.")
    if run.settings.resolution is None:  # a given one is known, and photos are held against it, before this
        small = [name for concept in run.concepts for name in small_photos(concept.photos, run.resolution)]
        run.notices += [f"smaller than the model's {run.resolution} pixels: {', '.join(small)}"] if small else []
    needed = _space(pipe, run.settings)
    there = sum(f.stat().st_size for name in ("checkpoint-*", RUNGS) for f in run.out.glob(f"{name}/*"))
    need_space(run.out, max(0, needed - there), "the checkpoints and the fine-tuned model")
    for concept in run.concepts:
        tokenize(pipe.tokenizer, [*{concept.caption(photo) for photo in concept.photos}, *concept.class_prompts])
        identifier = pipe.tokenizer(concept.identifier, add_special_tokens=False).input_ids
        class_tokens = pipe.tokenizer(concept.class_word, add_special_tokens=False).input_ids
        if len(identifier) == 1 and identifier[0] in class_tokens:
            raise InputError(
                f"identifier {concept.identifier!r} is one token of the class {concept.class_word!r}; "
                "use a rarer word."
            )
        if len(identifier) == 1 and identifier[0] < FREQUENT * len(pipe.tokenizer) and len(pipe.tokenizer) > SMALL:
            raise InputError(
                f"identifier {concept.identifier!r} is a common word to this model (token {identifier[0]} of "
                f"{len(pipe.tokenizer)}, in order of frequency); use a rarer word."
            )


def _space(pipe, settings: TrainSettings) -> int:
    """Return how many bytes of weights a run holds at most: one checkpoint more than are kept exists while saving.

    Rungs stay until the model is written. LoRA's are not worth counting.
    """
    if settings.method == "lora":
        return 0
    size = {part: sum(4 * p.numel() for p in getattr(pipe, part).parameters()) for part in ("unet", "text_encoder")}
    trained = size["unet"] + (size["text_encoder"] if settings.text_encoder_steps else 0)
    moments = 0.5 if settings.use_8bit_adam else 2
    model = sum(size.values()) + sum(4 * p.numel() for p in pipe.vae.parameters())
    checkpoint = int(trained * (1 + moments + (settings.ema_decay is not None)))
    every = settings.checkpoint_every or settings.num_train_steps
    saves = -(-settings.num_train_steps // every)
    saving = min(saves, settings.keep_checkpoints + 1) * checkpoint
    finishing = min(saves, settings.keep_checkpoints) * checkpoint + model
    return settings.ladder * trained + max(saving, finishing)


def training_scheduler(pipe):
    """Return the noise schedule of the forward process, whatever sampler the pipeline came with."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(pipe.scheduler.config)


def prepare_class_files(run: Run, pipe, model_id: str, class_root: Path) -> list[list[Path]]:
    """Return every subject's class pictures, drawn now where they are missing, split over the processes."""
    settings, processes = run.settings, run.processes
    files: list[list[Path]] = []
    for concept in run.concepts:
        if not has_prior(concept) or not settings.prior_loss_weight:
            files.append([])
            continue
        if concept.class_dir is not None:
            files.append(check_class_dir(concept.class_dir, settings.num_class_images))
            unused = unused_pictures(concept.class_dir, settings.num_class_images)
            if unused:
                run.notices.append(
                    f"class folder {concept.class_dir}: the first {settings.num_class_images} pictures by name are "
                    f"used (num_class_images), {unused} not"
                )
            continue
        request = class_request(concept, settings, model_id, run.resolution, processes.device.type)

        def draw_block(prompts: list[str], noise: torch.Tensor, request: ClassRequest = request):
            with processes.autocast():
                return draw(pipe, prompts, noise, request.num_inference_steps, request.guidance_scale)

        files.append(
            processes.everywhere(
                lambda request=request, draw_block=draw_block: class_images(
                    request,
                    settings.num_class_images,
                    class_root,
                    draw_block,
                    latent_shape(pipe, run.resolution),
                    rank=processes.rank,
                    world=processes.world,
                    bar=settings.progress_bars,
                )
            )
        )
        processes.wait()
    return files


def prepare_batches(run: Run, pipe, class_files: list[list[Path]], model_id: str, class_root: Path) -> Batches:
    """Build the micro-batches; the main process encodes the pictures, the others read what it stored."""
    settings = run.settings
    if settings.cache_latents and settings.crops < 0:
        run.notices.append("crops=-1 draws a fresh crop at every step, so latents are not cached")
    kind = run.processes.device.type
    key = posterior_key(model_id, run.concepts, class_files, settings, run.resolution, kind)
    make_folder(class_root)
    cache = class_root / f"latents-{key}.safetensors"

    def build() -> Batches:
        return Batches(pipe, run.concepts, class_files, settings, run.resolution, cache, run.processes.device)

    return run.processes.main_first(build)
