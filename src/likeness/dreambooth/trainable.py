"""What is trained: UNet and text encoder, whole, in part or by LoRA adapters; its optimizer and its average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from likeness.dreambooth.settings import Concept, TrainSettings
from likeness.errors import InputError

CROSS_ATTENTION = {"crossattn": (".attn2.",), "crossattn_kv": (".attn2.to_k.", ".attn2.to_v.")}  # diffusers' names
EVERY = ("",)  # in every name
RECOMPUTING = {"use_reentrant": False, "preserve_rng_state": False}  # nothing in these modules draws random numbers


@dataclass
class Trainable:
    """Named float32 parameters, by part ("unet", "text_encoder"), and their optimizer."""

    parts: dict[str, dict[str, nn.Parameter]]
    optimizer: torch.optim.Optimizer
    base_rates: list[float]
    ema: list[Tensor] | None = None
    frozen: set[str] = field(default_factory=set)
    settle: Callable[[], None] = lambda: None  # puts trained weights where a saved model has them

    def named(self) -> dict[str, nn.Parameter]:
        """Return every trained parameter by "part.name"."""
        return {f"{part}.{name}": p for part, params in self.parts.items() for name, p in params.items()}

    def parameters(self) -> list[nn.Parameter]:
        """Return every trained parameter, those of frozen parts included."""
        return [p for params in self.parts.values() for p in params.values()]

    def active(self) -> list[nn.Parameter]:
        """Return the parameters that are still being trained."""
        return [p for part, params in self.parts.items() if part not in self.frozen for p in params.values()]

    def freeze(self, part: str) -> None:
        """Stop training a part; its weights, and the optimizer's memory of them, stay as they are."""
        self.frozen.add(part)
        for p in self.parts[part].values():
            p.requires_grad_(False)
            p.grad = None

    def set_rate(self, factor: float) -> None:
        """Scale every group's learning rate."""
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor

    @torch.no_grad()
    def update_ema(self, step: int, decay: float | None) -> None:
        """Move the average towards the weights after optimizer step `step` (from 0), with warm-up."""
        if self.ema is None:
            return
        decay = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.ema, self.parameters(), 1 - decay)

    @torch.no_grad()
    def swap_ema(self) -> None:
        """Exchange weights and average; calling it twice restores both bit for bit."""
        if self.ema is None:
            return
        for p, average in zip(self.parameters(), self.ema, strict=True):
            kept = p.detach().clone()
            p.copy_(average)
            average.copy_(kept)


def prepare(
    pipe, settings: TrainSettings, concepts: Sequence[Concept], device: torch.device, dtype: torch.dtype
) -> Trainable:
    """Freeze what is not trained in `dtype`, put trained weights in float32, and build the optimizer.

    InputError where an identifier's tokens cannot be trained alone, or LoRA targets name nothing.
    """
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    layers = CROSS_ATTENTION.get(settings.unet_layers, EVERY)
    parts = {"unet": _choose(pipe.unet, settings, settings.lora_targets, device, dtype, 0, layers)}
    _move(pipe.text_encoder, device, dtype)
    rows = None
    if settings.text_encoder_steps and settings.text_encoder_layers == "identifier":
        rows = IdentifierRows(pipe.text_encoder, identifier_tokens(pipe.tokenizer, concepts))
        parts["text_encoder"] = {"identifier": rows.rows}
    elif settings.text_encoder_steps:
        targets = settings.lora_text_encoder_targets
        parts["text_encoder"] = _choose(pipe.text_encoder, settings, targets, device, dtype, 1)
    if settings.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing(_recomputed)
        if settings.text_encoder_steps:
            _enable_checkpointing(pipe.text_encoder)(RECOMPUTING)
    rates = {"unet": settings.learning_rate}
    if "text_encoder" in parts:
        rate = settings.text_encoder_learning_rate
        rates["text_encoder"] = settings.learning_rate if rate is None else rate
    groups = [{"params": list(params.values()), "lr": rates[part]} for part, params in parts.items()]
    trainable = Trainable(parts, _optimizer(groups, settings, device), [group["lr"] for group in groups])
    if rows is not None:
        trainable.settle = rows.settle
    if settings.ema_decay is not None:
        trainable.ema = [p.detach().clone() for p in trainable.parameters()]
    return trainable


def identifier_tokens(tokenizer, concepts: Sequence[Concept]) -> list[int]:
    """Return the tokens that the identifiers are made of, sorted; InputError where a class word has one of them."""
    own: set[int] = set()
    for concept in concepts:
        tokens = tokenizer(concept.identifier, add_special_tokens=False).input_ids
        shared = set(tokens) & set(tokenizer(concept.class_word, add_special_tokens=False).input_ids)
        if shared:
            written = ", ".join(repr(t) for t in tokenizer.convert_ids_to_tokens(sorted(shared)))
            raise InputError(
                f"text_encoder_layers=identifier would train {written}, which {concept.identifier!r} shares with its "
                f"class word {concept.class_word!r}; choose another identifier, or text_encoder_layers=all."
            )
        own |= set(tokens)
    return sorted(own)


class IdentifierRows:
    """Trained copies of some rows of a text encoder's table of tokens, looked up in their place."""

    def __init__(self, text_encoder: nn.Module, tokens: Sequence[int]) -> None:
        table = text_encoder.get_input_embeddings()
        self.table, self.tokens = table, torch.tensor(tokens, device=table.weight.device)
        self.rows = nn.Parameter(table.weight.detach()[self.tokens].float())
        self.place = torch.full((table.num_embeddings,), -1, device=table.weight.device)  # token -> row, or -1
        self.place[self.tokens] = torch.arange(len(tokens), device=table.weight.device)
        table.register_forward_hook(self._look_up)

    def _look_up(self, table: nn.Module, args: tuple[Tensor, ...], found: Tensor) -> Tensor:
        row = self.place[args[0]]
        own = self.rows.to(found.dtype)[row.clamp(min=0)]
        return torch.where((row >= 0).unsqueeze(-1), own, found)

    @torch.no_grad()
    def settle(self) -> None:
        """Write the rows into the table, where a saved model has them."""
        self.table.weight[self.tokens] = self.rows.to(self.table.weight.dtype)


def _recomputed(module: nn.Module, *args: Any) -> Any:
    """Call a module without keeping what its backward needs, as diffusers does it."""
    return torch.utils.checkpoint.checkpoint(module.__call__, *args, **RECOMPUTING)


def _enable_checkpointing(text_encoder: nn.Module) -> Callable[[dict[str, Any]], None]:
    """Return the method that does so, which transformers 5.23 renamed."""
    named = getattr(text_encoder, "activation_checkpointing_enable", None)
    return named or text_encoder.gradient_checkpointing_enable


def check_optimizer(settings: TrainSettings, device: torch.device) -> None:
    """Refuse an 8-bit optimizer that cannot step on this device, by one step of a small one."""
    if not settings.use_8bit_adam:
        return
    p = nn.Parameter(torch.zeros(2**14, device=device))  # smaller ones are kept in 32 bits
    p.grad = torch.ones_like(p)
    try:
        _optimizer([{"params": [p], "lr": 1.0}], settings, device).step()
    except Exception as error:  # every version and backend of bitsandbytes fails in its own way
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"use_8bit_adam: the installed bitsandbytes has no 8-bit optimizer that runs on {device.type} ({said}); "
            "leave use_8bit_adam out, or train on another device."
        ) from error


def _move(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Cast as torch does; diffusers' own `to` warns about modules to keep in float32 even where there are none."""
    nn.Module.to(module, device, dtype)


def _choose(
    module: nn.Module,
    settings: TrainSettings,
    targets: tuple[str, ...],
    device,
    dtype: torch.dtype,
    salt: int,
    layers: tuple[str, ...] = EVERY,
) -> dict[str, nn.Parameter]:
    if settings.method == "lora":
        _move(module, device, dtype)
        _add_adapter(module, settings, targets, salt)
    else:
        _move(module, device, torch.float32)
        for name, p in module.named_parameters():
            p.requires_grad_(any(layer in name for layer in layers))
    chosen = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for p in chosen.values():
        p.data = p.data.float()
    return chosen


def _add_adapter(module: nn.Module, settings: TrainSettings, targets: tuple[str, ...], salt: int) -> None:
    from peft import LoraConfig

    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_rank if settings.lora_alpha is None else settings.lora_alpha,
        init_lora_weights="gaussian",
        target_modules=list(targets),
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(settings.seed * 2 + salt)
        try:
            module.add_adapter(config)
        except ValueError as error:
            said = str(error).splitlines()[0]
            if "PEFT" in said:  # transformers asks for a newer one than is installed
                raise InputError(f"LoRA: {said} Install versions that go together: pip install -e .") from error
            raise InputError(f"lora targets {', '.join(targets)}: {said}") from error


def _optimizer(groups: list[dict], settings: TrainSettings, device: torch.device) -> torch.optim.Optimizer:
    options = {
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "weight_decay": settings.adam_weight_decay,
        "eps": settings.adam_epsilon,
    }
    if settings.use_8bit_adam:
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(groups, **options)
    return torch.optim.AdamW(groups, fused=device.type in {"cpu", "cuda"}, **options)
