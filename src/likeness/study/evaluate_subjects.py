"""Judge fine-tuned models of the drawn world: is it the subject, does it bleed, what became of the class?

python -m likeness.study.evaluate_subjects outputs/models/paperdoll/* [--card]: give models with and without prior
preservation to see both. The judge's identity reading decides; `--card` puts the table into the model card. What can
be reached is measured beside it: the same of the world's own drawings of the subject, and of what the autoencoder
makes of these.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from likeness import dreambooth, models
from likeness.dreambooth.storage import SETTINGS, read_json
from likeness.errors import InputError
from likeness.paperdoll import captions, photos, world
from likeness.paperdoll.autoencoder import redraw
from likeness.paperdoll.evaluate_drawing import generate
from likeness.study.measure import to_tensor

OTHERS, RENDERINGS = 200, 3  # random identities, and renderings of each that the judge reads
# One per style; no fine-tuning has seen them.
UNSEEN = (
    "photo of a {} eating an apple in the jungle", "painting of a {} in the desert", "drawing of a {} wearing a hat",
    "van gogh painting of a {} in a forest", "charcoal painting of a {} on a city street",
    "watercolor painting of a {} on a beach", "impressionism painting of a {} eating a pizza",
    "neo classical painting of a {} in a river",
)  # fmt: skip
Draw = Callable[[object, list[str]], Tensor]  # pipeline, prompts -> pictures


@dataclass(frozen=True)
class Outcome:
    """What the judge found of one subject in one model: shares in [0, 1], and of how many pictures."""

    model: str
    subject: str
    class_word: str
    prior_preservation: bool
    pictures: int
    subject_nearest: float  # of the subject's pictures: nearer to its photos than to any of the random identities
    by_prompt: dict[str, float]
    rendered: float  # the same of the world's own drawings of the subject
    redrawn: float  # and of these through the autoencoder: nothing generated can do better
    other_class: str
    bled: float  # of the other class's pictures: the same
    class_before: float  # of "photo of CLASS": read as the class, by the base model
    class_after: float
    class_pictures: int


def random_identities(judge, seed: int = 0, count: int = OTHERS) -> Tensor:
    """Return how the judge reads `count` random people (count, traits), the mean over renderings as photos."""
    rng = np.random.default_rng((seed, 0x07E25))
    readings = []
    plain = {"style": "photo", "food": "none", "hat": False, "sunglasses": False}
    for index in range(count):
        who = world.CLASSES[index % len(world.CLASSES)]
        plain |= {"who": who, "identity": world.sample_identity(who, rng)}
        shown = [world.render(world.sample_factors(rng, **plain)) for _ in range(RENDERINGS)]
        readings.append(judge.read(to_tensor(shown)).identity.mean(0))
    return torch.stack(readings)


def photo_identity(judge, subject: str) -> Tensor:
    """Return the mean reading (traits) of a subject's shipped photos."""
    from PIL import Image

    shown = [np.asarray(Image.open(path).convert("RGB")) for path in photos.paths(subject)]
    return judge.read(to_tensor(shown)).identity.mean(0)


def nearest(identity: Tensor, subject: Tensor, others: Tensor) -> Tensor:
    """Say for each reading (n, traits) whether the subject (traits) is nearer than every one of others (m, traits)."""
    own = (identity - subject).pow(2).mean(1)
    return own < (identity[:, None] - others).pow(2).mean(2).min(1).values


def within_reach(judge, vae, subject: str, others: Tensor, seeds: int) -> tuple[float, float]:
    """Return the share of drawings of the subject, as rendered and as redrawn by the autoencoder, judged as it."""
    rng = np.random.default_rng((1, len(others)))
    fixed = [captions.as_fields(captions.asked(template)) for template in UNSEEN for _ in range(seeds)]
    drawn = to_tensor([world.render(world.sample_factors(rng, **one | {"who": subject})) for one in fixed])
    own = photo_identity(judge, subject)
    shown = (drawn, redraw(vae, drawn))
    return tuple(nearest(judge.read(pictures).identity, own, others).float().mean().item() for pictures in shown)


def described(folder: Path) -> list[dict]:
    """Return the subjects a finished model was trained on; InputError unless the drawn world knows them."""
    if not dreambooth.is_finished(folder):
        raise InputError(f"{folder} holds no finished fine-tuned model; run train.py for it first.")
    subjects = read_json(folder / SETTINGS)["identity"]["subjects"]
    for subject in subjects:
        if subject["identifier"] not in world.SUBJECTS:
            raise InputError(
                f"{folder}: {subject['identifier']!r} is no subject of the drawn world "
                f"({', '.join(world.SUBJECTS)}); nothing is known of its identity."
            )
    return subjects


def outcome(
    pipe,
    base_class: Tensor,
    folder: Path,
    subject: dict,
    judge,
    draw: Draw,
    others: Tensor,
    seeds: int,
    reach: tuple[float, float],
) -> Outcome:
    """Judge one subject of a loaded fine-tuned model; `base_class` are the base model's pictures of its class."""
    name, class_word = subject["identifier"], subject["class_word"]
    own = photo_identity(judge, name)
    texts = [template.format(f"{name} {class_word}") for template in UNSEEN for _ in range(seeds)]
    hits = nearest(judge.read(draw(pipe, texts)).identity, own, others).float()
    other_class = next(word for known, word in photos.CLASS_WORDS.items() if known != name)
    bled = nearest(judge.read(draw(pipe, [f"photo of {other_class}"] * len(base_class))).identity, own, others)
    after = draw(pipe, [f"photo of {class_word}"] * len(base_class))
    return Outcome(
        model=folder.name,
        subject=name,
        class_word=class_word,
        prior_preservation=bool(subject.get("class_prompts")),
        pictures=len(hits),
        subject_nearest=hits.mean().item(),
        by_prompt=dict(zip(UNSEEN, hits.view(-1, seeds).mean(1).tolist(), strict=True)),
        rendered=reach[0],
        redrawn=reach[1],
        other_class=other_class,
        bled=bled.float().mean().item(),
        class_before=read_as(judge, base_class, class_word),
        class_after=read_as(judge, after, class_word),
        class_pictures=len(base_class),
    )


def read_as(judge, pictures: Tensor, class_word: str) -> float:
    """Return the share of pictures that the judge reads as this class."""
    return float(np.mean([who == class_word for who in judge.read(pictures).names("who")]))


def evaluate_models(
    folders: Sequence[Path], judge, draw: Draw, *, seeds: int, device: str, count: int = OTHERS
) -> list[Outcome]:
    """Judge every subject of every fine-tuned model of the embedded model."""
    base = models.ModelSource("paperdoll", "embedded")
    known = {folder: described(folder) for folder in folders}
    pipe = models.load_pipeline(base, device=device)
    words = {subject["class_word"] for subjects in known.values() for subject in subjects}
    before = {word: draw(pipe, [f"photo of {word}"] * (4 * seeds)) for word in sorted(words)}
    others = random_identities(judge, count=count)
    names = {subject["identifier"] for subjects in known.values() for subject in subjects}
    reach = {name: within_reach(judge, pipe.vae, name, others, seeds) for name in sorted(names)}
    found = []
    for folder, subjects in known.items():
        pipe = dreambooth.load_finetuned(base, folder, "float32", device)
        for subject in subjects:
            print(f"judging {subject['identifier']} in {folder.name}", flush=True)
            base_class, within = before[subject["class_word"]], reach[subject["identifier"]]
            found.append(outcome(pipe, base_class, folder, subject, judge, draw, others, seeds, within))
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table; shares with Wilson's 95 % interval (1927)."""
    lines = [
        "| subject | prior preservation | is the subject (bar >= 90 %) | within reach: drawn by the world / redrawn "
        "by the autoencoder | other class is the subject (bar <= 5 %) "
        "| read as its class: before -> after fine-tuning (bar: within 3 points, with prior preservation) | model |",
        "|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        lines.append(
            f"| {o.subject} | {'with' if o.prior_preservation else 'without'} "
            f"| {with_interval(o.subject_nearest, o.pictures)} "
            f"| {o.rendered:.1%} / {o.redrawn:.1%} "
            f"| {o.other_class}: {with_interval(o.bled, o.class_pictures)} "
            f"| {o.class_word}: {with_interval(o.class_before, o.class_pictures)} -> "
            f"{with_interval(o.class_after, o.class_pictures)} | {o.model} |"
        )
    return "\n".join(lines)


def with_interval(share: float, n: int) -> str:
    """Return "95.0 % [87.1, 98.4] of 64"."""
    from scipy.stats import binomtest

    span = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return f"{share:.1%} [{100 * span.low:.1f}, {100 * span.high:.1f}] of {n}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="likeness.study.evaluate_subjects", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="folders of fine-tuned models")
    parser.add_argument("--seeds", type=int, default=8, help="pictures of each of the prompts")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="also write every number here")
    parser.add_argument("--card", action="store_true", help="put the table into the embedded model's card")
    arguments = parser.parse_args(argv)
    from likeness.paperdoll.card import put_subjects
    from likeness.paperdoll.judge import load_judge
    from likeness.paperdoll.weights import weights_root

    def draw(pipe, texts: list[str]) -> Tensor:
        return generate(pipe, texts, seed=4, steps=arguments.steps, guidance=arguments.guidance)

    try:
        device = models.resolve_device(arguments.device)
        outcomes = evaluate_models(arguments.models, load_judge(device), draw, seeds=arguments.seeds, device=device)
        text = table(outcomes)
        print(text)
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n", encoding="utf-8")
        if arguments.card:
            options = f"--seeds {arguments.seeds} --steps {arguments.steps} --guidance {arguments.guidance}"
            note = (
                f"{len(UNSEEN)} prompts never seen, one for each style; {OTHERS} random identities. "
                f"By `python -m likeness.study.evaluate_subjects MODELS {options}`."
            )
            put_subjects(weights_root(), f"{text}\n\n{note}")
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
