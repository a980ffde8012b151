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


@dataclass(frozen=True)
class Edited:
    """A model on this machine: a base, and where train.py left what it made of it (None: the base alone)."""

    base: models.ModelSource
    folder: Path | None

    @property
    def name(self) -> str:
        return self.folder.name if self.folder else self.base.name

    def weights(self) -> str:
        """Return the hash of all weights that draw."""
        if self.folder is None:
            return models.weights_id(self.base)
        if (self.folder / "model").is_dir():
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


def is_there(sweep: Sweep) -> bool:
    folder = folder_of(sweep)
    return folder is None or dreambooth.is_finished(folder)


def find(sweep: Sweep, command: str) -> Edited:
    """Return the model of a settled sweep, or say which command makes it."""
    folder = folder_of(sweep)
    if not is_there(sweep):
        raise InputError(
            f"{sweep.subject.name} has not been fine-tuned with these settings (looked in {folder})."
            f"{_other_precisions(sweep)}\nRun first:\n  {command}"
        )
    return Edited(place.model_source(sweep.model), folder)


def settled(sweep: Sweep) -> Sweep:
    """Return the sweep with method, schedule and prior class as the model that `finetuned` names was made with.

    InputError where that is none, or of another base model or another subject.
    """
    if sweep.finetuned is None:
        return sweep
    if sweep.finetuned == BASE:
        nothing = Schedule(name="none", num_train_steps=0, learning_rate=0.0)
        return replace(sweep, method=Method(name="none"), schedule=nothing, prior_class=PriorClass(name="none"))
    record = _record(sweep.finetuned)
    _check_subject(sweep, record["identity"]["subjects"])
    _check_base(sweep, record)
    given = storage.read_json(Path(sweep.finetuned).expanduser() / place.CONFIG)
    if given is None:
        raise InputError(
            f"finetuned={sweep.finetuned} holds no {place.CONFIG}, which says how it was made; run its train.py "
            "command again, which trains nothing anew and writes that file."
        )
    try:
        prior = PriorClass(**given["prior_class"])
        if prior.own:  # of several subjects each has its own
            prior = replace(prior, name=slug(sweep.subject.class_word), class_word=sweep.subject.class_word)
        return replace(
            sweep,
            method=Method(**given["method"]),
            schedule=Schedule(**given["schedule"]),
            prior_class=prior,
            model=replace(sweep.model, mixed_precision=given["model"]["mixed_precision"]),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{sweep.finetuned}/{place.CONFIG} does not fit this version ({error}).") from error


def _record(finetuned: str) -> dict[str, Any]:
    folder = Path(finetuned).expanduser()
    if dreambooth.is_finished(folder):
        return storage.read_json(folder / storage.SETTINGS)
    hint = "give the output folder of train.py, which holds a settings.json"
    if dreambooth.is_finished(folder.parent):
        hint = f"give the folder it lies in: finetuned={folder.parent}"
    elif (folder / "model_index.json").is_file() or folder.suffix == ".safetensors":
        hint = f"a model that was not made here is edited with model.source={finetuned} finetuned={BASE}"
    raise InputError(f"finetuned={finetuned} is no finished fine-tuned model of this program; {hint}.")


def _check_subject(sweep: Sweep, subjects: list[dict[str, Any]]) -> None:
    wanted = (sweep.subject.identifier, sweep.subject.class_word)
    if wanted not in [(subject["identifier"], subject["class_word"]) for subject in subjects]:
        known = " and ".join(f"{subject['identifier']} {subject['class_word']}" for subject in subjects)
        raise InputError(
            f"finetuned={sweep.finetuned} was trained on {known}, not on {' '.join(wanted)}; choose subject=... by it."
        )


def _check_base(sweep: Sweep, record: dict[str, Any]) -> None:
    """Refuse another base model: a whole model brings its own weights, a LoRA needs the very ones it was made for."""
    was, base = record["model"], place.model_source(sweep.model)
    if was["name"] != base.name or (
        record["settings"]["method"] == "lora" and record["identity"]["model"] != models.weights_id(base)
    ):
        raise InputError(
            f"finetuned={sweep.finetuned} was made from model={was['name']} ({was['source']}), which is not the "
            f"model={base.name} ({base.source}) of this sweep; add model={was['name']} model.source={was['source']}."
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
