"""Train the embedded model from nothing: python -m likeness.paperdoll.pretrain --out DIR [--install].

Stages: data -> tokenizer -> vae -> clip -> probe -> unet -> judge -> card. Each resumes where it was stopped, and
stages that do not need each other may run in separate processes at the same time (vae beside clip and probe;
judge beside all, as it draws its own data).
"""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from likeness.errors import InputError
from likeness.malloc import keep_freed_memory

TOGETHER = {"unet"}  # on a CPU two processes of one thread are half as fast again as one of two
STAGES = ("data", "tokenizer", "vae", "clip", "probe", "unet", "judge", "card")
INITIAL = {"data": 0, "tokenizer": 1, "vae": 2, "clip": 3, "probe": 4, "unet": 5, "card": 6, "judge": 7}  # seeds


@dataclass(frozen=True)
class Run:
    """One pretraining: where it lives and how it trains."""

    out: Path
    preset_name: str = "cpu"
    seed: int = 0
    minutes: float | None = None  # per trained stage
    device: str = "cpu"
    workers: int = 2
    more: bool = False  # give finished stages another round from their averaged weights
    decoder_only: bool = False
    steps: int | None = None
    stop_after: int | None = None

    @property
    def preset(self):
        from likeness.paperdoll.presets import PRESETS

        return PRESETS[self.preset_name]

    def loop(self, stage: str):
        from likeness.paperdoll.checkpoints import Loop

        plan = getattr(self.preset, stage)
        if self.steps:
            plan = replace(plan, steps=self.steps)
        loop = Loop(
            self.out / stage, plan, seed=self.seed, minutes=self.minutes, stop_after=self.stop_after,
            log_every=20 if plan.steps > 100 else 1,
        )  # fmt: skip
        if self.more:
            loop.another_round()
        return loop

    def dataset(self):
        from likeness.paperdoll.dataset import load_dataset

        self.need("data/data.json", "data")
        return load_dataset(self.out / "data")

    def need(self, file: str, stage: str) -> Path:
        if not (self.out / file).exists():
            raise InputError(f"{self.out / file} is missing: run stage '{stage}' first (--stages {stage}).")
        return self.out / file


def run_data(run: Run) -> None:
    from likeness.paperdoll.dataset import draw

    draw(
        run.out / "data", seed=run.seed, pictures=run.preset.pictures, captions=run.preset.captions,
        workers=run.workers,
    )  # fmt: skip


def run_tokenizer(run: Run) -> None:
    import torch

    from likeness.paperdoll.dataset import save_array
    from likeness.paperdoll.tokenizer import encode, load_tokenizer, train_tokenizer

    data, folder = run.dataset(), run.out / "tokenizer"
    if not (folder / "vocab.json").is_file():
        train_tokenizer((text for texts in data.captions for text in texts), folder)
    target = run.out / "data" / "tokens.npy"
    if not target.is_file():
        tokenizer = load_tokenizer(folder)
        tokens = torch.stack([encode(tokenizer, texts) for texts in data.captions])
        save_array(target, tokens.short().numpy())


def run_vae(run: Run) -> None:
    from likeness.paperdoll.autoencoder import centre_latents, train_autoencoder
    from likeness.paperdoll.dataset import shuffled

    data = run.dataset()
    loop = run.loop("vae")
    model = train_autoencoder(data, run.preset, loop, run.device, decoder_only=run.decoder_only)
    if not loop.state.finished:
        return
    chosen = shuffled(len(data), 1)[: min(256, len(data))]
    centre_latents(model, data.images(chosen).to(run.device))
    model.save_pretrained(run.out / "vae" / "model")
    if not run.decoder_only:
        (run.out / "vae" / "latents.npy").unlink(missing_ok=True)
    (run.out / "vae" / "reconstructions.npy").unlink(missing_ok=True)


def redrawn(run: Run) -> Path:
    """Return the file of pictures as the autoencoder redraws them; made here once there is an autoencoder."""
    import torch

    from likeness.paperdoll.autoencoder import redraw
    from likeness.paperdoll.dataset import save_array

    target = run.out / "vae" / "reconstructions.npy"
    if not target.is_file() and (run.out / "vae" / "model" / "config.json").is_file():
        data = run.dataset()
        first = torch.arange(min(run.preset.reconstructions, len(data)))
        copies = redraw(load_vae(run), data.images(first))
        save_array(target, (copies.permute(0, 2, 3, 1) * 255).round().byte().numpy())
    return target


def load_vae(run: Run):
    from diffusers import AutoencoderKL

    run.need("vae/model/config.json", "vae")
    return AutoencoderKL.from_pretrained(run.out / "vae" / "model").eval().to(run.device)


def run_clip(run: Run) -> None:
    from likeness.paperdoll.clip import save_clip, train_clip
    from likeness.paperdoll.tokenizer import load_tokenizer

    data = run.dataset()
    run.need("data/tokens.npy", "tokenizer")
    loop = run.loop("clip")
    clip = train_clip(data, run.preset, loop, run.device, run.out / "tokenizer")
    if loop.state.finished:
        save_clip(clip.cpu(), load_tokenizer(run.out / "tokenizer"), run.out / "clip" / "model")


def run_probe(run: Run) -> None:
    from likeness.paperdoll.probe import save_probe
    from likeness.paperdoll.probe_training import train_probe

    data, loop = run.dataset(), run.loop("probe")
    probe = train_probe(data, run.preset, loop, run.device, redrawn(run))
    if loop.state.finished:
        save_probe(probe.cpu(), run.out / "probe" / "model")


def run_unet(run: Run) -> None:
    import numpy as np
    from transformers import CLIPModel

    from likeness.paperdoll.autoencoder import cache_latents
    from likeness.paperdoll.clip import text_encoder_from
    from likeness.paperdoll.tokenizer import load_tokenizer
    from likeness.paperdoll.unet import train_unet

    data, latents = run.dataset(), run.out / "vae" / "latents.npy"
    if not latents.is_file():
        cache_latents(load_vae(run), data, latents, run.device, run.preset.encoded)
    clip = CLIPModel.from_pretrained(run.need("clip/model", "clip"))
    loop = run.loop("unet")
    tokenizer = load_tokenizer(run.out / "tokenizer")
    unet, text_encoder = train_unet(
        data, np.load(latents), run.preset, loop, run.device, text_encoder_from(clip), tokenizer
    )
    if loop.state.finished and loop.rank == 0:
        unet.cpu().save_pretrained(run.out / "unet" / "unet")
        text_encoder.cpu().save_pretrained(run.out / "unet" / "text_encoder")


def run_judge(run: Run) -> None:
    """Draw the judge's own pictures, with another seed than the other stages', and train it on them alone."""
    from likeness.paperdoll.dataset import draw, load_dataset
    from likeness.paperdoll.judge import save_judge
    from likeness.paperdoll.judge_training import judge_factors, train_judge

    apart = replace(run, seed=run.seed + 1)
    folder = run.out / "judge" / "data"
    draw(
        folder, seed=apart.seed, pictures=run.preset.judge_pictures, captions=0, workers=run.workers,
        sample=judge_factors,
    )  # fmt: skip
    loop = apart.loop("judge")
    judge = train_judge(load_dataset(folder), run.preset, loop, run.device)
    if loop.state.finished:
        save_judge(judge.cpu(), run.out / "judge" / "model")


def run_card(run: Run) -> None:
    """Assemble the four folders to be shipped, in fp16, and measure them."""
    from likeness.paperdoll.card import assemble_weights
    from likeness.paperdoll.evaluate import Extent, evaluate

    weights, size = run.out / "weights", run.preset.evaluation
    assemble_weights(run.out, weights, run.preset, run.preset_name, run.seed)
    evaluate(weights, Extent(prompts=size, pictures=8 * size, seeds=max(2, size // 4)), run.device)


def install(run: Run, target: Path | None = None) -> Path:
    """Replace the shipped weights by those of this run; returns where they are."""
    from likeness.paperdoll.weights import SHIPPED

    source, target = run.need("weights/pipeline/model_index.json", "card").parents[1], target or SHIPPED
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copytree(source, fresh)
    if target.exists():
        old = target.with_name(f".{target.name}.old.{os.getpid()}")
        target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old)
    else:
        fresh.rename(target)
    return target


RUN = {
    "data": run_data, "tokenizer": run_tokenizer, "vae": run_vae, "clip": run_clip, "probe": run_probe,
    "unet": run_unet, "judge": run_judge, "card": run_card,
}  # fmt: skip


def pretrain(run: Run, stages: tuple[str, ...] = STAGES) -> None:
    """Run the stages in order; finished ones return at once."""
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise InputError(f"Unknown stage {unknown[0]!r}. Stages: {', '.join(STAGES)}.")
    import torch

    for stage in stages:
        torch.manual_seed(run.seed * 7 + INITIAL[stage])  # decides the initial weights
        RUN[stage](run)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="likeness.paperdoll.pretrain", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and data; keep it to resume")
    parser.add_argument("--preset", choices=("tiny", "cpu", "gpu"), default="cpu")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated, default all")
    parser.add_argument("--minutes", type=float, help="end each trained stage's schedule after this long")
    parser.add_argument("--steps", type=int, help="steps of each trained stage, instead of the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; 1 each when stages run side by side")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw the data")
    parser.add_argument("--more", action="store_true", help="train finished stages for another round")
    parser.add_argument("--vae-decoder-only", action="store_true", help="keep the encoder and its latents")
    parser.add_argument("--install", action="store_true", help="replace the weights inside the package")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    keep_freed_memory()
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    run = Run(
        out=args.out, preset_name=args.preset, seed=args.seed, minutes=args.minutes, device=device,
        workers=args.workers, more=args.more, decoder_only=args.vae_decoder_only, steps=args.steps,
    )  # fmt: skip
    stages = tuple(s for s in args.stages.split(",") if s)
    try:
        if "RANK" in os.environ:  # torchrun: several processes share every trained stage
            if set(stages) - TOGETHER:
                raise InputError(f"several processes can run the stages {', '.join(sorted(TOGETHER))} only.")
            torch.distributed.init_process_group("gloo")
        pretrain(run, stages)
        if args.install:
            print(f"installed in {install(run)}")
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
