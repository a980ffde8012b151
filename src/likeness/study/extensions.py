"""Edits and metrics of your own, named in the configuration as module:name; see docs/extending.md.

The bytes of the module are part of what a cell is known by, so that changed code never meets old results.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from likeness.errors import InputError

DIRECTIONS = ("higher", "lower", "neutral")


def is_extension(name: str) -> bool:
    """Say whether a name in the configuration means code outside this package."""
    return ":" in name


def load(reference: str) -> Any:
    """Return what `module:name` names; InputError where there is no such thing."""
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{reference}: Python finds no module {error.name!r}. Put {module.split('.')[0]}.py beside sweep.py, or "
            "name its folder in PYTHONPATH."
        ) from error
    except AttributeError as error:
        raise InputError(f"{reference}: the module {module} has no {name!r}.") from error


def code_id(reference: str) -> str:
    """Return `module:name@hash` of an extension, the hash being that of the module's file."""
    load(reference)
    origin = importlib.util.find_spec(reference.partition(":")[0]).origin
    return f"{reference}@{hashlib.sha256(Path(origin).read_bytes()).hexdigest()[:8]}"


class ExtendedSuite:
    """A suite that also calls metrics of your own: functions (source, edited, source_prompt, target_prompt).

    Pictures are float (n, 3, h, w) in [0, 1], the answer is (n,). The function's attribute `direction` says whether
    "higher" or "lower" is better; without one it is "neutral".
    """

    def __init__(self, suite: Any, references: Iterable[str]) -> None:
        self.suite = suite
        self.extra: dict[str, Callable] = {}
        self.own: dict[str, str] = {}
        self.own_directions: dict[str, str] = {}
        for reference in references:
            name, function = reference.partition(":")[2], load(reference)
            if name in suite.backbones or name in self.extra:
                raise InputError(f"{reference}: there is a metric {name!r} already; choose another name.")
            self.extra[name], self.own[name] = function, code_id(reference)
            self.own_directions[name] = getattr(function, "direction", "neutral")
            if self.own_directions[name] not in DIRECTIONS:
                raise InputError(f"{reference}.direction must be one of {', '.join(DIRECTIONS)}.")

    @property
    def backbones(self) -> dict[str, str]:
        return self.suite.backbones | self.own

    @property
    def directions(self) -> dict[str, str]:
        return self.suite.directions | self.own_directions

    def described(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the `backbones` and `directions` of measured names."""
        found = self.suite.described([name for name in names if name not in self.extra])
        return {
            "backbones": found["backbones"] | self.own,
            "directions": found["directions"] | self.own_directions,
        }

    def measure_arms(self, arms: dict[str, Any], source_prompt: str, target_prompt: str, masks: Any = None):
        """Measure as the suite does, then with each extension."""
        measured = self.suite.measure_arms(arms, source_prompt, target_prompt, masks)
        for name, function in self.extra.items():
            for arm, pictures in arms.items():
                values = function(arms["source"], pictures, source_prompt, target_prompt)
                if tuple(getattr(values, "shape", ())) != (len(pictures),):
                    raise InputError(f"the metric {name!r} must return one number per picture, as a tensor (n,).")
                measured[arm][name] = values
        return measured
