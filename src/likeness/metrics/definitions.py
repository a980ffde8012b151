"""What each metric is: definition, source, unit and direction. The suites and docs/metrics.md take them from here.

Imports no torch. `python -m likeness.metrics.definitions` prints the table of the page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REGIONS = {
    "rendered": "pixels that differ between two renderings of the drawn world, with what the source prompt and what "
    "the target prompt asks, at the pose and looks the probe reads from the source; an estimate, not an annotation",
    "local_blend": "LocalBlend's last mask: where the pictures were allowed to differ",
    "attention": "where the swapped words' attention maps exceed 0.3 of their maximum, source and target together",
}
_REGIONAL = re.compile(rf"(?P<base>\w+?)_(?P<side>inside|outside)_(?P<region>{'|'.join(REGIONS)})")


@dataclass(frozen=True)
class Definition:
    """One metric; `backbones` names what it is measured with in each suite, in the order of the table's column."""

    text: str
    source: str
    unit: str
    direction: str
    backbones: str
    file: str


_CLIP = "embedded: paperdoll CLIP · standard, pie: CLIP ViT-L/14"
_LPIPS = "embedded: probe's trunk, unweighted · standard: alex (vgg, squeeze by option) · pie: squeeze"
_PROBE = "embedded: probe"
_PIXELS = "the pixels"
_PIE = "Ju et al. 2024 (PIE-Bench), evaluation/matrics_calculator.py"
_DB = "Ruiz et al. 2023"
_SUITE, _READ, _SUBJ, _LIT = "suite.py", "readings.py", "subject.py", "pie.py"
H, L, N = "higher", "lower", "neutral"

EDIT = {
    "clip_t": Definition(
        "cosine of picture and target prompt; torchmetrics' CLIPScore is 100 times this, at least 0",
        "Radford et al. 2021; CLIP-T of Ruiz et al. 2023, sec. 4.1", "cosine", H, _CLIP, _SUITE,
    ),
    "clip_dir": Definition(
        "cosine of the step from source to edited picture and the step from source to target prompt; none where "
        "either stands still", "Gal et al. 2022 (StyleGAN-NADA), eq. 2", "cosine", H, _CLIP, _SUITE,
    ),
    "lpips": Definition("distance to the source in deep features", "Zhang et al. 2018, eq. 1", "1", L, _LPIPS, _SUITE),
    "ssim": Definition(
        "structural similarity to the source, Gaussian window of 11 px", "Wang et al. 2004, eq. 13", "1", H, _PIXELS,
        _SUITE,
    ),
    "psnr": Definition(
        "peak signal-to-noise ratio to the source, at most 60", "10 log10(1 / mean square)", "dB", H, _PIXELS, _SUITE
    ),
    "dino_structure": Definition(
        "mean squared difference of the key self-similarities of source and edited picture, last layer, 224 px, "
        "input in [0, 1]", "Tumanyan et al. 2022, released code", "1", L, "standard, pie: DINO ViT-B/8",
        "structure.py",
    ),
    "clip_structure": Definition(
        "the same distance in the keys of the embedded CLIP's vision tower; not comparable with DINO's",
        "after Tumanyan et al. 2022", "1", L, "embedded: paperdoll CLIP", "structure.py",
    ),
}  # fmt: skip

PROBED = {
    "edit_success": Definition(
        "1 where every factor that the prompts ask differently is read as the target asks; none if they ask the same",
        "this repository", "0 or 1", H, _PROBE, _READ,
    ),
    "asked_shown": Definition(
        "share of all factors read as the target prompt asks", "this repository", "share", H, _PROBE, _READ
    ),
    "head_shift_px": Definition(
        "distance between the head's centres", "this repository", "px of 128", L, _PROBE, _READ
    ),
    "size_change": Definition("relative change of the head's size", "this repository", "share", L, _PROBE, _READ),
    "other_changed": Definition(
        "share of the factors not asked to change that are read differently", "this repository", "share", L, _PROBE,
        _READ,
    ),
    "identity_shift": Definition(
        "root mean square change of the 26 traits read, which lie in [-1, 1]", "this repository", "traits", L, _PROBE,
        _READ,
    ),
    "blossom": Definition(
        "share of the tree's crown in blossom, as read", "this repository", "share", N, _PROBE, _READ
    ),
}  # fmt: skip

SUBJECT = {
    "clip_i": Definition(
        "mean cosine of a picture to all photos", f"{_DB}, sec. 4.1 (which does not say which CLIP)", "cosine", H,
        _CLIP, _SUBJ,
    ),
    "dino": Definition(
        "mean cosine of a picture's class token to those of all photos", f"{_DB}, sec. 4.1", "cosine", H,
        "standard, pie: DINO ViT-S/16", _SUBJ,
    ),
    "identity_distance": Definition(
        "root mean square difference of the traits read from the picture and their mean over the photos",
        "this repository", "traits", L, _PROBE, _SUBJ,
    ),
    "diversity_lpips": Definition(
        "mean LPIPS over all pairs of pictures of one prompt", f"{_DB}, sec. 4.3 (DIV)", "1", H, _LPIPS, _SUBJ
    ),
    "drift_lpips": Definition(
        "LPIPS between pictures of the same prompt and noise before and after fine-tuning", "this repository", "1", L,
        _LPIPS, _SUBJ,
    ),
    "drift_clip": Definition("1 - cosine of the same two pictures", "this repository", "1", L, _CLIP, _SUBJ),
    "drift_identity": Definition(
        "root mean square change of the traits read from the same two pictures", "this repository", "traits", L,
        _PROBE, _SUBJ,
    ),
    "drift_who": Definition("1 where another class is read", "this repository", "0 or 1", L, _PROBE, _SUBJ),
    "pres_clip_i": Definition("clip_i of pictures of the class word", f"after {_DB}", "cosine", L, _CLIP, _SUBJ),
    "pres_dino": Definition(
        "dino of pictures of the class word", f"{_DB}, sec. 4.3 (PRES)", "cosine", L, "standard, pie: DINO ViT-S/16",
        _SUBJ,
    ),
    "pres_identity_distance": Definition(
        "identity_distance of pictures of the class word", "this repository", "traits", H, _PROBE, _SUBJ
    ),
    "bleed_clip_i": Definition(
        "pres_clip_i minus what the base model's pictures give", "this repository", "cosine", L, _CLIP, _SUBJ
    ),
    "bleed_dino": Definition(
        "pres_dino minus what the base model's pictures give", "this repository", "cosine", L,
        "standard, pie: DINO ViT-S/16", _SUBJ,
    ),
    "bleed_identity": Definition(
        "share of the way from the base model's person to the subject's traits", "this repository", "share", L, _PROBE,
        _SUBJ,
    ),
}  # fmt: skip

PIE = {
    "pie_structure_x1e3": Definition(
        "1000 x structure distance of pictures in 0 to 255 under ImageNet's mean and deviation, which are meant for "
        "0 to 1; scaled to 224 px without antialiasing", f"{_PIE}, calculate_structure_distance", "1e-3", L,
        "pie: DINO ViT-B/8", _LIT,
    ),
    "pie_psnr": Definition(
        "PSNR over all pixels; infinite for equal pictures", f"{_PIE}, calculate_psnr", "dB", H, _PIXELS, _LIT
    ),
    "pie_lpips_x1e3": Definition(
        "1000 x LPIPS", f"{_PIE}, calculate_lpips", "1e-3", L, "pie: squeeze", _LIT
    ),
    "pie_mse_x1e4": Definition("10000 x mean square", f"{_PIE}, calculate_mse", "1e-4", L, _PIXELS, _LIT),
    "pie_ssim_x1e2": Definition("100 x SSIM", f"{_PIE}, calculate_ssim", "1e-2", H, _PIXELS, _LIT),
    "pie_clip": Definition(
        "100 x cosine of picture and its own prompt, at least 0 (torchmetrics' CLIPScore)",
        f"{_PIE}, calculate_clip_similarity", "0 to 100", H, "pie: CLIP ViT-L/14", _LIT,
    ),
}  # fmt: skip

DEFINITIONS = EDIT | PROBED | SUBJECT | PIE
# What a region adds to the definition of a metric that has one, ours and PIE-Bench's.
REGIONAL = {
    "lpips": "LPIPS map, averaged over the region",
    "ssim": "SSIM map, averaged over the region",
    "psnr": "mean square over the region's pixels only",
    "dino_structure": "pairs of patches that lie wholly in the region",
    "clip_structure": "pairs of patches that lie wholly in the region",
    "clip_t": "inside only; the rest has CLIP's mean colour, which it sees as nothing",
    "pie_structure_x1e3": "", "pie_psnr": "", "pie_lpips_x1e3": "", "pie_mse_x1e4": "", "pie_ssim_x1e2": "",
    "pie_clip": "inside only (\"edit part\"); the rest is black",
}  # fmt: skip
PIE_REGION = (
    "pixels outside the part are set to zero in both pictures and counted as equal, over the whole picture; the "
    "picture's border always belongs to the edited part"
)


def base_name(name: str) -> str:
    """Return the metric that a regional name is about: "lpips" of "lpips_outside_rendered"."""
    found = _REGIONAL.fullmatch(name)
    return found["base"] if found else name


def region_of(name: str) -> tuple[str, str] | None:
    """Return ("outside", "rendered") of "lpips_outside_rendered"; None for a metric of the whole picture."""
    found = _REGIONAL.fullmatch(name)
    return (found["side"], found["region"]) if found else None


def direction(name: str) -> str:
    """Return "higher", "lower" or "neutral": which way is better, regional names included.

    Inside an edited region a picture is meant to change: there nothing but CLIP has a better direction.
    """
    found = _REGIONAL.fullmatch(name)
    if found and found["side"] == "inside" and found["base"] not in ("clip_t", "pie_clip"):
        return N
    return DEFINITIONS[base_name(name)].direction


def table(definitions: dict[str, Definition]) -> str:
    """Return a Markdown table of definitions."""
    lines = [
        "| metric | definition | source | unit | better | measured with | file |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{name}` | {d.text} | {d.source} | {d.unit} | {d.direction} | {d.backbones} | `{d.file}` |"
        for name, d in definitions.items()
    ]
    return "\n".join(lines)


def regional_table() -> str:
    """Return a Markdown table of what inside and outside a region means for each metric."""
    lines = ["| metric | inside and outside a region |", "|---|---|"]
    for name, text in REGIONAL.items():
        shown = "; ".join(part for part in (PIE_REGION if name.startswith("pie_") else "", text) if part)
        lines.append(f"| `{name}` | {shown} |")
    lines += ["", "| region | what it is |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {text} |" for name, text in REGIONS.items())])


if __name__ == "__main__":
    for part in (EDIT, PROBED, SUBJECT, PIE):
        print(table(part), end="\n\n")
    print(regional_table())
