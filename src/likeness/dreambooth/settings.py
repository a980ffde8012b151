"""What a training run is asked to do: plain dataclasses with their range checks, free of torch."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeness.errors import InputError
from likeness.subjects import ClassRequest, Photo, check_class_dir

if TYPE_CHECKING:
    from PIL import Image

METHODS = ("full", "lora")
UNET_LAYERS = ("all", "crossattn", "crossattn_kv")
TEXT_ENCODER_LAYERS = ("all", "identifier")
LAYERS = ("unet_layers", "text_encoder_layers")  # of method=full
# Defaults that came later: left out of a run's identity, so that they do not rename what was trained before.
UNSAID = {"unet_layers": "all", "text_encoder_layers": "all", "cuda_graph": True}
LR_SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "polynomial")
POLYNOMIAL_END = 1e-7  # learning rate at which lr_scheduler=polynomial ends, diffusers' lr_end
PRECISION = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}  # mixed_precision -> torch's name
PRECISIONS = tuple(PRECISION)
FRESH_CROPS = -1  # value of `crops`: another random crop at every step
_COMMON = """
a an the of in on at by to and or with photo picture image painting drawing man woman person boy girl child
people face dog cat animal pet bird horse car house toy bag shirt hat glasses sunglasses red green blue black
white big small old new happy good my your his her me you it one two name token subject style art portrait
beach forest river mountain jungle desert city street eating wearing holding
"""
COMMON_WORDS = frozenset(_COMMON.split())
# What is shown or stored while training; never changes the trained weights.
_BYSTANDERS = """
log_every checkpoint_every keep_checkpoints sample_every validation_every sample_prompts sample_seeds
sample_num_inference_steps sample_guidance_scale health progress_bars
"""
BYSTANDERS = frozenset(_BYSTANDERS.split())


@dataclass(frozen=True)
class TrainSettings:
    """Everything about a run but model and subject. Defaults suit Stable Diffusion 1.5 and a face.

    `unet_layers` and `text_encoder_layers` say what `method=full` trains. "crossattn": cross attention alone, and
    "crossattn_kv" its keys and values alone (Custom Diffusion, Kumari et al. 2023, sec. 3.1); "identifier": the
    embeddings of the identifiers' tokens alone (textual inversion, Gal et al. 2022), so that every other word
    keeps its meaning. `train_text_encoder` and, with LoRA, `lora_text_encoder` may be True, False or the fraction
    of the steps after which the text encoder is frozen. `crops`: 0 centre, K > 0 seeded crops per photo (cached), -1 a
    fresh crop at every step. `cuda_graph` has a GPU record forward and backward once and replay them (less waiting for
    Python, more memory); a CPU has none. `*_every` of 0 means never; None for `resolution` means the model's own.
    `ladder` of N keeps the weights at N even steps and finishes with those that `choose_step` names.
    """

    method: str = "full"
    num_train_steps: int = 800
    learning_rate: float = 1e-6
    text_encoder_learning_rate: float | None = None
    train_text_encoder: bool | float = False
    unet_layers: str = "all"
    text_encoder_layers: str = "all"
    train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    max_grad_norm: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 1e-2
    adam_epsilon: float = 1e-8
    use_8bit_adam: bool = False
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    ema_decay: float | None = None

    prior_loss_weight: float = 1.0
    num_class_images: int = 50
    class_num_inference_steps: int = 25
    class_guidance_scale: float = 7.5
    snr_gamma: float | None = None
    noise_offset: float = 0.0
    caption_dropout: float = 0.0

    resolution: int | None = None
    crops: int = 0
    flip: bool = False
    cache_latents: bool = True
    cache_text_embeddings: bool | None = None

    lora_rank: int = 8
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    lora_text_encoder: bool | float = False
    lora_text_encoder_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")

    compile: bool = False
    cuda_graph: bool = True
    ladder: int = 0
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    sample_every: int = 200
    sample_prompts: tuple[str, ...] = ()
    sample_seeds: tuple[int, ...] = (0, 1, 2, 3)
    sample_num_inference_steps: int = 25
    sample_guidance_scale: float = 7.5
    validation_every: int = 100
    health: bool = True
    progress_bars: bool = True

    def __post_init__(self) -> None:
        for name in ("lora_targets", "lora_text_encoder_targets", "sample_prompts", "sample_seeds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_settings(self)

    @property
    def text_encoder_steps(self) -> int:
        """Number of optimizer steps that train the text encoder; 0 when it is frozen."""
        asked = self.lora_text_encoder if self.method == "lora" else self.train_text_encoder
        return round(float(asked) * self.num_train_steps)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps of the ladder, the last one included; () without one."""
        return tuple(round(k * self.num_train_steps / self.ladder) for k in range(1, self.ladder + 1))

    def deciding(self) -> dict[str, Any]:
        """Return the values that decide the trained weights, ready for JSON; UNSAID ones where they differ."""
        unsaid = {name for name, value in UNSAID.items() if getattr(self, name) == value}
        kept = {k: v for k, v in vars(self).items() if k not in BYSTANDERS | unsaid}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}


@dataclass(frozen=True)
class Concept:
    """One subject: its rare identifier, class word, prompts and photos.

    No `class_prompts` and no `class_dir`: no prior preservation. `class_dir` is a user's own folder of class
    pictures (their prompt is the first of `class_prompts`); None has them drawn by the base model.
    """

    identifier: str
    class_word: str
    instance_prompt: str
    photos: list[Photo]
    class_prompts: list[str] = field(default_factory=list)
    class_dir: Path | None = None

    def caption(self, photo: Photo) -> str:
        """Return the photo's own caption or the instance prompt."""
        return photo.caption or self.instance_prompt


@dataclass(frozen=True)
class Event:
    """Something the trainer reports: kind is notice, log, samples, validation, health, checkpoint or done.

    First, where a run goes on, kind is past: a row of what it reported before, for listeners that were not told.
    """

    kind: str
    step: int
    values: dict[str, float] = field(default_factory=dict)
    images: list[Image.Image] | None = None
    captions: list[str] | None = None
    path: Path | None = None
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Samples:
    """The sample grid: for each prompt one picture per seed, and what the base model draws from the same noise."""

    step: int
    images: dict[str, list[Image.Image]]
    base: dict[str, list[Image.Image]]


@dataclass(frozen=True)
class TrainResult:
    """Where the fine-tuned model lies, after how many steps, and what the run has to say."""

    out: Path
    steps: int
    resumed_from: int
    seconds: float
    values: dict[str, float]
    notices: list[str]


def check_concepts(concepts: list[Concept], settings: TrainSettings) -> None:
    """Refuse prompts and identifiers that cannot work; cheap, before anything is loaded."""
    if not concepts:
        raise InputError("there is no subject to train.")
    for concept in concepts:
        _check_concept(concept)
    names = [c.identifier.lower() for c in concepts]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"two subjects share the identifier {twice[0]!r}; give each its own rare word.")
    if not settings.num_class_images and settings.prior_loss_weight and any(map(has_prior, concepts)):
        raise InputError("num_class_images=0 with a prior class; give some pictures, or prior_class=none.")
    with_prior = [c.identifier for c in concepts if has_prior(c)]
    if with_prior and len(with_prior) < len(concepts):
        raise InputError(f"only {', '.join(with_prior)} has class prompts; give them to all subjects or to none.")


def check_class_folders(concepts: list[Concept], settings: TrainSettings) -> None:
    """Refuse a user's own class folder that is not there, has too few pictures or unreadable ones, or is two classes'.

    Its content belongs to the run's identity even where prior_loss_weight=0 has no picture trained on.
    """
    shown: dict[Path, str] = {}
    for concept in concepts:
        if concept.class_dir is not None and concept.class_prompts:
            prompt = concept.class_prompts[0]
            if shown.setdefault(concept.class_dir, prompt) != prompt:
                raise InputError(
                    f"class folder {concept.class_dir} would be trained on as {shown[concept.class_dir]!r} and as "
                    f"{prompt!r}; leave the folder out to have each class drawn, or give one class prompt that "
                    "describes its pictures for all subjects."
                )
    for concept in concepts:
        if concept.class_dir is not None:
            check_class_dir(concept.class_dir, settings.num_class_images if settings.prior_loss_weight else 0)


def has_prior(concept: Concept) -> bool:
    """Say whether prior preservation is asked for."""
    if concept.class_dir is not None and not concept.class_prompts:
        raise InputError(f"{concept.identifier}: class_dir needs a class prompt that describes its pictures.")
    return bool(concept.class_prompts)


def class_request(
    concept: Concept, settings: TrainSettings, model_id: str, resolution: int, device: str
) -> ClassRequest:
    """Return what decides a subject's class pictures; `resolution` in pixels, `device` a type such as cuda."""
    return ClassRequest(
        model_id,
        tuple(concept.class_prompts),
        settings.class_num_inference_steps,
        settings.class_guidance_scale,
        resolution,
        PRECISION[settings.mixed_precision],
        settings.seed,
        device,
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def _check_concept(concept: Concept) -> None:
    identifier, class_word = concept.identifier.strip(), concept.class_word.strip()
    if not identifier or not class_word:
        raise InputError("a subject needs an identifier (a rare word such as tuki) and a class word (man, dog).")
    if identifier.lower() in COMMON_WORDS:
        raise InputError(
            f"identifier {identifier!r} is a common word, the model would have to forget it; use a rare one."
        )
    if identifier.lower() in _words(class_word):
        raise InputError(
            f"identifier {identifier!r} is part of the class word {class_word!r}; use a rare word instead."
        )
    if not concept.photos:
        raise InputError(f"{identifier}: there are no photos.")
    for prompt in {concept.caption(photo) for photo in concept.photos} | {concept.instance_prompt}:
        for name, wanted in (("identifier", identifier), ("class word", class_word)):
            if f" {' '.join(_words(wanted))} " not in f" {' '.join(_words(prompt))} ":
                raise InputError(
                    f"the {name} {wanted!r} is absent from the instance prompt or caption {prompt!r}. "
                    f"Write it in, for example 'photo of {identifier} {class_word}'."
                )
    for prompt in concept.class_prompts:
        if identifier.lower() in _words(prompt):
            raise InputError(
                f"class prompt {prompt!r} contains the identifier {identifier!r}; describe the class only."
            )


def _check_settings(s: TrainSettings) -> None:
    choices = (
        ("method", METHODS),
        ("unet_layers", UNET_LAYERS),
        ("text_encoder_layers", TEXT_ENCODER_LAYERS),
        ("lr_scheduler", LR_SCHEDULERS),
        ("mixed_precision", PRECISIONS),
    )
    for name, allowed in choices:
        if getattr(s, name) not in allowed:
            raise InputError(f"{name}={getattr(s, name)!r} is unknown; choose one of {', '.join(allowed)}.")
    for name in (
        "num_train_steps",
        "train_batch_size",
        "gradient_accumulation_steps",
        "lora_rank",
        "log_every",
    ):
        if getattr(s, name) < 1:
            raise InputError(f"{name}={getattr(s, name)} must be at least 1.")
    for name in ("learning_rate", "max_grad_norm"):
        if not getattr(s, name) > 0:
            raise InputError(f"{name}={getattr(s, name)} must be above 0.")
    if s.lr_scheduler == "polynomial" and s.learning_rate <= POLYNOMIAL_END:
        raise InputError(
            f"lr_scheduler=polynomial falls to a learning rate of {POLYNOMIAL_END:g} and learning_rate="
            f"{s.learning_rate:g} is not above it; raise it, or choose lr_scheduler=linear."
        )
    zero = (
        "lr_warmup_steps",
        "prior_loss_weight",
        "noise_offset",
        "num_class_images",
        "checkpoint_every",
        "seed",
    )
    for name in (*zero, "sample_every", "validation_every"):
        if getattr(s, name) < 0:
            raise InputError(f"{name}={getattr(s, name)} must not be negative.")
    if s.ladder < 0 or s.ladder > s.num_train_steps:
        raise InputError(f"ladder={s.ladder} must lie between 0 (off) and num_train_steps={s.num_train_steps}.")
    for name in ("caption_dropout", "train_text_encoder", "lora_text_encoder"):
        if not 0 <= float(getattr(s, name)) <= 1:
            raise InputError(f"{name}={getattr(s, name)} must lie between 0 and 1.")
    if s.crops < FRESH_CROPS:
        raise InputError(f"crops={s.crops}: give 0 (centre), a number of seeded crops, or -1 (fresh at every step).")
    if s.snr_gamma is not None and s.snr_gamma <= 0:
        raise InputError(f"snr_gamma={s.snr_gamma} must be above 0; leave it empty to switch min-SNR off.")
    if s.ema_decay is not None and not 0 < s.ema_decay < 1:
        raise InputError(f"ema_decay={s.ema_decay} must lie between 0 and 1; leave it empty to switch EMA off.")
    if s.keep_checkpoints < 2:
        raise InputError("keep_checkpoints must be at least 2, so that one good checkpoint survives a torn one.")
    idle = "train_text_encoder" if s.method == "lora" else "lora_text_encoder"
    if getattr(s, idle):
        other = "lora_text_encoder" if s.method == "lora" else "train_text_encoder"
        raise InputError(f"{idle} does nothing with method={s.method}; use {other}.")
    for name in LAYERS:
        if s.method == "lora" and getattr(s, name) != "all":
            raise InputError(f"{name}={getattr(s, name)} does nothing with method=lora; choose lora_targets instead.")
    if s.text_encoder_layers != "all" and not s.train_text_encoder:
        raise InputError(f"text_encoder_layers={s.text_encoder_layers} needs train_text_encoder=true.")
    asked = "lora_text_encoder" if s.method == "lora" else "train_text_encoder"
    if getattr(s, asked) and not s.text_encoder_steps:
        raise InputError(
            f"{asked}={getattr(s, asked)} of {s.num_train_steps} steps is less than one and would train nothing; "
            f"give at least {1 / s.num_train_steps:.2g}, or {asked}=false."
        )
    if s.cache_text_embeddings and s.text_encoder_steps:
        raise InputError(
            "cache_text_embeddings=true while the text encoder is trained would train it on nothing; "
            "leave cache_text_embeddings empty or freeze the text encoder."
        )
    if s.use_8bit_adam and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("use_8bit_adam needs bitsandbytes, which is not installed; run: uv pip install -e '.[8bit]'")
