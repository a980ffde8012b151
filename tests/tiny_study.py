"""A study at its smallest: random weights in the embedded model's layout, and a subject "fine-tuned" by copying them.

Run as a script it draws cells in child processes and kills them: python tiny_study.py OUT WORLD CELLS KILLS SEED
"""

import json
import os
import random
import shutil
import signal
import sys
import time
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


def sweep_of(out: Path, *overrides: str):
    """Return the configuration of one cell in `out`, two steps long."""
    from hydra import compose, initialize_config_dir

    from likeness import config

    small = (f"out={out}", "sampler.num_inference_steps=2", "seeds=[0]", "logger=none", *overrides)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
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


def killed_after(seconds: float, work) -> bool:
    """Do the work in a child process that is killed after so many seconds; return whether it was finished before."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if status:
                raise SystemExit(f"the child failed by itself: {status}")
            return True
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(out: Path, world: Path, count: int, kills: int, seed: int) -> None:
    """Kill a sweep again and again at random moments, then let it finish; print how long a cell takes."""
    os.environ["LIKENESS_PAPERDOLL_WEIGHTS"] = str(world)
    import torch

    torch.set_num_threads(1)  # children are forked: no thread pool may exist before
    configurations = [(sweep_of(out, "edit=local", target), target) for target in targets(count)]
    pretend_to_finetune(configurations[0][0])
    started = time.monotonic()
    draw_all(out, out / "runs", configurations[:1])  # loads everything once, for all children
    started, first = time.monotonic(), configurations[1:2]
    draw_all(out, out / "runs", first)
    cell = time.monotonic() - started
    moments, done = random.Random(seed), 0
    while done < kills:
        # each child gets a share of the cells' time, so that all kills hit a sweep that is still going
        seconds = moments.uniform(0.3, 1.7) * cell * (count - 2) / (kills + 1)
        if killed_after(seconds, lambda: draw_all(out, out / "runs", configurations)):
            break
        done += 1
        print("killed", len(list((out / "cells").glob("[!.]*"))), flush=True)
    draw_all(out, out / "runs", configurations)
    print(f"{done} kills, {cell:.2f} s a cell")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]))
