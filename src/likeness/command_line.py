"""What was typed, looked at before Hydra composes it: one line where Hydra's own advice would lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

from likeness.config import Sweep, Train

COMMANDS = {"train.py": Train, "sweep.py": Sweep}
CHOICES = ("experiment", "local")  # groups that are no group of values
OUR_FLAGS = ("-m", "--multirun", "-r", "--run")  # of Hydra, that take no value and look up no other configuration
LIST = "docs/options.md has every option."


def check(arguments: Sequence[str], command: str) -> None:
    """Leave with one line where an argument of train.py or sweep.py names no option, or a group several choices."""
    known = dict(options(COMMANDS[command]))
    if any(argument.startswith("-") and argument not in OUR_FLAGS for argument in arguments):
        _refuse_flags(arguments, known)
        return  # another configuration may have other options, and a flag's value is none
    for argument in arguments:
        if argument in OUR_FLAGS:
            continue
        name, equals, choice = argument.lstrip("+~").partition("=")
        name = name.partition("@")[0]
        if not equals and not argument.startswith("~"):
            raise SystemExit(f"error: {argument!r} is no option; write name=value, for example subject=tuki. {LIST}")
        if known.get(name) == "group" and choice.lstrip().startswith("["):
            raise SystemExit(
                f"error: {argument} names several options at once, of which only the last would count. Use "
                f"-m {name}=a,b for one run each, or train.py 'subjects=[a,b]' for several subjects in one model."
            )
        if not _is_known(name, known):
            raise SystemExit(f"error: {command} has no option {name!r}{_advice(name, known, command)} {LIST}")


def options(schema: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give the dotted name of every option of a configuration, and whether it is a group, open (any name may stand
    below it) or a value.
    """
    for name, hint in get_type_hints(schema).items():
        group = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if group:
            yield prefix + name, "group"
            yield from options(group, f"{prefix}{name}.")
        else:
            yield prefix + name, "open" if hint is Any or get_origin(hint) is dict else "value"


def _is_known(name: str, known: dict[str, str]) -> bool:
    parts = name.split(".")
    above = (".".join(parts[:length]) for length in range(1, len(parts)))
    of_hydra = parts[0] == "hydra" or name.startswith("hydra/")
    return of_hydra or name in known or name in CHOICES or any(known.get(place) == "open" for place in above)


def _advice(name: str, known: dict[str, str], command: str) -> str:
    """Return the rest of the sentence: where the option is, or what it may have been meant to be."""
    for other, schema in COMMANDS.items():
        if other != command and name in dict(options(schema)):
            return f"; it is one of {other}."
    near = _near(name, sorted(known, key=lambda option: known[option] != "value"))
    return f"; did you mean {' or '.join(near)}?" if near else "."


def _near(name: str, known: Sequence[str], most: int = 3) -> list[str]:
    """Return options of the same last word, or else that look alike, or else of which the word is a part."""
    last = name.rpartition(".")[2]
    words = {option: option.rpartition(".")[2] for option in known}
    alike = get_close_matches(last, set(words.values()), n=1, cutoff=0.8)
    near = [option for option in known if words[option] == last]
    near = near or get_close_matches(name, known, n=most, cutoff=0.85)
    near = near or [option for option in known if words[option] in alike]
    near = near or [option for option in known if len(last) > 3 and last in words[option].split("_")]
    return near[:most]


def _refuse_flags(arguments: Sequence[str], known: dict[str, str]) -> None:
    for position, argument in enumerate(arguments):
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name.replace("-", "_") in known:
            value = value if equals else next(iter(arguments[position + 1 :]), "...")
            raise SystemExit(f"error: options are written without dashes here: {name.replace('-', '_')}={value}")
