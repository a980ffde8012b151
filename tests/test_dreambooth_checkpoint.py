"""What a checkpoint holds, which are deleted, and the room they need."""

import json
import shutil

import pytest
import tiny_dreambooth as tiny
import torch

from likeness.dreambooth.checkpoint import find
from likeness.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def test_an_optimizer_that_counts_in_integers_goes_on_counting():
    """As 8-bit Adam does, to which a tensor is no step number."""
    from likeness.dreambooth.checkpoint import _load_optimizer, _tensors
    from likeness.dreambooth.trainable import Trainable

    class Counting(torch.optim.SGD):
        def step(self):
            state = self.state[self.param_groups[0]["params"][0]]
            state.update(step=state.get("step", 0) + 1, codes=torch.ones(2, dtype=torch.uint8))

    made = []
    for _ in range(2):
        p = torch.nn.Parameter(torch.zeros(2))
        made.append(Trainable({"unet": {"p": p}}, Counting([p], lr=1.0), [1.0]))
    made[0].optimizer.step()
    _load_optimizer(made[1], _tensors(made[0])["optimizer"])
    made[1].optimizer.step()
    (state,) = made[1].optimizer.state_dict()["state"].values()
    assert state["step"] == 2 and type(state["step"]) is int and state["codes"].dtype == torch.uint8


def test_an_optimizer_that_nests_and_shares_its_memory_is_restored(tmp_path):
    """As 8-bit Adam does: one code book for all parameters, in a dict within the state."""
    from likeness.dreambooth import checkpoint
    from likeness.dreambooth.trainable import Trainable

    book = torch.arange(4.0)

    class Nesting(torch.optim.SGD):
        def state_dict(self):
            inner = {"qmap1": book, "qmap2": book, "codes": torch.ones(2, dtype=torch.uint8)}
            return super().state_dict() | {"state": {k: {"step": 3, "quant": dict(inner)} for k in range(2)}}

        def load_state_dict(self, given):
            self.loaded = given["state"]

    def make():
        ps = {f"p{k}": torch.nn.Parameter(torch.zeros(2)) for k in range(2)}
        return Trainable({"unet": ps}, Nesting(ps.values(), lr=1.0), [1.0])

    scaler, restored = torch.amp.GradScaler("cpu", enabled=False), make()
    assert checkpoint.load(checkpoint.save(tmp_path, 1, make(), scaler, {}), restored, scaler) == 1
    wanted = make().optimizer.state_dict()["state"]
    assert restored.optimizer.loaded.keys() == wanted.keys() == {0, 1}
    for k, memory in wanted.items():
        found = restored.optimizer.loaded[k]
        assert found.keys() == memory.keys() and found["step"] == 3
        assert tiny.same(found["quant"], memory["quant"])


def test_only_checkpoints_of_this_run_are_deleted(tmp_path):
    """A whole checkpoint of another run and a stranger's folder stay, and are named once."""
    out, said = tmp_path / "run", []
    tiny.train_tiny(tmp_path / "other", learning_rate=2e-3, num_train_steps=1)

    def interfere(event):
        said.extend(event.notices)
        if event.kind == "log" and event.step == 3:
            shutil.copytree(tmp_path / "other" / "checkpoint-1", out / "checkpoint-1")
            (out / "checkpoint-0").mkdir()
            (out / "checkpoint-0" / "optimizer.bin").write_bytes(b"pickle")

    tiny.train_tiny(out, on_event=interfere)
    left = {"checkpoint-0", "checkpoint-1", "checkpoint-4", "checkpoint-6"}
    assert {f.name for f in out.glob("checkpoint-*")} == left
    assert said == [f"checkpoint-{k} is not of this run: left alone" for k in (1, 0)]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    import likeness.dreambooth.checkpoint as module

    real, calls = module.save_file, [0]

    def full(tensors, path):
        calls[0] += 1
        if calls[0] == 4:
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(InputError, match="the disk is full: checkpoint 4"):
        tiny.train_tiny(tmp_path / "run")
    assert [f.name for f in (tmp_path / "run").glob("*checkpoint*")] == ["checkpoint-2"]
    monkeypatch.undo()
    assert tiny.train_tiny(tmp_path / "run").resumed_from == 2


def test_space_is_checked_before_writing(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"not enough disk .* MB needed, 0 MB free"):
        tiny.train_tiny(tmp_path / "run", class_root=tmp_path / "class")
    assert not list(tmp_path.rglob("*.png")), "said before class pictures are drawn"


@pytest.mark.parametrize("options", [{"ladder": 6, "ema_decay": 0.9}, {"keep_checkpoints": 4}])
def test_the_space_asked_for_is_what_a_run_takes(tmp_path, monkeypatch, options):
    """Nearly: what the files hold besides weights is not counted. A run that goes on asks for the rest only."""
    import likeness.dreambooth.setup as module

    out, taken, asked = tmp_path / "run", [], []
    monkeypatch.setattr(module, "need_space", lambda folder, size, what: asked.append(size))

    def weight():
        return sum(f.stat().st_size for f in out.rglob("*.safetensors"))

    def weigh(event):
        if event.kind in {"checkpoint", "done"}:
            taken.append(weight())
        elif event.kind == "log" and event.step == 5 and len(asked) == 1:
            raise KeyboardInterrupt

    options = {"checkpoint_every": 1, "choose_step": lambda rows: 6, "on_event": weigh} | options
    with pytest.raises(KeyboardInterrupt):
        tiny.train_tiny(out, validation_every=0, **options)
    left = weight()
    tiny.train_tiny(out, validation_every=0, **options)
    assert asked[0] == pytest.approx(max(taken), rel=0.2)
    assert asked[1] == pytest.approx(asked[0] - left, rel=0.1)


def test_what_a_killed_save_left_takes_no_room_from_the_same_command(tmp_path, monkeypatch):
    """Whole checkpoints count as there, so only the rest has to fit."""
    import likeness.dreambooth.checkpoint as module
    import likeness.dreambooth.setup as setup

    out, real, asked, calls = tmp_path / "run", module.save_file, [], [0]
    options = {"num_train_steps": 2, "checkpoint_every": 1, "validation_every": 0}

    def killed(tensors, path):
        calls[0] += 1
        real(tensors, path)
        if calls[0] == 4:
            raise KeyboardInterrupt

    def look(folder, size, what):
        asked.append([f.name for f in out.glob(".*.*")])

    monkeypatch.setattr(module, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        tiny.train_tiny(out, **options)
    monkeypatch.undo()
    assert (out / ".checkpoint-2.partial").is_dir()
    (out / ".model.partial").mkdir()
    monkeypatch.setattr(setup, "need_space", look)
    assert tiny.train_tiny(out, **options).resumed_from == 1
    assert asked == [[]] and not list(out.glob(".*.*"))


def test_a_checkpoint_that_no_longer_fits_keeps_the_old_one(tmp_path, monkeypatch):
    usage, asked = shutil.disk_usage(tmp_path), [0]

    def shrinking(path):
        asked[0] += 1
        return usage._replace(free=10**9 if asked[0] < 3 else 1000)

    monkeypatch.setattr(shutil, "disk_usage", shrinking)
    with pytest.raises(InputError, match=r"not enough disk for checkpoint 4"):
        tiny.train_tiny(tmp_path / "run")
    assert [f.name for f in (tmp_path / "run").glob("*checkpoint*")] == ["checkpoint-2"]


def test_another_number_of_processes_is_refused_and_other_devices_or_threads_named(tmp_path):
    """As the checkpoint says them, for a run that goes on alone on the CPU."""
    tiny.train_tiny(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    file = tmp_path / "run" / "checkpoint-6" / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps(state | {"world": 2}))
    with pytest.raises(InputError, match=r"by 2 process\(es\) and this launch has 1.*go on with 2"):
        tiny.train_tiny(tmp_path / "run")
    file.write_text(json.dumps(state | {"device": "cuda"}))
    result = tiny.train_tiny(tmp_path / "run")
    assert result.resumed_from == 6
    assert result.notices[0].startswith("checkpoint-6 was trained on cuda, this launch is on cpu")

    here, said = json.loads(file.read_text()), []
    assert here["threads"] == torch.get_num_threads()
    file.write_text(json.dumps(here | {"threads": 99, "device": "cpu", "torch": "2.0"}))
    assert find(tmp_path / "run", here | {"device": "cpu"}, said) == file.parent
    assert f"with 99 CPU thread(s), this launch has {here['threads']}" in said[0]
    assert f"by torch 2.0, this launch has torch {torch.__version__}" in said[1]
