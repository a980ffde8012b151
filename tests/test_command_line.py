"""What was typed is looked at before Hydra composes it: names that are no option, lists for a group, dashes."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from likeness import command_line

ROOT = Path(__file__).parents[1]


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
        ("batch_size=4", "did you mean model.train_batch_size or schedule.train_batch_size?"),
        ("schedule.lr=1e-4", "did you mean schedule.learning_rate or model.learning_rate?"),
        ("subjct@subject=tuki", "did you mean subject or subjects?"),
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
    assert said(["--dry-run", "subject=tuki"]).endswith(": dry_run=true")
    assert said(["--schedule.seed", "subject=tuki"]).endswith(": schedule.seed=...")
    assert "did you mean method.lora_rank?" in said(["--rank", "4"])


def test_several_choices_of_a_group_are_refused():
    assert "-m edit=a,b" in said(["edit=[local,global]"], "sweep.py")
    assert "subjects=[a,b]" not in said(["edit=[local,global]"], "sweep.py")
    assert "'subjects=[a,b]'" in said(["subject=[bnh,tuki]"])
    assert "-m experiment=a,b" in said(["experiment=[figure2_local,figure4_style]"], "sweep.py")
    for flag in (["--config-dir", "mine"], ["--cfg", "job"], ["-m"]):
        assert "-m model=a,b" in said([*flag, "model=[paperdoll,sd15]"]), "whatever else is read"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train.py", ["subjects=[bnh,tuki]", "prior_class.prompts=[photo of a man]", "~prior_class"]),
        ("train.py", ["-m", "method=full,lora", "schedule.seed=1,2", "hydra.sweep.dir=x", "hydra/launcher=joblib"]),
        ("sweep.py", ["experiment=figure2_local", "local=mine", "train_missing=true", "seeds=${range:8}"]),
        ("sweep.py", ["+edit.weights.burger=2", "edit.phrases.style.ink=ink", "model.learning_rate.full=1e-4"]),
        ("sweep.py", ["edit.blend.threshold=0.4", "target_prompt=a=b"]),
        ("sweep.py", ["--config-dir", "mine", "+theirs=other"]),
        ("sweep.py", ["hydra.searchpath=[file://mine]", "+theirs=other"]),
        ("sweep.py", ["seeds.0=7", "++schedule.seed=1", "target=cake,lasagne", "--multirun"]),
        ("train.py", ["subject =tuki"]),  # a mistake in Hydra's grammar, which Hydra explains
        ("train.py", ["--help"]),
        ("train.py", ["--cfg", "job"]),
    ],
)  # fmt: skip
def test_options_choices_and_what_is_hydras_own_pass(command, arguments):
    command_line.check(arguments, command)


def dotted(value, prefix=""):
    """Give the name of every value of a composed configuration, with indices into lists."""
    if OmegaConf.is_config(value):
        for name in value if OmegaConf.is_dict(value) else range(len(value)):
            if not (OmegaConf.is_dict(value) and OmegaConf.is_missing(value, name)):
                yield f"{prefix}{name}"
                yield from dotted(value[name], f"{prefix}{name}.")


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize("choice", ["model=paperdoll", "model=sd15", "prior_class=none", "schedule=find"])
def test_every_value_of_a_configuration_may_be_typed(command, choice):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        names = list(dotted(compose(command, [choice])))
    assert {"subject.prompts.local", "method.lora_targets.0", "schedule.seed"} <= {*names}
    command_line.check([f"{name}=1" for name in names], f"{command}.py")


@pytest.mark.parametrize("edit", sorted(path.stem for path in (ROOT / "conf" / "edit").glob("*.yaml")))
def test_every_value_of_an_edit_may_be_typed(edit):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        names = list(dotted(compose("sweep", [f"edit={edit}"]).edit, "edit."))
    assert "edit.operator" in names
    command_line.check([f"{name}=1" for name in names], "sweep.py")
