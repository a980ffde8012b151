"""A study at its smallest: random weights in the embedded model's layout, and a subject "fine-tuned" by copying them.

Children are forked to draw cells, and killed.
"""

import json
import os
import random
import shutil
import signal
import time
import traceback
from pathlib import Path

CONF = Path(__file__).parents[1] / "conf"
WORDS = "photo of tuki justin bieber in a forest on snowy mountain drawing eating burger cake lasagne painting a"


def build_world(root: Path) -> Path:
    """Write pipeline/, clip/ and probe/ of random tiny weights, as `paperdoll.weights` finds them."""
    import torch

    from likeness.paperdoll.autoencoder import build_autoencoder
    from likeness.paperdoll.clip import build_clip, save_clip, text_encoder_from
    from likeness.paperdoll.presets import PRESETS
    from likeness.paperdoll.probe import Probe, save_probe
    from likeness.paperdoll.tokenizer import load_tokenizer, train_tokenizer
    from likeness.paperdoll.unet import assemble, build_unet

    preset = PRESETS["tiny"]
    train_tokenizer([WORDS] * 20, root / "tokenizer")
    tokenizer = load_tokenizer(root / "tokenizer")
    torch.manual_seed(0)
    clip = build_clip(preset, tokenizer)
    save_clip(clip, tokenizer, root / "clip")
    save_probe(Probe(preset.probe_widths, 32), root / "probe")
    pipe = assemble(build_autoencoder(preset), text_encoder_from(clip), tokenizer, build_unet(preset))
    pipe.save_pretrained(root / "pipeline")
    return root


def sweep_of(out: Path, *overrides: str, conf: Path = CONF):
    """Return the configuration of one cell in `out`, two steps long."""
    from hydra import compose, initialize_config_dir

    from likeness import config

    small = (f"out={out}", "sampler.num_inference_steps=4", "seeds=[0]", "logger=none", *overrides)
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        return config.to_sweep(compose("sweep", list(small)))


def pretend_to_finetune(sweep) -> Path:
    """Put the untrained model where the fine-tuned one is looked for, with the record that makes it finished."""
    from likeness.paperdoll.weights import pipeline_dir
    from likeness.study import place

    folder = place.model_folder(sweep)
    shutil.copytree(pipeline_dir(), folder / "model")
    subjects = [{"identifier": sweep.subject.identifier, "photos": "0123456789ab"}]
    identity = {"model": "fedcba987654", "settings": {"method": sweep.method.name}, "subjects": subjects}
    (folder / "settings.json").write_text(json.dumps({"finished": True, "identity": identity}))
    return folder


def targets(count: int) -> list[str]:
    """Return edits that differ: one cell each."""
    return [f"target=a thing{number}" for number in range(count)]


def draw_all(out: Path, runs: Path, configurations) -> None:
    """Draw every cell that is missing, as the jobs of one sweep do."""
    from likeness.study.cell import run_cell

    for number, (sweep, override) in enumerate(configurations):
        run_cell(sweep, runs / str(number), ["edit=local", override])


def child(work) -> int:
    """Do the work in a forked child and return its process id; its exit status says whether it failed.

    Forking saves the seconds of importing torch; as in a DataLoader's workers, one thread keeps that safe.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        import torch

        torch.set_num_threads(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def killed_between(begun, seconds: float, over, work) -> bool:
    """Do the work in a child, killed so many seconds after `begun()` or when `over()`; return whether it finished."""
    pid, deadline = child(work), None
    while deadline is None or (time.monotonic() < deadline and not over()):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        if deadline is None and begun():
            deadline = time.monotonic() + seconds
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def kill_again_and_again(out: Path, count: int, kills: int, seed: int) -> int:
    """Draw `count` cells in children killed at random moments; return how many kills hit a sweep still going.

    Each child gets a share of the cells and dies at a random moment of it, at the latest when it is over, so that
    kills hit on a machine of any speed.
    """
    configurations = [(sweep_of(out, "edit=local", target), target) for target in targets(count)]
    pretend_to_finetune(configurations[0][0])
    draw_all(out, out / "runs", configurations[:2])  # loads everything once, for all children
    started = time.monotonic()
    draw_all(out, out / "runs", configurations[2:3])
    share = (count - 3) / kills
    seconds, moments, hit = (time.monotonic() - started) * share, random.Random(seed), 0

    def drawn() -> int:
        return sum(1 for _ in (out / "cells").glob("[!.]*"))

    while hit < kills:
        first, last = 3 + hit * share, 3 + (hit + 1) * share
        if killed_between(
            lambda first=first: drawn() >= first,
            moments.uniform(0, 1) * seconds,
            lambda last=last: drawn() >= last,
            lambda: draw_all(out, out / "runs", configurations),
        ):
            break
        hit += 1
    draw_all(out, out / "runs", configurations)
    return hit
