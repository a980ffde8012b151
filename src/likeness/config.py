"""Typed configuration: one dataclass per group, range checks, and the door through which Hydra's config enters.

Nothing below the entry points sees a DictConfig: `to_train` and `to_sweep` return plain dataclasses.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from likeness.config_values import literal, numbers, one_of, share, window
from likeness.errors import InputError

OPERATORS = ("replace", "refine", "reweight")
BEHAVIOURS = ("corrected", "reference_stable", "reference_null")
SCHEDULERS = ("ddim", "pndm", "dpm", "euler")
TEXT_ENCODER_LAYERS = ("all", "identifier")
TEXT_ENCODER_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
LOGGER_MODES = ("auto", "online", "offline", "disabled", "none")


def slug(text: Any) -> str:
    """Return a short name safe in paths: lower-case ASCII words joined by underscores, at most 48 characters."""
    return "_".join(re.findall(r"[a-z0-9.+-]+", str(text).lower())).strip("._")[:48] or "x"


def _prompts() -> dict[str, str]:
    who = "${subject.identifier} ${subject.class_word}"
    return {
        "local": f"A painting of a {who} eating a burger",
        "global": f"photo of a {who} in a forest",
        "reweight": f"{who} wearing a pair of sunglasses under a blossom tree",
        "refine": f"photo of a {who} in a forest",
        "contextual": f"photo of a {who} wearing a pair of sunglasses on a beach",
    }


def _other_class_prompts() -> list[str]:
    return [f"photo of {who}" for who in ("a man", "a woman", "keanu reeves", "justin bieber")]


@dataclass
class Subject:
    name: str = MISSING
    identifier: str = MISSING
    class_word: str = MISSING
    photos: str = MISSING
    instance_prompt: str = "photo of ${subject.identifier} ${subject.class_word}"
    prompts: dict[str, str] = field(default_factory=_prompts)  # source prompt of each edit


@dataclass
class PriorClass:
    name: str = MISSING
    class_word: str = ""  # what "{class_word}" in a prompt stands for
    prompts: list[str] = field(default_factory=list)
    folder: str | None = None
    num_class_images: int = 50
    prior_loss_weight: float = 1.0
    num_inference_steps: int = 25
    own: bool = False  # each subject's class; of several subjects in one model, each its own


@dataclass
class Model:
    name: str = MISSING
    source: str = MISSING
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    local_files_only: bool = False
    resolution: int | None = None
    blend_threshold: float = 0.3  # of LocalBlend, the reference's
    self_replace_resolution: int | None = None  # self-attention is injected in maps of up to side x side pixels
    dtype: str = "float32"
    mixed_precision: str = "no"
    metrics: str = "standard"
    guidance_scale: float = 7.5
    seeds_per_call: int = 1
    num_class_images: int = 50
    class_prompts: list[str] = field(default_factory=lambda: ["photo of {class_word}"])
    train_text_encoder: Any = 0.0  # as in Method, whichever method is chosen
    text_encoder_layers: str = "all"  # as in Method
    prior_loss_weight: float = 1.0
    train_batch_size: int = 1
    num_train_steps: dict[str, int] = field(default_factory=dict)  # by schedule
    learning_rate: dict[str, float] = field(default_factory=dict)  # by method
    text_encoder_learning_rate: dict[str, dict[str, float]] = field(default_factory=dict)  # by method and layers
    lr_scheduler: str = "constant"


@dataclass
class Method:
    name: str = MISSING
    train_text_encoder: Any = 0.0  # true, false, or the share of the steps after which it is frozen
    unet_layers: str = "all"  # what method=full trains: all, crossattn, crossattn_kv
    text_encoder_layers: str = "all"  # all, or the embeddings of the identifier alone
    gradient_checkpointing: bool = False
    compile: bool = False
    cuda_graph: bool = True  # on a GPU: forward and backward are recorded once and replayed
    use_8bit_adam: bool = False
    ema_decay: float | None = None
    lora_rank: int = 8
    lora_alpha: float | None = None
    lora_targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    lora_text_encoder: Any = 0.0  # likewise
    lora_text_encoder_targets: list[str] = field(default_factory=lambda: list(TEXT_ENCODER_TARGETS))


@dataclass
class Schedule:
    name: str = MISSING
    num_train_steps: int = MISSING
    learning_rate: float = MISSING
    text_encoder_learning_rate: float | None = None
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 0.01
    adam_epsilon: float = 1e-8
    snr_gamma: float | None = None
    noise_offset: float = 0.0
    caption_dropout: float = 0.0
    cache_latents: bool = True
    cache_text_embeddings: bool | None = None
    crops: int = 0
    flip: bool = False
    ladder: int = 0  # number of checkpoints that are scored; the one on the knee is kept
    seed: int = 0


@dataclass
class Blend:
    words: list[Any] = field(default_factory=list)  # for source and target: a word, or a list of words
    substruct_words: list[Any] = field(default_factory=list)
    threshold: Any = None  # one number, or [for words, for substruct_words]; None: the model's
    start: float | None = None  # share of the steps before blending begins; null is what edit.behaviour does


@dataclass
class Edit:
    name: str = MISSING
    operator: str = MISSING
    weights: dict[str, float] = field(default_factory=dict)  # word of the target prompt -> factor, on top of the edit
    uses: list[str] = field(default_factory=list)  # which of style, scene, target, ... this edit reads
    values: dict[str, Any] = field(default_factory=dict)  # of the axes left empty
    source: str = ""
    phrases: dict[str, dict[str, str]] = field(default_factory=dict)  # axis -> short name -> phrase
    cross_replace_steps: Any = field(default_factory=lambda: [0.0, 0.8])  # [start, end], or f for [0, f]; so are all
    self_replace_steps: Any = field(default_factory=lambda: [0.0, 0.4])
    word_windows: dict[str, Any] = field(default_factory=dict)
    self_replace_resolution: int | None = None  # None: the model's
    behaviour: str = "corrected"
    blend: Blend | None = field(default_factory=Blend)


@dataclass
class Sampler:
    name: str = MISSING
    scheduler: str = MISSING
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    negative_prompt: str | None = None  # what to stay away from, in all three arms


@dataclass
class Metrics:
    name: str = MISSING
    lpips_net: str | None = None  # alex, vgg or squeeze for metrics=standard; None: the suite's own
    extra: list[str] = field(default_factory=list)  # module:function, metrics of your own


@dataclass
class Logger:
    name: str = "wandb"
    mode: str = "auto"
    project: str = "likeness"
    entity: str | None = None  # W&B user or team; None: the login's own


@dataclass
class _Common:
    subject: Subject = field(default_factory=Subject)
    prior_class: PriorClass = field(default_factory=PriorClass)
    model: Model = field(default_factory=Model)
    method: Method = field(default_factory=Method)
    schedule: Schedule = field(default_factory=Schedule)
    logger: Logger = field(default_factory=Logger)
    out: str = "outputs"
    device: str = "auto"
    experiment: Any = None
    question: str = ""


@dataclass
class Train(_Common):
    subjects: list[str] = field(default_factory=list)
    sample_every: int = 200
    validation_every: int = 100
    checkpoint_every: int = 200
    sample_prompts: list[str] = field(default_factory=list)
    sample_num_inference_steps: int = 25
    other_class_prompts: list[str] = field(default_factory=_other_class_prompts)  # bleeding is measured on them
    dry_run: bool = False


@dataclass
class Sweep(_Common):
    edit: Edit = field(default_factory=Edit)
    sampler: Sampler = field(default_factory=Sampler)
    metrics: Metrics = field(default_factory=Metrics)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    style: str | None = None
    scene: str | None = None
    target: str | None = None
    addition: str | None = None
    word: str | None = None
    weight: float | None = None
    source_prompt: str | None = None
    target_prompt: str | None = None
    photo: str | None = None  # edit this photo: one of the subject's, by name or number, or a file
    show_attention: bool = False
    dry_run: bool = False
    overwrite: bool = False
    train_missing: bool = False  # fine-tune the model first where it is missing
    finetuned: str | None = None  # a model that is there: a folder of train.py, or "base": the base model as it is

    def __post_init__(self) -> None:
        if self.edit.blend == Blend() and self.edit.name != "blend":  # there to take options; none was given
            self.edit.blend = None


AXES = ("style", "scene", "target", "addition", "word", "weight")  # what edits read
RECORDED_AXES = (*AXES, "photo")  # what tells the cells of a sweep apart; report.records.AXES


def register() -> None:
    """Put the schemas and the resolvers `slug` and `range` where Hydra finds them; harmless when repeated."""
    OmegaConf.register_new_resolver("slug", slug, replace=True)
    OmegaConf.register_new_resolver("range", lambda count: list(range(count)), replace=True)  # seeds: ${range:128}
    for name, node in {"train_schema": Train, "sweep_schema": Sweep}.items():
        ConfigStore.instance().store(name=name, node=node)


register()


def to_train(cfg: DictConfig) -> Train:
    """Turn the composed configuration into a checked `Train`; InputError says what is wrong."""
    train = _typed(cfg, Train)
    if train.sample_num_inference_steps < 1:
        raise InputError("sample_num_inference_steps must be at least 1.")
    if len(train.subjects) == 1:
        raise InputError(f"subjects=[{train.subjects[0]}] names one subject; use subject={train.subjects[0]}.")
    for name in ("sample_every", "validation_every", "checkpoint_every"):
        if getattr(train, name) < 0:
            raise InputError(f"{name} must be 0 (never) or a number of steps, not {getattr(train, name)}.")
    return train


def to_sweep(cfg: DictConfig) -> Sweep:
    """Turn the composed configuration into a checked `Sweep`; InputError says what is wrong."""
    sweep = _typed(cfg, Sweep)
    edit = sweep.edit
    if ":" not in edit.operator:  # module:Class is an edit of your own, see study.extensions
        one_of("edit.operator", edit.operator, OPERATORS)
    one_of("edit.behaviour", edit.behaviour, BEHAVIOURS)
    if edit.self_replace_resolution is None:
        edit.self_replace_resolution = sweep.model.self_replace_resolution
    if "default_" in edit.word_windows:
        raise InputError(
            "edit.word_windows.default_ is no word: the window of all others is edit.cross_replace_steps."
        )
    edit.cross_replace_steps = window("edit.cross_replace_steps", edit.cross_replace_steps)
    edit.self_replace_steps = window("edit.self_replace_steps", edit.self_replace_steps)
    edit.word_windows = {w: window(f"edit.word_windows.{w}", value) for w, value in edit.word_windows.items()}
    if edit.blend is not None:
        _complete(edit.blend, sweep.model)
    one_of("sampler.scheduler", sweep.sampler.scheduler, SCHEDULERS)
    if sweep.photo is not None and sweep.sampler.scheduler != "ddim":
        raise InputError(
            f"photo={sweep.photo} is inverted with DDIM, and sampler.scheduler is {sweep.sampler.scheduler}: use "
            "sampler=ddim."
        )
    if sweep.sampler.num_inference_steps < 1:
        raise InputError("sampler.num_inference_steps must be at least 1.")
    if sweep.sampler.negative_prompt and sweep.sampler.guidance_scale <= 1:
        raise InputError(
            f"sampler.negative_prompt does nothing without guidance (sampler.guidance_scale="
            f"{sweep.sampler.guidance_scale:g}): set a guidance above 1, or leave the negative prompt out."
        )
    if not sweep.seeds or len(set(sweep.seeds)) != len(sweep.seeds) or min(sweep.seeds) < 0:
        raise InputError(f"seeds={sweep.seeds} must be different numbers >= 0, for example seeds=[0,1,2,3].")
    return sweep


def train_of(sweep: Sweep) -> Train:
    """Return the training of the model that a sweep edits."""
    return Train(**{field.name: getattr(sweep, field.name) for field in fields(_Common)})


def load_subject(conf: Path, name: str) -> Subject:
    """Read conf/subject/<name>.yaml on its own, for runs over several subjects."""
    path = conf / "subject" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise InputError(f"there is no subject {name!r} ({path} is missing). Known subjects: {known}.")
    merged = OmegaConf.merge({"subject": OmegaConf.structured(Subject)}, {"subject": OmegaConf.load(path)})
    return OmegaConf.to_object(merged)["subject"]


def to_plain(config: Any) -> dict[str, Any]:
    """Return a typed configuration as nested dicts and lists, ready for JSON."""
    return asdict(config)


def from_plain(values: dict[str, Any]) -> Sweep:
    """Return the `Sweep` that `to_plain` wrote into a record; InputError if another version wrote it."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Sweep), literal(values)))
    except OmegaConfBaseException as error:
        raise InputError(
            f"the recorded configuration does not fit this version ({str(error).splitlines()[0]}); check out the "
            "commit in the record, under environment.git."
        ) from error


def _typed(cfg: DictConfig, schema: type) -> Any:
    try:
        _check_layers(cfg.method)
        plain = OmegaConf.to_container(cfg, resolve=True)
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), literal(plain)))
    except OmegaConfBaseException as error:
        raise InputError(str(error).splitlines()[0]) from error
    one_of("logger.mode", typed.logger.mode, LOGGER_MODES)
    for name in ("train_text_encoder", "lora_text_encoder"):
        setattr(typed.method, name, share(f"method.{name}", getattr(typed.method, name)))
    if not typed.method.train_text_encoder:  # the model's choice of layers has no say in a text encoder that is frozen
        typed.method.text_encoder_layers = Method.text_encoder_layers
    return typed


def _check_layers(method: DictConfig) -> None:
    """Refuse layers for which the model's table has no learning rate, before it is looked up."""
    layers = method.text_encoder_layers
    one_of("method.text_encoder_layers", layers, TEXT_ENCODER_LAYERS)
    if method.name == "lora" and layers != Method.text_encoder_layers:
        raise InputError(
            f"method.text_encoder_layers={layers} does nothing with method=lora; use method.lora_text_encoder_targets."
        )


def _complete(blend: Blend, model: Model) -> None:
    """Check a LocalBlend, turn words into lists of words, and take the threshold left out from the model."""
    if blend.threshold is None:
        blend.threshold = model.blend_threshold
    pair = isinstance(blend.threshold, list)
    found = numbers(blend.threshold if pair else [blend.threshold])
    if found is None or len(found) != (2 if pair else 1) or not all(0 <= value <= 1 for value in found):
        raise InputError(
            f"edit.blend.threshold={blend.threshold} must be a number between 0 and 1, or two: "
            "[for words, for substruct_words]."
        )
    blend.threshold = found if pair else found[0]
    for name in ("words", "substruct_words"):
        words = [entry if isinstance(entry, list) else [entry] for entry in getattr(blend, name)]
        if len(words) not in (0, 2) or not all(isinstance(word, str) for entry in words for word in entry):
            raise InputError(
                f"edit.blend.{name}={getattr(blend, name)} must name the words of the source and of the target, for "
                "example [burger,cake] or [[burger],[big,cake]]."
            )
        setattr(blend, name, words)
