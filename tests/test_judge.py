"""The judge: its reading, its data and damage, and that it shares nothing with what it judges."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from likeness.errors import InputError
from likeness.paperdoll import judge_training, weights, world
from likeness.paperdoll.dataset import Dataset
from likeness.paperdoll.identity import MARGIN
from likeness.paperdoll.judge import REACH, Judge, Slots, load_judge, save_judge, with_coordinates
from likeness.paperdoll.judge_training import anyone, compressed, damaged, judge_factors, judged_loss
from likeness.paperdoll.probe import IDENTITY_DIM, NAMES

PACKAGE = Path(judge_training.__file__).parents[1]


def small() -> Judge:
    torch.manual_seed(0)
    return Judge((8, 8, 16, 16), (0, 1, 1, 1), 4, 16).eval()


def test_it_reads_every_factor_from_pictures_of_any_size():
    reading = small().read(torch.rand(3, 3, 96, 96))
    assert set(reading.categorical) == set(world.CATEGORICAL) and set(reading.continuous) == set(world.CONTINUOUS)
    assert reading.identity.shape == (3, IDENTITY_DIM) and len(reading.names("who")) == 3
    for name, (_, low, high) in world.CONTINUOUS.items():
        assert ((reading.continuous[name] >= low - 1e-6) & (reading.continuous[name] <= high + 1e-6)).all(), name


def test_saved_and_loaded_judge_reads_the_same(tmp_path, monkeypatch):
    judge, images = small(), torch.rand(2, 3, 128, 128)
    save_judge(judge, tmp_path / "judge")
    monkeypatch.setenv(weights.OVERRIDE, str(tmp_path))
    again = load_judge().read(images)
    assert torch.allclose(again.identity, judge.read(images).identity, atol=1e-2)  # weights are stored in fp16
    monkeypatch.setenv(weights.OVERRIDE, str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="judge is not in"):
        load_judge()


def test_slots_say_where_they_look_and_what_is_there():
    slots = Slots(2, 1, 1, 16)
    with torch.no_grad():
        slots.prior.zero_()
        for layer, weight in ((slots.where, (60.0, 0.0)), (slots.what, (0.0, 1.0))):
            layer.weight.copy_(torch.tensor(weight).view(1, 2, 1, 1))
            layer.bias.zero_()
    features = torch.zeros(1, 2, 16, 16)
    features[0, :, 15, 0] = torch.tensor([1.0, 7.0])
    x, y, content = slots(features)[0].tolist()
    assert (x, y, content) == pytest.approx((-REACH, REACH, 7), abs=1e-3)


def test_coordinates_grow_to_the_right_and_downwards():
    x, y = with_coordinates(torch.zeros(1, 3, 4, 6))[0, 3:]
    assert (x.diff(dim=1) > 0).all() and (y.diff(dim=0) > 0).all()
    assert x[0, 0] == y[0, 0] == -1 and x[-1, -1] == y[-1, -1] == 1


def test_its_identities_fill_the_whole_space_but_the_subjects():
    rng = np.random.default_rng(0)
    drawn = [anyone(rng) for _ in range(200)]
    assert all(d.distance(s) >= MARGIN for d in drawn for s in world.SUBJECTS.values())
    vectors = np.stack([d.vector() for d in drawn])
    assert (vectors.max(0) > 0.9).all() and (vectors.min(0) < -0.9).all()
    factors = [judge_factors(rng) for _ in range(200)]
    assert {f.who for f in factors} == set(world.CLASSES) and {f.style for f in factors} == set(world.STYLES)
    assert 0.3 < np.mean([f.food != "none" for f in factors]) < 0.75


def test_damage_is_mild_reproducible_and_leaves_some_pictures_alone():
    images = torch.rand(64, 3, 16, 16).mean(1, keepdim=True).expand(-1, 3, -1, -1).repeat(1, 1, 2, 2).contiguous()
    once, again = (damaged(images.clone(), torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once, again) and once.min() >= 0 and once.max() <= 1
    change = (once - images).abs().mean((1, 2, 3))
    assert change.max() > 0.03 and change.min() < 0.03 and change.mean() < 0.15
    picture = torch.from_numpy(world.render(world.Factors())).permute(2, 0, 1).float() / 255
    assert 0 < (compressed(picture, 50) - picture).abs().mean() < 0.05


def test_loss_is_lowest_where_everything_is_read_right():
    labels = {name: torch.arange(2) % len(v) for name, v in NAMES.items()}
    labels |= {name: torch.tensor([low, high]) for name, (_, low, high) in world.CONTINUOUS.items()}
    identity = torch.rand(2, IDENTITY_DIM)
    data = Dataset(Path(), np.zeros((2, 1, 1, 3), np.uint8), labels, identity, [[], []], "")
    right = {name: 9.0 * torch.nn.functional.one_hot(labels[name], len(v)).float() for name, v in NAMES.items()}
    right |= {"continuous": torch.tensor([[-1.0], [1.0]]).expand(2, len(world.CONTINUOUS)), "identity": identity}
    best, values = judged_loss(right, data, torch.arange(2))
    assert all(values[name] == 1 for name in NAMES) and values["continuous"] == pytest.approx(0, abs=1e-6)
    for name in (*NAMES, "continuous", "identity"):
        wrong, _ = judged_loss(right | {name: -right[name]}, data, torch.arange(2))
        assert wrong > best + 0.1, name


def test_it_learns_one_batch():
    images = torch.rand(4, 3, 128, 128)
    labels = {name: torch.randint(len(v), (4,)) for name, v in NAMES.items()}
    labels |= {name: torch.full((4,), low) for name, (_, low, _) in world.CONTINUOUS.items()}
    data = Dataset(Path(), np.zeros((4, 1, 1, 3)), labels, torch.rand(4, IDENTITY_DIM), [], "")
    judge = small().train()
    optimizer = torch.optim.Adam(judge.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss, _ = judged_loss(judge(images), data, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_no_metric_and_no_loss_knows_the_judge():
    judged = {"judge", "load_judge", "Judge", "judge_dir"}
    losses = ("autoencoder", "clip", "probe", "probe_training", "unet")
    files = [*(PACKAGE / "metrics").glob("*.py"), *(PACKAGE / "dreambooth").glob("*.py")]
    for path in [*files, *(PACKAGE / "paperdoll" / f"{name}.py" for name in losses)]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = {alias.name.split(".")[-1] for alias in getattr(node, "names", []) if hasattr(alias, "name")}
            module = (getattr(node, "module", "") or "").split(".")[-1]
            assert not judged & {*names, module}, path
