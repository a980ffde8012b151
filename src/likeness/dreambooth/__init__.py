"""DreamBooth fine-tuning (Ruiz et al. 2023): losses, loop, checkpoints, what is trained.

Importing this package imports no torch; `train` and `load_finetuned` load what they need when called.
"""

from likeness.dreambooth.settings import (
    Concept,
    Event,
    Samples,
    TrainResult,
    TrainSettings,
    check_class_folders,
    check_concepts,
)
from likeness.dreambooth.storage import is_finished

__all__ = [
    "Concept",
    "Event",
    "Samples",
    "TrainResult",
    "TrainSettings",
    "check_class_folders",
    "check_concepts",
    "is_finished",
    "load_finetuned",
    "train",
]


def __getattr__(name: str):
    if name == "train":
        from likeness.dreambooth.loop import train

        return train
    if name == "load_finetuned":
        from likeness.dreambooth.finetuned import load_finetuned

        return load_finetuned
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
