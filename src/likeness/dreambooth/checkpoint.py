"""Checkpoints: trained weights, optimizer and average as safetensors with a manifest of hashes; no pickles.

A checkpoint is a folder checkpoint-N that appears at once and whole. Anything else of that name is torn
(named and skipped) or foreign (named and refused).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from likeness.dreambooth.storage import (
    STATE,
    checkpoints,
    differences,
    need_space,
    newest_checkpoint,
    read_json,
    refuse_changed,
    step_of,
    write_folder,
)
from likeness.dreambooth.trainable import Trainable
from likeness.errors import InputError, Stopped

PROGRAM = "likeness.dreambooth"
NEEDED = ("step", "files", "scaler", "identity", "world", "device")  # of a manifest, to go on from it


def save(out: Path, step: int, trainable: Trainable, scaler, about: dict[str, Any]) -> Path:
    """Write out/checkpoint-<step>."""
    tensors = _tensors(trainable)
    size = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    need_space(out, size, f"checkpoint {step}")

    def fill(folder: Path) -> None:
        for name, group in tensors.items():
            save_file(contiguous(group), folder / f"{name}.safetensors")
        files = {f.name: [f.stat().st_size, _hash(f)] for f in sorted(folder.glob("*.safetensors"))}
        state = {"program": PROGRAM, "step": step, "files": files, "scaler": scaler.state_dict(), **about}
        (folder / STATE).write_text(json.dumps(state, indent=1))

    target = out / f"checkpoint-{step}"
    write_folder(target, fill, f"checkpoint {step}")
    return target


def prune(out: Path, step: int, identity: dict[str, Any], keep: int, whole: Collection[str] = ()) -> list[str]:
    """Keep the one just saved and the newest whole ones before it, `keep` in all; name what others left there.

    Only checkpoints of this very run are deleted. Those beyond `step` were skipped as torn when it was resumed.
    `whole` names those known to be whole, which need not be hashed again at every save: gigabytes, for a large model.
    """
    kept, foreign = 1, []
    for folder in checkpoints(out):
        number = step_of(folder)
        state = read_json(folder / STATE)
        if number == step or _torn(folder, state):
            continue
        if not _ours(state) or differences(state["identity"], identity):
            foreign.append(folder.name)
        elif number > step or kept >= keep or (folder.name not in whole and _broken(folder, state)):
            shutil.rmtree(folder)
        else:
            kept += 1
    return foreign


def find(out: Path, about: dict[str, Any], notices: list[str]) -> Path | None:
    """Return the newest whole checkpoint of this very run; name torn ones, refuse foreign or changed ones.

    `about` is what `save` was given. Another number of processes draws other random numbers and is refused;
    another device or version of torch, or on a CPU another number of threads, rounds otherwise and is named.
    """
    for folder in checkpoints(out):
        state = read_json(folder / STATE)
        if _torn(folder, state):
            lacking = f"{STATE} lacks {', '.join(_lacking(state))}" if state else f"no readable {STATE}"
            notices.append(f"{folder.name} is torn ({lacking}): skipped")
            continue
        if not _ours(state):
            raise InputError(f"{folder} was not written by this program; move it elsewhere.")
        refuse_changed(state["identity"], about["identity"], out)
        broken = _broken(folder, state)
        if broken:
            notices.append(f"{folder.name} is torn ({', '.join(broken)}): skipped")
            continue
        if state["world"] != about["world"]:
            raise InputError(
                f"{folder} was trained by {state['world']} process(es) and this launch has {about['world']}, which "
                f"would draw other random numbers; go on with {state['world']}, or choose another output folder."
            )
        notices += [
            f"{folder.name} was trained {then}, this launch {now}: the result will not be the same to the last bit"
            f"{hint}"
            for then, now, hint in _rounding(state, about)
        ]
        return folder
    return None


def newest(names: Collection[str]) -> str | None:
    """Return the one of the last step."""
    return max(names, key=lambda name: step_of(Path(name)), default=None)


def what_next(name: str | None) -> str:
    """Say what the same command does after a run was stopped whose newest checkpoint this is."""
    return f"the same command {f'goes on from {name}' if name else 'starts anew: there is no checkpoint yet'}"


@contextlib.contextmanager
def told_of_a_stop(out: Path) -> Iterator[None]:
    """Say of a Ctrl-C before the first step what the same command does next."""
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt as stop:
        found = newest_checkpoint(out)
        raise Stopped(f"stopped before the first step; {what_next(found[0].name if found else None)}") from stop


def _rounding(state: dict[str, Any], about: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Give what was, what is and what to do, of everything that makes the same sums round otherwise."""
    was = about | state  # what an older version did not write down counts as the same
    if was["device"] != about["device"]:
        yield f"on {was['device']}", f"is on {about['device']}", ""
    elif was["gpu"] != about["gpu"]:
        yield f"on an {was['gpu']}", f"is on an {about['gpu']}", ""
    elif about["device"] == "cpu" and was["threads"] != about["threads"]:
        hint = f" (set OMP_NUM_THREADS={was['threads']} for that)"
        yield f"with {was['threads']} CPU thread(s)", f"has {about['threads']}", hint
    if was["torch"] != about["torch"]:
        yield f"by torch {was['torch']}", f"has torch {about['torch']}", ""


def load(folder: Path, trainable: Trainable, scaler) -> int:
    """Restore everything and return the step it was saved after."""
    state = read_json(folder / STATE)
    weights = load_file(folder / "trainable.safetensors")
    named = trainable.named()
    if set(weights) != set(named):
        raise InputError(f"{folder} holds other weights than this run trains; another version made it.")
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(weights[name])
        if trainable.ema is not None:
            averages = load_file(folder / "ema.safetensors")
            for name, average in zip(named, trainable.ema, strict=True):
                average.copy_(averages[name])
    _load_optimizer(trainable, load_file(folder / "optimizer.safetensors"))
    scaler.load_state_dict(state["scaler"])
    return state["step"]


def _tensors(trainable: Trainable) -> dict[str, dict[str, Tensor]]:
    named = trainable.named()
    groups = {"trainable": {name: p.detach() for name, p in named.items()}}
    groups["optimizer"] = _unshared(_flat(trainable.optimizer.state_dict()["state"]))
    if trainable.ema is not None:
        groups["ema"] = dict(zip(named, trainable.ema, strict=True))
    return groups


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as safetensors stores them; a device has no room for second copies, so these are on the CPU."""
    return {name: t if t.is_contiguous() else t.cpu().contiguous() for name, t in tensors.items()}


def _flat(memory: dict, prefix: str = "") -> dict[str, Tensor]:
    """Name an optimizer's values by their path, "0.exp_avg"; 8-bit optimizers nest dicts in dicts."""
    flat: dict[str, Tensor] = {}
    for key, value in memory.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: torch.as_tensor(value)}
    return flat


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy every tensor whose memory an earlier one has, as 8-bit Adam's code books; safetensors refuses those."""
    seen: set[int] = set()
    alone = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        alone[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return alone


def _load_optimizer(trainable: Trainable, stored: dict[str, Tensor]) -> None:
    optimizer, parameters = trainable.optimizer, trainable.parameters()
    memory: dict[int, dict[str, Any]] = {}
    for name, tensor in stored.items():
        index, *path, key = name.split(".")
        inner = memory.setdefault(int(index), {})
        for part in path:
            inner = inner.setdefault(part, {})
        counter = tensor.ndim == 0 and not tensor.is_floating_point()  # 8-bit Adam counts its steps in an int
        inner[key] = tensor.item() if counter else _laid_out_as(parameters[int(index)], tensor)
    optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_as(p: Tensor, tensor: Tensor) -> Tensor:
    """Order a tensor of a parameter's shape in memory as the parameter is, which fused optimizers ask for."""
    return torch.empty_like(p, dtype=tensor.dtype, device="cpu").copy_(tensor) if tensor.shape == p.shape else tensor


def _ours(state: dict[str, Any] | None) -> bool:
    return state is not None and state.get("program") == PROGRAM


def _torn(folder: Path, state: dict[str, Any] | None) -> bool:
    """Say whether a folder without a whole manifest of ours holds our files and no others."""
    if state is not None:
        return _ours(state) and bool(_lacking(state))
    return any(folder.glob("*.safetensors")) and not _foreign_files(folder)


def _lacking(state: dict[str, Any]) -> list[str]:
    return [name for name in NEEDED if name not in state]


def _broken(folder: Path, state: dict[str, Any]) -> list[str]:
    return [name for name, known in state["files"].items() if not _whole(folder / name, *known)]


def _foreign_files(folder: Path) -> list[Path]:
    ours = {"trainable.safetensors", "optimizer.safetensors", "ema.safetensors", STATE}
    return [file for file in folder.iterdir() if file.name not in ours]


def _whole(file: Path, size: int, digest: str) -> bool:
    return file.is_file() and file.stat().st_size == size and _hash(file) == digest


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
