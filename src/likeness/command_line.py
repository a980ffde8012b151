"""What was typed, looked at before Hydra composes it: one line where Hydra's own advice would lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

from likeness import launch
from likeness.config import Sweep, Train

COMMANDS = {"train.py": Train, "sweep.py": Sweep}
CHOICES = ("experiment", "local")  # groups that are no group of values
OTHER_CONFIGURATION = ("config-name", "config-dir", "config-path", "experimental-rerun", "cn", "cd", "cp")
FLAGS = (
    *OTHER_CONFIGURATION, "help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun",
    "shell-completion", "info", "c", "p", "r", "m", "sc", "i", "h",
)  # fmt: skip
ALSO_CALLED = {"lr": "learning_rate"}
LIST = "docs/options.md has every option."


def check(arguments: Sequence[str], command: str) -> None:
    """Leave with one line where an argument of train.py or sweep.py names no option, or a group several choices.

    Names are not looked at where another configuration than ours may be read.
    """
    known = dict(options(COMMANDS[command]))
    flags = [(place, *_flag(argument)) for place, argument in enumerate(arguments) if argument.startswith("-")]
    for place, flag, value in flags:
        if flag not in FLAGS:
            raise SystemExit(f"error: {_without_dashes(flag, value, arguments[place + 1 :], known, command)}")
    theirs = any(flag in OTHER_CONFIGURATION for _, flag, _ in flags)
    typed = [(argument, launch.typed(argument)) for argument in arguments if not argument.startswith("-")]
    theirs = theirs or any(found and found[0] == "hydra.searchpath" for _, found in typed)
    for argument, found in typed:
        if found is None:  # a flag's value, or a mistake in Hydra's grammar, which says so itself
            if not flags and "=" not in argument:
                raise SystemExit(
                    f"error: {argument!r} is no option; write name=value, for example subject=tuki. {LIST}"
                )
            continue
        name, value = found
        if isinstance(value, list) and (known.get(name) == "choices" or name in CHOICES):
            several = ", or train.py 'subjects=[a,b]' for several subjects in one model" * (name == "subject")
            raise SystemExit(
                f"error: {argument} names several options at once, of which only the last would count. Use "
                f"-m {name}=a,b for one run each{several}."
            )
        if not theirs and not _is_known(name, known):
            raise SystemExit(f"error: {command} has no option {name!r}{_advice(name, known, command)} {LIST}")


def options(schema: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give the dotted name of every option of a configuration and what it is.

    "choices": a group with a folder of files; "group": values that belong together; "open": names or indices may
    stand below it; "switch": true or false; else "value".
    """
    for name, hint in get_type_hints(schema).items():
        group = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if group:
            yield prefix + name, "group" if prefix else "choices"
            yield from options(group, f"{prefix}{name}.")
        elif hint is Any or {get_origin(hint), *map(get_origin, get_args(hint))} & {dict, list}:
            yield prefix + name, "open"
        else:
            yield prefix + name, "switch" if hint is bool else "value"


def _flag(argument: str) -> tuple[str, str]:
    name, _, value = argument.lstrip("-").partition("=")
    return name, value


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
    near = _near(name, sorted(known, key=lambda option: known[option] == "open"))
    return f"; did you mean {' or '.join(near)}?" if near else "."


def _near(name: str, known: Sequence[str], most: int = 3) -> list[str]:
    """Return options of the same last word, or else that look alike, or else of which the word is a part."""
    last = name.rpartition(".")[2]
    last = ALSO_CALLED.get(last, last)
    words = {option: option.rpartition(".")[2] for option in known}
    alike = get_close_matches(last, set(words.values()), n=1, cutoff=0.8)
    near = [option for option in known if words[option] == last]
    near = near or get_close_matches(name, known, n=most, cutoff=0.85)
    near = near or [option for option in known if words[option] in alike]
    near = near or [option for option in known if len(last) > 3 and f"_{last}_" in f"_{words[option]}_"]
    return near[:most]


def _without_dashes(flag: str, value: str, rest: Sequence[str], known: dict[str, str], command: str) -> str:
    """Return what is wrong with an argument that Hydra does not know as a flag."""
    name = flag.replace("-", "_")
    if not _is_known(name, known):
        return f"{command} has no option {name!r}{_advice(name, known, command)} {LIST}"
    following = rest[0] if rest and "=" not in rest[0] and not rest[0].startswith("-") else ""
    value = value or following or ("true" if known.get(name) == "switch" else "...")
    return f"options are written without dashes here: {name}={value}"
