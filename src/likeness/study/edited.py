"""The model that a cell edits: the one its settings name, one that train.py left, or the base model as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from likeness import dreambooth, models
from likeness.config import Method, PriorClass, Schedule, Sweep, slug
from likeness.dreambooth import storage
from likeness.dreambooth.settings import PRECISIONS
from likeness.errors import InputError
from likeness.study import place

BASE = "base"  # finetuned=base: model.source as it is, whoever trained it
LOCATING = ("source", "revision", "variant", "config")  # of a model's configuration: where its weights are


@dataclass(frozen=True)
class Edited:
    """A model on this machine: a base, and where train.py left what it made of it (None: the base alone)."""

    base: models.ModelSource
    folder: Path | None

    def weights(self) -> str:
        """Return the hash of all weights that draw."""
        if self.folder is None:
            return models.weights_id(self.base)
        if is_whole(self.folder):
            return models.weights_id(models.ModelSource("finetuned", str(self.folder / "model")))
        lora = self.folder / storage.RESULTS["lora"]
        return f"{models.weights_id(self.base)}+{models.file_id(lora)}"

    def load(self, dtype: str, device: str):
        """Return the pipeline."""
        if self.folder is None:
            return models.load_pipeline(self.base, dtype=dtype, device=device)
        return dreambooth.load_finetuned(self.base, self.folder, dtype, device)

    def made_from(self) -> dict[str, Any]:
        """Return what a fine-tuned model was made from: base weights, and each subject's prompts and photo hash."""
        if self.folder is None:
            return {"folder": None, "base": models.weights_id(self.base), "subjects": []}
        identity = (storage.read_json(self.folder / storage.SETTINGS) or {}).get("identity", {})
        return {
            "folder": self.folder.name,
            "base": identity.get("model"),
            "subjects": identity.get("subjects", []),
        }


def folder_of(sweep: Sweep) -> Path | None:
    """Return where the fine-tuned model of a sweep is, trained or not; None where it edits the base model."""
    if sweep.finetuned is None:
        return place.model_folder(sweep)
    return None if sweep.finetuned == BASE else Path(sweep.finetuned).expanduser()


def moved(sweep: Sweep) -> str | None:
    """Return where what a record names is now: there, or else under the same name in the sweep's output folder."""
    if sweep.finetuned in (None, BASE) or Path(sweep.finetuned).is_dir():
        return sweep.finetuned
    name = Path(sweep.finetuned).name
    return str(next(iter(sorted(Path(sweep.out).glob(f"models/*/{name}"))), sweep.finetuned))


def is_there(sweep: Sweep) -> bool:
    folder = folder_of(sweep)
    return folder is None or dreambooth.is_finished(folder)


def check_base(sweep: Sweep) -> None:
    """Raise InputError where the base model is needed and not here; a whole fine-tuned model brings all it needs."""
    if sweep.finetuned in (None, BASE) or not is_whole(sweep.finetuned):
        models.check_available(place.model_source(sweep.model))


def find(sweep: Sweep, command: str) -> Edited:
    """Return the model of a settled sweep, or say which command makes it; InputError for a LoRA of other weights."""
    folder, base = folder_of(sweep), place.model_source(sweep.model)
    if not is_there(sweep):
        raise InputError(
            f"{sweep.subject.name} has not been fine-tuned with these settings (looked in {folder})."
            f"{_other_precisions(sweep)}\nRun first:\n  {command}"
        )
    if sweep.finetuned not in (None, BASE) and not is_whole(sweep.finetuned):
        _check_lora(folder, base)
    return Edited(base, folder)


def settled(sweep: Sweep) -> Sweep:
    """Return the sweep with method, schedule and prior class as the model that `finetuned` names was made with.

    So are the base model (of a LoRA: its precision and resolution alone) and the folder's path, from any place.
    InputError where the folder is no such model, or one of another kind or another subject.
    """
    if sweep.finetuned is None:
        return sweep
    if sweep.finetuned == BASE:
        nothing = Schedule(name="none", num_train_steps=0, learning_rate=0.0)
        return replace(sweep, method=Method(name="none"), schedule=nothing, prior_class=PriorClass(name="none"))
    folder = Path(sweep.finetuned).expanduser().resolve()
    _check_finished(sweep.finetuned, folder)
    _check_subject(sweep, storage.read_json(folder / storage.SETTINGS)["identity"]["subjects"])
    given = storage.read_json(folder / place.CONFIG)
    if given is None:
        raise InputError(
            f"finetuned={sweep.finetuned} holds no {place.CONFIG}, which says how it was made; run its train.py "
            "command again, which trains nothing anew and writes that file."
        )
    try:
        if given["model"]["name"] != sweep.model.name:
            raise InputError(
                f"finetuned={sweep.finetuned} was made from model {given['model']['name']}, and this sweep has model="
                f"{sweep.model.name}; give it the model=... that train.py had."
            )
        prior = PriorClass(**given["prior_class"])
        if prior.own:  # of several subjects each has its own
            prior = replace(prior, name=slug(sweep.subject.class_word), class_word=sweep.subject.class_word)
        same = ("mixed_precision", "resolution", *(LOCATING if is_whole(folder) else ()))
        return replace(
            sweep,
            finetuned=str(folder),
            method=Method(**given["method"]),
            schedule=Schedule(**given["schedule"]),
            prior_class=prior,
            model=replace(sweep.model, **{name: given["model"][name] for name in same}),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / place.CONFIG} does not fit this version ({error}).") from error


def is_whole(folder: str | Path) -> bool:
    """Say whether a fine-tuned model is a whole one, which loads without its base."""
    return (Path(folder).expanduser() / storage.RESULTS["full"]).is_file()


def _check_finished(given: str, folder: Path) -> None:
    if dreambooth.is_finished(folder):
        return
    above = next((parent for parent in folder.parents if dreambooth.is_finished(parent)), None)
    if above is not None:
        hint = f"is inside a fine-tuned model; give its folder: finetuned={above}"
    elif not folder.exists():
        hint = "is not there; give the folder that train.py printed, which holds a settings.json"
    elif storage.checkpoints(folder):
        hint = "is not trained to its end; run its train.py command again"
    elif (folder / "model_index.json").is_file() or folder.suffix == ".safetensors":
        hint = f"was not made here; edit such a model with model.source={given} finetuned={BASE}"
    else:
        hint = "is no fine-tuned model; give the folder that train.py printed, which holds a settings.json"
    raise InputError(f"finetuned={given} {hint}.")


def _check_subject(sweep: Sweep, subjects: list[dict[str, Any]]) -> None:
    wanted = (sweep.subject.identifier, sweep.subject.class_word)
    if wanted not in [(subject["identifier"], subject["class_word"]) for subject in subjects]:
        known = " and ".join(f"{subject['identifier']} {subject['class_word']}" for subject in subjects)
        raise InputError(
            f"finetuned={sweep.finetuned} was trained on {known}, not on {' '.join(wanted)}; give the subject=... "
            "with these words."
        )


def _check_lora(folder: Path, base: models.ModelSource) -> None:
    record = storage.read_json(folder / storage.SETTINGS)
    was, now = record["identity"]["model"], models.weights_id(base)
    if was != now:
        of = ", ".join(f"model.{name}={record['model'][name]}" for name in LOCATING if record["model"].get(name))
        raise InputError(
            f"finetuned={folder} is a LoRA for the weights {was} ({of}), and those of this sweep are {now}; give it "
            "the base model that train.py had."
        )


def _other_precisions(sweep: Sweep) -> str:
    """Say which precisions this very model was fine-tuned in, as on another device with `auto`; "" for none."""
    there = []
    for precision in PRECISIONS:
        other = replace(sweep, model=replace(sweep.model, mixed_precision=precision))
        if dreambooth.is_finished(place.model_folder(other)):
            there.append(precision)
    if not there:
        return ""
    return (
        f" It has been in precision {', '.join(there)} (here: {place.precision(sweep)}); "
        f"model.mixed_precision={there[0]} takes that model."
    )
