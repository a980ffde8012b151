"""What was typed is looked at before Hydra composes it: names that are no option, lists for a group, dashes."""

import pytest

from likeness import command_line
from likeness.config import Sweep, Train


def said(arguments, command="train.py"):
    with pytest.raises(SystemExit) as stopped:
        command_line.check(arguments, command)
    return str(stopped.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("subjct=tuki", "did you mean subject or subjects?"),
        ("+subjct=tuki", "did you mean subject or subjects?"),  # what Hydra advises, to no avail
        ("seed=1", "did you mean schedule.seed?"),
        ("learning_rate=1e-4", "did you mean schedule.learning_rate or model.learning_rate?"),
        ("schedule.learning_rat=1e-4", "did you mean schedule.learning_rate?"),
        ("max_train_steps=800", "did you mean schedule.num_train_steps or model.num_train_steps?"),
        ("rank=4", "did you mean method.lora_rank?"),
        ("style=watercolor", "it is one of sweep.py."),
        ("edit.operator=replace", "it is one of sweep.py."),
    ],
)
def test_a_name_that_is_no_option_is_answered_with_the_one_that_was_meant(typed, meant):
    assert meant in said(["subject=tuki", typed])


def test_a_name_like_nothing_is_sent_to_the_list():
    assert said(["foo=1"]) == "error: train.py has no option 'foo'. docs/options.md has every option."
    assert "it is one of train.py." in said(["-m", "sample_every=0"], "sweep.py")


def test_a_word_alone_and_an_option_with_dashes_are_told_how_options_are_written():
    assert "write name=value" in said(["tuki"])
    assert said(["--subject", "tuki"]).endswith("subject=tuki")
    assert said(["--sample-every=3"]).endswith("sample_every=3")


def test_several_choices_of_a_group_are_refused():
    assert "-m edit=a,b" in said(["edit=[local,global]"], "sweep.py")
    assert "'subjects=[a,b]'" in said(["subject=[bnh,tuki]"])


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train.py", ["subjects=[bnh,tuki]", "prior_class.prompts=[photo of a man]", "~prior_class"]),
        ("train.py", ["-m", "method=full,lora", "schedule.seed=1,2", "hydra.sweep.dir=x", "hydra/launcher=joblib"]),
        ("sweep.py", ["experiment=figure2_local", "local=mine", "train_missing=true", "seeds=${range:8}"]),
        ("sweep.py", ["+edit.weights.burger=2", "edit.phrases.style.ink=ink", "model.learning_rate.full=1e-4"]),
        ("sweep.py", ["edit.blend.threshold=0.4", "target_prompt=a=b"]),
        ("sweep.py", ["--config-dir", "mine", "+theirs=other"]),
        ("train.py", ["--help"]),
        ("train.py", ["--cfg", "job"]),
    ],
)  # fmt: skip
def test_options_choices_and_what_is_hydras_own_pass(command, arguments):
    command_line.check(arguments, command)


@pytest.mark.parametrize("schema", [Train, Sweep])
def test_every_option_of_a_command_passes(schema):
    command = {Train: "train.py", Sweep: "sweep.py"}[schema]
    for name, kind in command_line.options(schema):
        command_line.check([f"{name}{'.x' if kind == 'open' else ''}=1"], command)
