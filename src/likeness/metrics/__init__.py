"""Metrics of an edit: CLIP for what was asked, LPIPS and SSIM for what was kept, the probe for what is true.

Two named suites, never mixed: `embedded` (backbones trained on the drawn world) and `standard` (the field's).
"""

from __future__ import annotations

from functools import lru_cache

from likeness.errors import InputError
from likeness.metrics.backbones import LPIPS_NETS, missing_embedded, missing_standard

__all__ = ["SUITES", "build", "check_available"]

SUITES = ("embedded", "standard")


def check_available(name: str, *, lpips_net: str = "alex") -> None:
    """Raise InputError unless the suite's weights are on this machine; cheap, imports no torch."""
    if name not in SUITES:
        raise InputError(f"metrics={name} is unknown; choose one of {', '.join(SUITES)}.")
    if name == "standard" and lpips_net not in LPIPS_NETS:
        raise InputError(f"metrics.lpips_net={lpips_net} is unknown; choose one of {', '.join(LPIPS_NETS)}.")
    missing = missing_embedded() if name == "embedded" else missing_standard(lpips_net)
    if missing:
        raise InputError(f"metrics={name} needs weights that are not on this machine:\n" + "\n".join(missing))


@lru_cache(maxsize=4)
def build(name: str, *, device: str = "cpu", lpips_net: str = "alex"):
    """Return the Suite of this name, loaded once per process; raises InputError if its weights are missing."""
    check_available(name, lpips_net=lpips_net)
    from likeness.metrics.suite import embedded_suite, standard_suite

    return embedded_suite(device) if name == "embedded" else standard_suite(device, lpips_net)
