"""What the finished embedded model should reach, and the table that shows it beside what was measured."""

from __future__ import annotations

import operator

AT_LEAST, AT_MOST = ">=", "<="
COMPARE = {AT_LEAST: operator.ge, AT_MOST: operator.le}
READ = ("style", "scene", "food", "sunglasses", "hat")
BARS: dict[str, tuple[str, float]] = {
    **{f"{reader}/{name}": (AT_LEAST, 0.98) for reader in ("probe", "judge") for name in READ},
    **{f"{reader}/{name} in its worst style": (AT_LEAST, 0.98) for reader in ("probe", "judge") for name in READ},
    **{
        f"{reader}/{name}": (AT_MOST, most)
        for reader in ("probe", "judge")
        for name, most in (
            ("head_x error px", 0.5), ("head_y error px", 0.5), ("head_size error px", 0.5), ("turn error", 3.0),
            ("tilt error", 3.0),
        )
    },
    "autoencoder/psnr dB": (AT_LEAST, 27.0),
    **{f"autoencoder/{name} gained by the probe": (AT_LEAST, -0.01) for name in READ},
    **{f"autoencoder/{name} gained by the judge": (AT_LEAST, -0.01) for name in READ},
    "drawn/style": (AT_LEAST, 0.95), "drawn/scene": (AT_LEAST, 0.95), "drawn/sunglasses": (AT_LEAST, 0.95),
    "drawn/hat": (AT_LEAST, 0.95), "drawn/food": (AT_LEAST, 0.90), "drawn/who": (AT_LEAST, 0.95),
    "clip/retrieval of 64, rendered": (AT_LEAST, 0.90), "clip/retrieval of 64, generated": (AT_LEAST, 0.80),
}  # fmt: skip


def bar(name: str) -> str:
    """Return the bar of a measure as text, empty where there is none."""
    return "{} {:g}".format(*BARS[name]) if name in BARS else ""


def met(name: str, value: float) -> bool | None:
    """Say whether a value reaches its bar; None where there is no bar."""
    if name not in BARS:
        return None
    direction, level = BARS[name]
    return COMPARE[direction](value, level)


def table(values: dict[str, float]) -> str:
    """Return the measures as a Markdown table: value, the bar beside it, and whether it is met."""
    lines = ["| measure | value | bar | met |", "|---|---|---|---|"]
    words = {True: "yes", False: "**no**", None: ""}
    lines += [f"| {name} | {value:.3f} | {bar(name)} | {words[met(name, value)]} |" for name, value in values.items()]
    return "\n".join(lines)


def verdict(values: dict[str, float]) -> str:
    """Return in one sentence how many bars are met and which are not."""
    found = {name: met(name, value) for name, value in values.items() if name in BARS}
    missed = [f"{name} ({values[name]:.3f}, bar {bar(name)})" for name, reached in found.items() if not reached]
    text = f"{len(found) - len(missed)} of {len(found)} bars are met"
    return f"{text}; missed: {', '.join(missed)}." if missed else f"{text}."
