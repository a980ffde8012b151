"""A training at its smallest on the tiny drawn world of random weights, as train.py would compose it."""

from pathlib import Path

import tiny_study
from hydra import compose, initialize_config_dir

from likeness import config

SMALL = (
    "logger=none", "schedule.num_train_steps=4", "prior_class.num_class_images=8", "prior_class.num_inference_steps=1",
    "sample_num_inference_steps=2", "sample_every=4", "validation_every=0", "schedule.learning_rate=0.01",
)  # fmt: skip


def train_of(out: Path, *overrides: str):
    """Return the configuration of a training of four steps in `out`."""
    with initialize_config_dir(version_base="1.3", config_dir=str(tiny_study.CONF)):
        return config.to_train(compose("train", [f"out={out}", *SMALL, *overrides]))
