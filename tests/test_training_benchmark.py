"""The training benchmark measures what it says, at its smallest; its figures come from `make bench-train`."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from likeness.errors import InputError
from likeness.study import training_benchmark as bench
from likeness.study import training_table, training_turns
from likeness.study.training_arms import Case, Ours, Stopwatch, Uncached, load

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


@pytest.mark.parametrize(
    ("shown", "moved"),
    [
        ("fine-tuning:   0%|          | 0/400 [00:00<?, ?step/s]", False),
        ("fine-tuning:   0%|          | 1/400 [00:00<00:40,  9.3step/s]", True),
        ("class pictures: 100%|██████████| 1/1 [00:00<00:00]", False),
        ("fine-tuning:   0%|          | 0/1 [00:00<?, ?step/s]\rclass pictures:  9%|  | 1/6", False),
    ],
)
def test_the_first_step_is_seen_on_the_bar(shown, moved):
    assert bool(bench.FIRST_STEP.search(shown.encode())) == moved


def test_operations_are_counted_before_compilation_and_recording(monkeypatch):
    monkeypatch.setattr(training_turns, "matmul_flops_per_second", lambda device, dtype: 1e6)
    plain, compiled, recorded = torch.nn.Linear(10, 20), object(), object()
    loop = SimpleNamespace(unet=compiled, pipe=SimpleNamespace(unet=plain), recorded=recorded)
    arm = Ours.__new__(Ours)
    arm.loop, arm.device, arm.dtype = loop, torch.device("cpu"), torch.float32
    arm.step = lambda: loop.recorded or loop.unet(torch.ones(5, 10))
    found = training_turns.matrix_share(arm, 0.01)
    assert found["share of matrix rate"] == pytest.approx(2 * 5 * 10 * 20 / 0.01 / 1e6)
    assert loop.unet is compiled and loop.recorded is recorded


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_both_loops_train_and_the_stopwatch_is_taken_off(world, tmp_path, method):
    case = Case(method=method, batch=1)
    arms = [Ours(case, load(case), tmp_path), Uncached(case, load(case), tmp_path)]
    trained = [arms[0].gradients.parameters, arms[1].parameters]
    before = [[p.detach().clone() for p in parameters] for parameters in trained]
    backward = torch.Tensor.backward
    with Stopwatch(arms[0]).running() as watch:
        arms[0].step()
    assert watch.seconds > 0 and torch.Tensor.backward is backward and arms[0].loop.unet is arms[0].loop.pipe.unet
    arms[1].step()
    assert [p.shape for p in trained[0]] == [p.shape for p in trained[1]], "both train the same weights"
    for parameters, old in zip(trained, before, strict=True):
        assert any(not torch.equal(p, q) for p, q in zip(parameters, old, strict=True))


@pytest.mark.slow
def test_a_loop_that_ends_is_named(world):
    turn = training_turns.Turn("ours", Case(method="none"))
    with pytest.raises(SystemExit, match=r"training_turns ours .* ended with 1"):
        turn.ask("seconds", 1)


def measured(group, rounds, steps):
    return {
        name: {"seconds": [0.25, 0.2, 0.5], "peak GB": 9.0, "share of matrix rate": 0.1, "asked": [rounds, steps]}
        for name in group
    }


@pytest.fixture
def asked(monkeypatch):
    """Every row at a made-up speed; return the groups that were measured."""
    groups = []

    def measure(group, rounds, steps):
        groups.append(list(group))
        return measured(group, rounds, steps)

    monkeypatch.setattr(training_table, "measure", measure)
    return groups


def test_a_table_goes_on_with_the_rows_that_are_missing(tmp_path, asked, monkeypatch, capsys):
    command = ["--device", "cpu", "--precision", "no", "--out", str(tmp_path / "new" / "table.json"), "--ways", "lora"]
    training_table.main([*command, "4+4", "--at-once", "2"])
    assert asked == [["lora scripts 4+4", "lora default 4+4"], ["lora gradient_checkpointing=true 4+4"]]
    asked.clear(), capsys.readouterr()
    training_table.main(command)
    assert [name for group in asked for name in group] == [
        "lora scripts 1+1",
        "lora default 1+1",
        "lora gradient_checkpointing=true 1+1",
    ]
    shown = capsys.readouterr().out
    assert shown.count("| lora") == 6 and "| lora default | 4 + 4 | 4 (2 to 5) | 9.0 | 12 GB | 10% | 200 s |" in shown
    asked.clear()
    monkeypatch.setattr(training_table, "hardware", lambda device: {"name": "another chip"})
    training_table.main(command)
    assert len(asked) == 6, "figures of another chip are none of this one"
    assert capsys.readouterr().out.count("| trained |") == 2
    asked.clear()
    training_table.main([*command, "--rounds", "9"])
    assert len(asked) == 6, "nor are those of fewer rounds"


def test_a_row_that_does_not_fit_is_said_and_no_other_is_lost(tmp_path, monkeypatch, capsys):
    groups = []

    def measure(group, rounds, steps):
        groups.append(list(group))
        if any("default" in name for name in group):
            raise training_turns.OutOfMemory("error: no room")
        return measured(group, rounds, steps)

    monkeypatch.setattr(training_table, "_measure", measure)
    command = ["--device", "cpu", "--precision", "no", "--out", str(tmp_path / "table.json"), "--at-once", "2"]
    command += ["--batches", "1", "--ways", "full"]
    training_table.main(command)
    assert groups[:3] == [["full scripts 1+1", "full default 1+1"], ["full scripts 1+1"], ["full default 1+1"]]
    shown = capsys.readouterr().out
    assert (
        "| full default | 1 + 1 | does not fit | – | – | – | – |" in shown and "| full scripts | 1 + 1 | 4 (" in shown
    )
    groups.clear()
    training_table.main(command)
    assert not groups, "nor is it tried again"


def test_a_loop_that_was_killed_did_not_fit(world):
    turn = training_turns.Turn("ours", Case())
    turn.process.kill()
    with pytest.raises(training_turns.OutOfMemory, match="ended with -9"):
        turn.ask("seconds", 1)


@pytest.mark.slow
def test_a_loop_that_does_not_fit_says_so(world):
    """As on a GPU: the process sees torch's error, and answers."""
    program = (
        "import torch\n"
        "from likeness.study import training_turns as t\n"
        "def start(*_): raise torch.OutOfMemoryError('no room')\n"
        "t.start = start\n"
        "t.main(['ours', '{}'])\n"
    )
    turn = training_turns.Turn("ours", Case())
    turn.process.kill()
    turn.process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with pytest.raises(training_turns.OutOfMemory, match="ended with 1"):
        turn.ask("seconds", 1)


def test_rows_that_a_cpu_lacks_and_rows_that_nobody_has(tmp_path, asked, capsys):
    assert not any("compile" in name for name in training_table.rows("sd15", "no", "cpu", [1, 4], []))
    assert len(training_table.rows("sd15", "bf16", "cuda", [1, 4], ["compile=true"])) == 4
    with pytest.raises(InputError, match=r"no row holds 'compil' and 'qlora'; there are: full scripts 1\+1, "):
        training_table.rows("sd15", "bf16", "cuda", [1], ["compil", "qlora"])
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(InputError, match=r"table\.json is no table of this benchmark"):
        training_table.main(["--device", "cpu", "--precision", "no", "--out", str(tmp_path / "table.json")])
    with pytest.raises(SystemExit):
        training_table.main(["--at-once", "0"])
    assert not asked


@pytest.mark.slow
def test_rows_are_timed_in_turns_in_processes_of_their_own(world):
    group = {name: row for name, row in training_table.rows("paperdoll", "no", "cpu", [1], ["full"]).items()}
    found = training_table.measure(group, rounds=2, steps=1)
    assert list(found) == list(group)
    for figures in found.values():
        assert len(figures["seconds"]) == 2 and min(figures["seconds"]) > 0
        assert figures["peak GB"] > 0.1 and 0 < figures["share of matrix rate"] < 1


@pytest.mark.slow
def test_every_figure_is_written(world, tmp_path):
    bench.main(["--pairs", "2", "--steps", "1", "--batch", "1", "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["speed-up"]["low"] > 0 and 0 < found["share outside"]["median"] < 1
    assert 0 < found["share of matrix rate"] < 1 and found["case"]["batch"] == 1
    assert bench.peak(Case(batch=1), "ours") > 0.1
