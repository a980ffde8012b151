"""Killed at any moment and started again, a run ends with the same bits; torn files are never loaded."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_dreambooth as tiny
import torch
from safetensors.torch import load_file

from likeness.dreambooth import is_finished
from likeness.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")
OPTIONS = {"train_text_encoder": 0.5, "ema_decay": 0.9, "snr_gamma": 5.0, "sample_every": 3, "crops": 2}
RUN = Path(__file__).with_name("tiny_dreambooth.py")
HEAVY = [  # what a training imports late
    "likeness.dreambooth.loop",
    "accelerate.utils",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.schedulers.scheduling_ddpm",
    "transformers.models.clip.tokenization_clip",
]
STAGES = {  # where to die: module, function of it, after how many calls, before or in the middle of the call
    "class generation": ("likeness.subjects", "write_png", 3),
    "the base model's samples": ("likeness.subjects", "write_png", 10),
    "caching": ("safetensors.torch", "save_file", 1),
    "a step": ("torch.nn.utils", "get_total_norm", 4),
    "a save": ("likeness.dreambooth.checkpoint", "save_file", 5),
    "between writing and renaming": ("likeness.dreambooth.storage", "_replace_folder", 2),
    "the final save": ("likeness.dreambooth.loop", "write_card", 1),
}


def die(root: Path, out: Path, options: dict, module: str, name: str, calls: int) -> None:
    """Train in a child that is killed at the given call of a function."""
    torch.set_num_threads(1)
    tiny.die_at(module, name, calls)
    tiny.main(root, out, options)


@pytest.fixture(scope="module")
def server():
    """A process that has imported everything and computed nothing, whose children start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    return context


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The uninterrupted run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reference")
    tiny.train_tiny(folder / "run", class_root=folder / "run-class", **OPTIONS)
    return folder / "run"


def assert_same_run(out: Path, reference: Path) -> None:
    for part in ("unet", "text_encoder"):
        assert tiny.same(tiny.weights(out, part), tiny.weights(reference, part)), part
    assert (out / "history.csv").read_text() == (reference / "history.csv").read_text()
    one, other = (json.loads((folder / "settings.json").read_text())["values"] for folder in (out, reference))
    assert one == other and "validation/loss_instance" in one
    assert [f.name for f in out.rglob("*.partial")] == []
    pictures = sorted(f.name for f in out.with_name(f"{out.name}-class").rglob("0*.png"))
    assert len(pictures) == len(set(pictures)) == 8


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed_equals_uninterrupted(server, reference, tmp_path, stage):
    out = tmp_path / "run"
    child = server.Process(target=die, args=(tiny.root(), out, dict(OPTIONS), *STAGES[stage]))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL, "the child must have died where it was told to"
    assert not is_finished(out)
    tiny.train_tiny(out, class_root=tmp_path / "run-class", **OPTIONS)
    assert is_finished(out)
    assert_same_run(out, reference)


def test_a_finished_lora_run_resumed_from_its_middle_is_the_same(tmp_path):
    torch.set_num_threads(1)
    options = {"method": "lora", "lora_text_encoder": True}
    tiny.train_tiny(tmp_path / "a", **options)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for gone in ("checkpoint-6", "lora"):
        shutil.rmtree(tmp_path / "b" / gone)
    (tmp_path / "b" / "settings.json").unlink()
    assert tiny.train_tiny(tmp_path / "b", **options).resumed_from == 4
    one, other = (load_file(tmp_path / n / "lora" / "pytorch_lora_weights.safetensors") for n in "ab")
    assert tiny.same(one, other)


def test_a_ladder_killed_while_it_stores_a_rung_ends_with_the_same_model(server, tmp_path):
    torch.set_num_threads(1)
    options = {"ladder": 3, "validation_every": 0}
    child = server.Process(
        target=die, args=(tiny.root(), tmp_path / "a", dict(options), "likeness.dreambooth.ladder", "save_file", 2)
    )
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL and [f.name for f in (tmp_path / "a" / "rungs").glob("step*")]
    choose = {"choose_step": lambda rows: 2}
    rung = tmp_path / "a" / "rungs" / "step-000002.safetensors"
    rung.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"lacks step-000002.safetensors"):
        tiny.train_tiny(tmp_path / "a", class_root=tmp_path / "a-class", **choose, **options)
    (tmp_path / "moved").rename(rung)
    assert tiny.train_tiny(tmp_path / "a", class_root=tmp_path / "a-class", **choose, **options).resumed_from == 2
    tiny.train_tiny(tmp_path / "b", class_root=tmp_path / "b-class", **choose, **options)
    assert tiny.same(tiny.weights(tmp_path / "a"), tiny.weights(tmp_path / "b"))


@pytest.fixture
def interrupted(tmp_path, reference):
    """A run whose final model was not written yet."""
    shutil.copytree(reference, tmp_path / "run")
    shutil.copytree(reference.with_name("run-class"), tmp_path / "run-class")
    shutil.rmtree(tmp_path / "run" / "model")
    (tmp_path / "run" / "settings.json").unlink()
    return tmp_path / "run"


@pytest.mark.parametrize("damage", ["cut", "flipped", "no manifest", "half a manifest"])
def test_a_torn_checkpoint_is_named_and_skipped(interrupted, reference, damage):
    file = interrupted / "checkpoint-6" / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[:-7])
    elif damage == "flipped":
        data[-3] ^= 1
        file.write_bytes(data)
    else:
        (interrupted / "checkpoint-6" / "state.json").unlink()
        if damage == "half a manifest":
            (interrupted / "checkpoint-6" / "state.json").write_text('{"program": "likeness.dreambooth", "step": 6}')
    said, root = [], interrupted.with_name("run-class")
    result = tiny.train_tiny(interrupted, class_root=root, on_event=lambda e: said.extend(e.notices), **OPTIONS)
    assert result.resumed_from == 4
    assert said == result.notices and "checkpoint-6 is torn" in said[0]
    assert_same_run(interrupted, reference)


def test_torn_checkpoints_ahead_never_push_out_good_ones(interrupted):
    """Steps 4 and 6 are torn, so the run starts anew; what it saves must survive the two ahead of it."""
    for step in (4, 6):
        (interrupted / f"checkpoint-{step}" / "trainable.safetensors").write_bytes(b"torn")
    kept = []

    def look(event):
        if event.kind == "log":
            kept.append({f.name for f in interrupted.glob("checkpoint-*")})

    options = OPTIONS | {"checkpoint_every": 1}
    root = interrupted.with_name("run-class")
    assert tiny.train_tiny(interrupted, class_root=root, on_event=look, **options).resumed_from == 0
    assert kept[1:3] == [{"checkpoint-1"}, {"checkpoint-1", "checkpoint-2"}]
    assert kept[5] == {"checkpoint-4", "checkpoint-5"}


def test_a_foreign_checkpoint_is_refused(interrupted):
    foreign = interrupted / "checkpoint-500"
    foreign.mkdir()
    (foreign / "optimizer.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"checkpoint-500 was not written by this program"):
        tiny.train_tiny(interrupted, **OPTIONS)
    assert foreign.exists()


def test_changed_settings_are_named(interrupted):
    with pytest.raises(InputError, match=r"settings.learning_rate: 0.001 -> 0.002.*settings.seed: 0 -> 1"):
        tiny.train_tiny(interrupted, **OPTIONS | {"learning_rate": 2e-3, "seed": 1})
    with pytest.raises(InputError, match=r"subjects\[0\].photos"):
        tiny.train_tiny(interrupted, concepts=[tiny.concept(tiny.root() / "photos2")], **OPTIONS)


def test_what_only_looks_may_change(interrupted, reference):
    shutil.rmtree(interrupted / "checkpoint-6")
    options = OPTIONS | {"sample_every": 0, "checkpoint_every": 5, "log_every": 2, "validation_every": 1}
    assert tiny.train_tiny(interrupted, class_root=interrupted.with_name("run-class"), **options).resumed_from == 4
    for part in ("unet", "text_encoder"):
        assert tiny.same(tiny.weights(interrupted, part), tiny.weights(reference, part)), part


def test_two_trainings_never_share_a_folder(tmp_path):
    from likeness.dreambooth.storage import locked

    with locked(tmp_path / "run"), pytest.raises(InputError, match="another training is running"):
        tiny.train_tiny(tmp_path / "run")


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize("broken_step", [3, 4])
def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(
    tmp_path, monkeypatch, broken_step, log_every
):
    """Nothing broken is saved, whether the step is followed by its log, another step (3) or a checkpoint (4)."""
    import likeness.dreambooth.loop as module

    real, calls = module.dreambooth_loss, [0]

    def broken(*args):
        calls[0] += 1
        losses = real(*args)
        return (losses[0] * float("nan"), *losses[1:]) if calls[0] == broken_step else losses

    monkeypatch.setattr(module, "dreambooth_loss", broken)
    with pytest.raises(InputError, match=rf"not a number at step {broken_step} .*checkpoint-2 is kept"):
        tiny.train_tiny(tmp_path / "run", log_every=log_every, validation_every=0)
    assert calls[0] == 4 if broken_step == 4 or log_every == 100 else 3
    monkeypatch.undo()
    assert tiny.train_tiny(tmp_path / "run").resumed_from == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_random_moments(server, reference, tmp_path):
    """Moments are drawn from the time a whole run takes here, so that they differ on any machine."""

    def start(out: Path):
        child = server.Process(target=tiny.main, args=(tiny.root(), out, dict(OPTIONS)))
        child.start()
        return child

    for name in ("warm", "timed"):  # the first child also waits for the server
        begun = time.perf_counter()
        start(tmp_path / name).join()
        seconds = time.perf_counter() - begun
    draw, deaths, resumed = random.Random(0), [], set()
    for moment in range(20):
        out = tmp_path / f"{moment}" / "run"
        out.parent.mkdir()
        for _ in range(draw.choice((1, 2))):
            child = start(out)
            time.sleep(draw.uniform(0.02, 0.95) * seconds)
            child.kill()
            child.join(60)
            deaths.append(child.exitcode)
        resumed.add(tiny.train_tiny(out, class_root=out.with_name("run-class"), **OPTIONS).resumed_from)
        assert_same_run(out, reference)
    assert deaths.count(-signal.SIGKILL) > len(deaths) / 2, f"most must die on the way: {deaths}"
    assert len(resumed) > 2, f"the moments must differ: {resumed}"


def _workers(launcher: subprocess.Popen) -> list[int]:
    """Return the process ids of torchrun's children, which run in sessions of their own."""
    return [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]


def _two_processes(out: Path, options: dict, said=None, death: tuple = ()) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    arguments = [str(RUN), str(tiny.root()), str(out), json.dumps(options), *([json.dumps(death)] if death else [])]
    return subprocess.Popen([*command, *arguments], env=environment, stdout=said)


TOGETHER = OPTIONS | {"lr_scheduler": "cosine", "num_class_images": 16, "log_every": 1}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The uninterrupted run of two processes."""
    out = tmp_path_factory.mktemp("together") / "run"
    assert _two_processes(out, TOGETHER).wait(1500) == 0
    return out


def assert_ends_as(together: Path, out: Path) -> int:
    """Start two processes again, hold what they end with against the uninterrupted run; return where they went on."""
    with out.with_name("again.txt").open("a") as said:  # appended to by both processes, so that neither overwrites
        assert _two_processes(out, TOGETHER, said).wait(1500) == 0
    for part in ("unet", "text_encoder"):
        assert tiny.same(tiny.weights(together, part), tiny.weights(out, part)), part
    assert (together / "history.csv").read_text() == (out / "history.csv").read_text()
    assert len(list(out.with_name(f"{out.name}-class").rglob("0*.png"))) == 16
    return int(re.search(r"^resumed (\d+)", out.with_name("again.txt").read_text(), re.M)[1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_processes_killed_and_resumed_equal_uninterrupted(together, tmp_path):
    out = tmp_path / "run"
    killed = _two_processes(out, TOGETHER)
    while not (out / "checkpoint-2").exists():
        time.sleep(0.05)
    workers = _workers(killed)
    assert len(workers) == 2
    for pid in (killed.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    killed.wait(60)
    assert not is_finished(out), "killed on the way"
    assert assert_ends_as(together, out) > 0
    tiny.train_tiny(tmp_path / "c" / "run", class_root=tmp_path / "c" / "class", **TOGETHER)
    alone = (tmp_path / "c" / "run" / "history.csv").read_text().splitlines()
    both = (together / "history.csv").read_text().splitlines()
    rate = alone[0].split(",").index("train/lr")
    assert [r.split(",")[rate] for r in alone] == [r.split(",")[rate] for r in both]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("stage", "resumed"), [("class generation", 0), ("caching", 0), ("a save", 2)])
def test_two_processes_killed_in_every_stage_equal_uninterrupted(together, tmp_path, stage, resumed):
    """A process dies at its call, and the launcher ends the other."""
    out = tmp_path / "run"
    assert _two_processes(out, TOGETHER, death=STAGES[stage]).wait(1500) != 0
    assert not is_finished(out), "killed on the way"
    assert assert_ends_as(together, out) == resumed
