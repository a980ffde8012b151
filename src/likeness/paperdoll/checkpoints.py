"""Resumable training: one loop and one atomic safetensors checkpoint, shared by every pretraining stage.

All randomness is a function of (seed, stage, round, step), so a killed run that resumes is the run that was
not killed. It knows nothing about what is trained.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

LossAt = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Plan:
    """How long and how hard one stage trains; `ema` is the decay of the averaged weights that are shipped."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 50
    ema: float = 0.995
    weight_decay: float = 0.0
    final: float = 0.02  # share of the learning rate left at the end of the cosine


@dataclass
class State:
    """Where a stage stands; stored as the checkpoint's metadata."""

    step: int = 0
    round: int = 0
    elapsed: float = 0.0
    earlier_elapsed: float = 0.0
    earlier_steps: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def generator(*key: int) -> torch.Generator:
    """Return a CPU generator that depends on these integers and on nothing else."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + int(part) + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(seed)


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then move it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write(temporary)
    temporary.replace(path)


def write_json(path: Path, content: object) -> None:
    write_atomic(path, lambda place: place.write_text(json.dumps(content, indent=1) + "\n"))


def learning_rate_factor(progress: float, step: int, plan: Plan) -> float:
    """Return the multiplier of the learning rate: linear warm-up, then a cosine over `progress` in [0, 1]."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return warm * (plan.final + (1 - plan.final) * cosine)


class Loop:
    """Train one module to the end of its plan, saving as it goes.

    With `minutes`, the schedule ends when the steps or the minutes are used up: the result then depends on
    the machine's speed (the number of steps taken is in the checkpoint). Without it, on the seed alone.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        *,
        seed: int,
        minutes: float | None = None,
        save_seconds: float = 60.0,
        log_every: int = 20,
        stop_after: int | None = None,
    ):
        self.path = folder / "checkpoint.safetensors"
        self.folder, self.plan, self.seed, self.minutes = folder, plan, seed, minutes
        self.save_seconds, self.log_every, self.stop_after = save_seconds, log_every, stop_after
        self.state = read_state(self.path) or State()
        together = torch.distributed.is_initialized()
        self.rank, self.world = (
            (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together else (0, 1)
        )

    @property
    def batch(self) -> int:
        """Return this process's share of the batch."""
        return self.plan.batch // self.world

    def run(self, model: nn.Module, loss_at: LossAt, *, groups=None, after_save=None) -> State:
        """Train in place and leave the averaged weights in `model`.

        `groups` are the optimiser's parameter groups, each with a `scale` of the learning rate.
        """
        groups = groups or [{"params": [p for p in model.parameters() if p.requires_grad], "scale": 1.0}]
        optimizer = torch.optim.AdamW(
            [{"params": g["params"], "scale": g.get("scale", 1.0)} for g in groups],
            lr=self.plan.learning_rate, betas=(0.9, 0.98), weight_decay=self.plan.weight_decay,
        )  # fmt: skip
        ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if self.path.is_file():
            load_checkpoint(self.path, model, ema, optimizer)
        if not self.state.finished:
            self._train(model, optimizer, ema, loss_at, after_save)
        model.load_state_dict(ema)
        return self.state

    def another_round(self) -> None:
        """Start a new cosine from the averaged weights of a finished stage."""
        if not self.state.finished:
            return
        state = self.state
        tensors = load_tensors(self.path, "ema.")
        fresh = State(
            round=state.round + 1,
            earlier_elapsed=state.earlier_elapsed + state.elapsed,
            earlier_steps=state.earlier_steps + state.step,
            history=state.history,
        )
        content = {f"{copy}.{k}": v for copy in ("model", "ema") for k, v in tensors.items()}
        save_checkpoint(self.path, content, fresh)
        self.state = fresh

    def progress(self) -> float:
        by_steps = self.state.step / self.plan.steps
        return by_steps if self.minutes is None else max(by_steps, self.state.elapsed / (60 * self.minutes))

    def _train(self, model, optimizer, ema, loss_at, after_save) -> None:
        from tqdm import tqdm

        state, plan = self.state, self.plan
        name = sum(ord(c) * 31**i for i, c in enumerate(self.folder.name)) % 1_000_003
        bar = tqdm(total=plan.steps, initial=state.step, desc=self.folder.name, mininterval=5.0, disable=self.rank > 0)
        began, saved, recent = time.monotonic() - state.elapsed, time.monotonic(), {}
        model.train()
        while self.progress() < 1:
            rate = plan.learning_rate * learning_rate_factor(self.progress(), state.step, plan)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            key = (self.seed, name, state.round, state.step, *([self.rank] if self.world > 1 else []))
            loss, values = loss_at(state.step, generator(*key))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            elapsed = self._share(model, time.monotonic() - began)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            update_average(ema, model, min(plan.ema, (1 + state.step) / (10 + state.step)))
            state.step += 1
            state.elapsed = elapsed
            if not math.isfinite(loss.item()):
                raise FloatingPointError(
                    f"{self.folder.name}: the loss is {loss.item()} at step {state.step}; the last good "
                    f"checkpoint is kept at {self.path}."
                )
            for key, value in {"loss": loss.item(), **values}.items():
                recent.setdefault(key, []).append(value)
            bar.update()
            if state.step % self.log_every == 0:
                means = {key: sum(v) / len(v) for key, v in recent.items()}
                recent = {}
                state.history.append({"round": state.round, "step": state.step, "lr": rate, **means})
                bar.set_postfix({k: f"{v:.4f}" for k, v in means.items()}, refresh=False)
            if time.monotonic() - saved > self.save_seconds:
                self._save(model, ema, optimizer)
                saved = time.monotonic()
                if after_save:
                    after_save(state.step, ema)
            if self.stop_after is not None and state.step >= self.stop_after:
                break
        state.finished = self.progress() >= 1
        self._save(model, ema, optimizer)
        bar.close()

    def _share(self, model, elapsed: float) -> float:
        """Average gradients over processes; return the first process's clock, so that all agree on the schedule."""
        if self.world == 1:
            return elapsed
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        clock = torch.tensor([elapsed * self.world if self.rank == 0 else 0.0])
        flat = torch.cat([clock, *(g.flatten() for g in grads)])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        parts = flat[1:].split([g.numel() for g in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))
        return float(flat[0])

    def _save(self, model, ema, optimizer) -> None:
        if self.rank > 0:
            return
        content = {f"model.{k}": v for k, v in model.state_dict().items()}
        content |= {f"ema.{k}": v for k, v in ema.items()}
        for index, values in optimizer.state_dict()["state"].items():
            content |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
        save_checkpoint(self.path, content, self.state)


def update_average(ema: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's; integer buffers are copied."""
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                ema[key].lerp_(value, 1 - decay)
            else:
                ema[key].copy_(value)


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: State) -> None:
    content = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    meta = {"state": json.dumps(asdict(state))}
    write_atomic(path, lambda place: save_file(content, place, metadata=meta))


def read_state(path: Path) -> State | None:
    """Return where the checkpoint stands, None if there is none."""
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        return State(**json.loads(file.metadata()["state"]))


def load_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """Return the checkpoint's tensors whose name starts with `prefix`, without it."""
    with safe_open(path, framework="pt") as file:
        return {k.removeprefix(prefix): file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118


def load_average(path: Path, model: nn.Module) -> State:
    """Load the averaged weights of a stage's checkpoint into `model`."""
    model.load_state_dict(load_tensors(path, "ema."))
    return read_state(path)


def load_checkpoint(path: Path, model: nn.Module, ema: dict[str, Tensor], optimizer) -> None:
    model.load_state_dict(load_tensors(path, "model."))
    for key, value in load_tensors(path, "ema.").items():
        ema[key].copy_(value)
    adam: dict[int, dict[str, Tensor]] = {}
    for key, value in load_tensors(path, "adam.").items():
        index, name = key.split(".")
        adam.setdefault(int(index), {})[name] = value
    if adam:
        content = optimizer.state_dict()
        optimizer.load_state_dict({"state": adam, "param_groups": content["param_groups"]})
