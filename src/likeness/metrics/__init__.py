"""Metrics of an edit and of a subject, each measured with a named suite of backbones; suites are never mixed.

`embedded` (backbones trained on the drawn world), `standard` (the field's) and `pie` (PIE-Bench's definitions to the
letter, beside the corrected ones on the same backbones). docs/metrics.md defines every metric.
"""

from __future__ import annotations

from functools import lru_cache

from likeness.errors import InputError
from likeness.metrics.backbones import LPIPS_NETS, missing_embedded, missing_standard

__all__ = ["SUITES", "build", "build_subject", "check_available", "forget"]

SUITES = ("embedded", "standard", "pie")
FIXED_LPIPS = {"embedded": "the probe's trunk", "pie": "squeeze, as PIE-Bench does"}


def check_available(name: str, *, lpips_net: str | None = None, subject: bool = False) -> None:
    """Raise InputError unless the suite's weights are on this machine; cheap, imports no torch.

    `subject`: also those of the subject metrics (`build_subject`).
    """
    net = _lpips_net(name, lpips_net)
    missing = missing_embedded() if name == "embedded" else missing_standard(net, subject=subject)
    if missing:
        raise InputError(f"metrics={name} needs weights that are not on this machine:\n" + "\n".join(missing))


def _lpips_net(name: str, lpips_net: str | None) -> str:
    """Return the LPIPS trunk of a suite, None meaning its own; raise InputError for one it does not have."""
    if name not in SUITES:
        raise InputError(f"metrics={name} is unknown; choose one of {', '.join(SUITES)}.")
    if lpips_net is None:
        return {"embedded": "", "standard": "alex", "pie": "squeeze"}[name]
    if lpips_net not in LPIPS_NETS:
        raise InputError(f"metrics.lpips_net={lpips_net} is unknown; choose one of {', '.join(LPIPS_NETS)}.")
    if name in FIXED_LPIPS and not (name == "pie" and lpips_net == "squeeze"):
        raise InputError(
            f"metrics.lpips_net={lpips_net} does nothing with metrics={name}, whose LPIPS uses {FIXED_LPIPS[name]}. "
            "Leave it out, or choose metrics=standard."
        )
    return lpips_net


def build(name: str, *, device: str = "cpu", lpips_net: str | None = None):
    """Return the Suite of this name, loaded once per process; raises InputError if its weights are missing."""
    check_available(name, lpips_net=lpips_net)
    return _suite(name, device, _lpips_net(name, lpips_net))


def build_subject(name: str, *, device: str = "cpu", lpips_net: str | None = None):
    """Return the SubjectMetrics of this suite, sharing its encoders; raises InputError if weights are missing."""
    check_available(name, lpips_net=lpips_net, subject=True)
    return _subject(name, device, _lpips_net(name, lpips_net))


@lru_cache(maxsize=4)
def _suite(name: str, device: str, net: str):
    from likeness.metrics.suite import SUITES as BUILDERS

    return BUILDERS[name](device, net)


@lru_cache(maxsize=4)
def _subject(name: str, device: str, net: str):
    from likeness.metrics.subject import subject_metrics

    return subject_metrics(_suite(name, device, net), device)


def forget() -> None:
    """Let go of every encoder that was loaded."""
    from likeness.metrics.suite import field_encoders

    for cached in (_suite, _subject, field_encoders):
        cached.cache_clear()
