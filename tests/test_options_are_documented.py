"""docs/options.md names every option that there is, none that there is not, with the defaults of the configuration."""

import functools
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from likeness import config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
COMMANDS = {"train": config.Train, "sweep": config.Sweep}
# Choices whose every change of a default is written down; of others, what is written is right.
CHOICES = ("model=sd15", "method=lora", "prior_class=none", "logger=none")
CHOICES += tuple(f"schedule={p.stem}" for p in sorted((ROOT / "conf" / "schedule").glob("*.yaml")))
CHOICES += tuple(f"sampler={p.stem}" for p in sorted((ROOT / "conf" / "sampler").glob("*.yaml")))


def leaves(schema: type, prefix: str = "") -> set[str]:
    """Return the dotted names of a configuration's values."""
    names = set()
    for name, hint in get_type_hints(schema).items():
        group = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        names |= leaves(group, f"{prefix}{name}.") if group else {prefix + name}
    return names


def rows() -> dict[str, dict[str, str]]:
    """Return the default cell of every option, by section of the page."""
    found = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        lines = [line for line in section.splitlines() if line.startswith("| `")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert all(len(row) == 3 and row[2] for row in cells)
        assert len({row[0] for row in cells}) == len(cells), "an option stands there twice"
        found[section.splitlines()[0]] = {row[0].strip("`"): row[1] for row in cells}
    return found


SECTIONS = rows()


def of_command(command: str) -> dict[str, str]:
    return SECTIONS["train.py and sweep.py"] | SECTIONS[f"{command}.py"]


@functools.cache
def values(command: str, *overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = compose(command, [*overrides])
    return (config.to_train if command == "train" else config.to_sweep)(cfg)


def value_of(command: str, option: str, choice: str = ""):
    blend = ["edit=blend"] if option.startswith("edit.blend.") else []
    found = values(command, *([choice] if choice else []), *blend)
    return functools.reduce(getattr, option.split("."), found)


def typed(text: str):
    """Return what a value means on the command line."""
    return OverridesParser.create().parse_override(f"x={text}").value()


def written(cell: str) -> tuple[str | None, dict[str, str]]:
    """Return the default as written (None: in words) and the values written behind choices."""
    default = re.match(r"`([^`]+)`", cell)
    return default and default[1], dict(re.findall(r"; `([^`=]+=[^`]+)`: `([^`]+)`", cell))


def in_words(value) -> bool:
    """Say whether a value may be described in words: it is a mapping or holds prompts."""
    return isinstance(value, dict) or (isinstance(value, list) and any(" " in str(item) for item in value))


def test_the_page_has_the_sections_that_are_read():
    assert list(SECTIONS) == ["train.py and sweep.py", "train.py", "sweep.py"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_on_the_page_and_nothing_else(command):
    there, named = leaves(COMMANDS[command]), set(of_command(command))
    assert there - named == set(), "missing from docs/options.md"
    assert named - there == set(), "docs/options.md names what is no option"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_defaults_are_those_of_the_configuration(command):
    for option, cell in of_command(command).items():
        default, by_choice = written(cell)
        value = value_of(command, option)
        assert default is not None or in_words(value), f"{option}: write its default, {value!r}"
        assert default is None or typed(default) == value, option
        for choice, said in by_choice.items():
            if command == "sweep" or choice.split("=")[0] in values("train").__dict__:
                assert typed(said) == value_of(command, option, choice), f"{option} with {choice}"


@pytest.mark.parametrize("choice", CHOICES)
def test_what_a_choice_makes_of_a_default_is_written(choice):
    for option, cell in of_command("sweep").items():
        default, by_choice = written(cell)
        if default is not None and not option.endswith(".name") and choice not in by_choice:
            assert value_of("sweep", option, choice) == typed(default), f"{option} with {choice}"


def test_a_default_that_is_wrong_would_be_noticed():
    default, by_choice = written("`4e-4`; `model=sd15`: `1e-6`; `method=lora`: `5e-4`")
    assert (default, by_choice) == ("4e-4", {"model=sd15": "1e-6", "method=lora": "5e-4"})
    assert [typed(text) for text in ("null", '""', "[]", "no", "1e-8")] == [None, "", [], "no", 1e-8]


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
def test_the_pages_lead_there(page):
    assert "options.md" in (ROOT / page).read_text(encoding="utf-8")
