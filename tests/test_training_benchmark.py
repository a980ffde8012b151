"""The training benchmark measures what it says, at its smallest; its figures come from `make bench-train`."""

import json
from types import SimpleNamespace

import pytest
import torch

from likeness.study import training_benchmark as bench
from likeness.study import training_turns
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
    arm = SimpleNamespace(loop=loop, step=lambda: loop.recorded or loop.unet(torch.ones(5, 10)))
    arm.settings, arm.device = SimpleNamespace(mixed_precision="no"), torch.device("cpu")
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


def test_a_loop_that_ends_is_named(world):
    turn = training_turns.Turn("ours", Case(method="none"))
    with pytest.raises(SystemExit, match=r"training_turns ours .* ended with 1"):
        turn.ask("seconds", 1)


@pytest.mark.slow
def test_every_figure_is_written(world, tmp_path, capsys):
    bench.main(["--pairs", "2", "--steps", "1", "--batch", "1", "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["speed-up"]["low"] > 0 and 0 < found["share outside"]["median"] < 1
    assert 0 < found["share of matrix rate"] < 1 and found["case"]["batch"] == 1
    capsys.readouterr()
    bench.main(["--only", "ours", json.dumps({"batch": 1})])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["peak"] > 0.1
