"""Metrics on tiny real encoders: against the libraries they stand for, and against pictures with known factors."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_metrics
import torch

from likeness import metrics
from likeness.errors import InputError
from likeness.metrics import definitions
from likeness.metrics.readings import compare
from likeness.paperdoll import world
from likeness.paperdoll.probe import Reading

PROMPTS = tiny_metrics.PROMPTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights in the layout of the shipped ones."""
    from likeness.paperdoll.probe import Probe, save_probe

    root = tmp_path_factory.mktemp("weights")
    tiny_metrics.tiny_clip(root / "clip")
    probe = Probe((8, 16, 16, 16, 16), 32)
    with torch.no_grad():  # this probe always sees a cake
        probe.heads["food"].bias[world.FOODS.index("cake")] = 100
    save_probe(probe, root / "probe")
    return root


@pytest.fixture
def suite(folder, monkeypatch):
    monkeypatch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(folder))
    metrics.forget()
    yield metrics.build("embedded")
    metrics.forget()


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    drawn = [world.render(world.sample_factors(rng)) for _ in range(4)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255


def test_no_change_costs_nothing_and_change_does(suite, pictures):
    same = suite.measure(pictures, pictures, *PROMPTS)
    assert set(map(definitions.base_name, same)) == set(suite.backbones) == set(suite.directions)
    assert all(name in suite.backbones or name.endswith("_rendered") for name in same)
    assert all(value.shape == (4,) for value in same.values())
    nothing = {"lpips": 0, "ssim": 1, "psnr": 60, "clip_structure": 0, "head_shift_px": 0, "other_changed": 0}
    for name, value in nothing.items():
        torch.testing.assert_close(same[name], torch.full((4,), float(value)), atol=1e-4, rtol=0)
    assert same["clip_dir"].isnan().all()
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    little, much = (suite.measure(pictures, (pictures + s * noise).clamp(0, 1), *PROMPTS) for s in (0.05, 0.3))
    assert (little["lpips"] > 0).all() and (much["lpips"] > little["lpips"]).all()
    assert (much["ssim"] < little["ssim"]).all() and (much["psnr"] < little["psnr"]).all()
    assert (little["clip_structure"] > 0).all() and (much["clip_structure"] > little["clip_structure"]).all()


def test_clip_t_is_the_cosine_of_torchmetrics_clip_score(suite, pictures):
    from torchmetrics.functional.multimodal import clip_score

    clip = suite.clip
    measured = suite.measure(pictures, pictures, *PROMPTS)["clip_t"]
    for picture, ours in zip(pictures, measured, strict=True):
        theirs = clip_score((picture * 255).round().byte(), PROMPTS[1], lambda: tiny_metrics.plain(clip))
        assert max(float(ours), 0) * 100 == pytest.approx(float(theirs.detach()), abs=1e-3)


def test_a_prompt_is_cut_where_clip_ends(suite):
    long = suite.clip.text("photo of a man eating a burger " * 40)
    assert long.isfinite().all() and torch.equal(long, suite.clip.text("photo of a man eating a burger " * 60))


def test_directional_similarity_is_one_for_a_step_along_the_prompts():
    from likeness.metrics.encoders import direction

    start, asked = torch.zeros(2), torch.tensor([0.0, 1.0])
    moved = direction(start, torch.tensor([[0.0, 2.0], [0.0, -1.0], [1.0, 0.0], [0.0, 0.0]]))
    assert (moved @ direction(start, asked)).nan_to_num(9).tolist() == [1, -1, 0, 9]


def test_lpips_with_the_probe_trunk_is_the_packages_formula(suite, pictures):
    a, b = pictures[:2] * 2 - 1, pictures[2:] * 2 - 1
    expected, x, y = 0.0, a, b
    for layer in suite.probe.features:
        x, y = layer(x), layer(y)
        if isinstance(layer, torch.nn.ReLU):
            unit_x, unit_y = (v / (v.norm(dim=1, keepdim=True) + 1e-8) for v in (x, y))
            expected = expected + (unit_x - unit_y).pow(2).sum(1).mean((1, 2))
    measured = suite.measure(pictures[:2], pictures[2:], *PROMPTS)["lpips"]
    torch.testing.assert_close(measured, expected, atol=1e-4, rtol=1e-4)


def test_the_probe_judges_what_was_asked(suite, pictures):
    """This probe always reads a cake: asking for cake succeeds, for a burger fails, for nothing new is NaN."""
    to_cake = suite.measure(pictures, pictures, *PROMPTS)
    to_burger = suite.measure(pictures, pictures, *reversed(PROMPTS))
    nothing = suite.measure(pictures, pictures, PROMPTS[0], PROMPTS[0])
    assert to_cake["edit_success"].tolist() == [1] * 4 and to_burger["edit_success"].tolist() == [0] * 4
    assert nothing["edit_success"].isnan().all()


def reading(style, scene, food, hat, head, identity):
    """What a probe might read in two pictures: class indices, (x, y, size) of each head, traits."""
    categorical = {"style": style, "scene": scene, "food": food, "sunglasses": (0, 0), "hat": hat}
    continuous = dict(zip(("head_x", "head_y", "head_size"), torch.tensor(head).T, strict=True))
    indices = {name: torch.tensor(values) for name, values in categorical.items()}
    return Reading(
        indices, {}, continuous | {"blossom": torch.tensor([0.2, 0.7])}, torch.tensor(identity), torch.zeros(2)
    )


def test_what_is_read_of_an_edit_is_counted_by_hand():
    """One picture gets its cake on another scene and moves; the other keeps its burger, is painted and gets a hat."""
    burger, cake = (world.FOODS.index(food) for food in ("burger", "cake"))
    before = reading((0, 0), (0, 0), (burger, burger), (0, 0), [(0.5, 0.4, 0.4)] * 2, [[0.0, 0.0], [0.5, -0.5]])
    head = [(0.5 + 3 / 128, 0.4 - 4 / 128, 0.44), (0.5, 0.4, 0.3)]
    after = reading((0, 1), (1, 0), (cake, burger), (0, 1), head, [[0.6, 0.8], [0.5, 0.5]])
    expected = {
        "edit_success": [1, 0],
        "asked_shown": [4 / 5, 2 / 5],  # of style, scene, food, sunglasses and hat
        "other_changed": [1 / 4, 2 / 4],  # of all but food
        "head_shift_px": [5, 0],
        "size_change": [0.1, 0.25],
        "identity_shift": [0.5**0.5, 0.5**0.5],
        "blossom": [0.2, 0.7],
    }
    found = compare(before, after, *PROMPTS)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].tolist() == pytest.approx(values, abs=1e-4), name


def test_directional_clip_is_the_cosine_of_raw_embeddings_steps(suite, pictures):
    clip = suite.clip
    pixels = clip.processor(images=list((pictures * 255).round().byte()), return_tensors="pt")["pixel_values"]
    words = clip.processor.tokenizer([*PROMPTS], padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        model = tiny_metrics.PlainFeatures(clip.model)
        raw = [model.get_image_features(pixel_values=pixels), model.get_text_features(**words)]
    images, texts = (embedding.numpy() / np.linalg.norm(embedding.numpy(), axis=1, keepdims=True) for embedding in raw)
    steps, asked = images[2:] - images[:2], texts[1] - texts[0]
    expected = steps @ asked / (np.linalg.norm(steps, axis=1) * np.linalg.norm(asked))
    measured = suite.measure(pictures[:2], pictures[2:], *PROMPTS)["clip_dir"]
    np.testing.assert_allclose(measured, expected, atol=2e-3)


def test_backbones_are_named_by_content(suite, folder):
    assert suite.backbones["clip_t"].startswith("paperdoll-clip@")
    assert suite.backbones["lpips"] != suite.backbones["clip_t"]
    from likeness.metrics.backbones import file_hash

    assert suite.backbones["clip_t"].endswith(file_hash(folder / "clip" / "model.safetensors"))


def test_missing_weights_are_named_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="pretrain"):
        metrics.check_available("embedded")
    with pytest.raises(InputError, match=r"(?s)clip-vit-large-patch14.*vgg16"):
        metrics.check_available("standard", lpips_net="vgg")
    with pytest.raises(InputError, match=r"(?s)dino-vitb8.*dino-vits16.*squeezenet"):
        metrics.check_available("pie", subject=True)
    with pytest.raises(InputError, match="embedded, standard, pie"):
        metrics.check_available("clip")
    with pytest.raises(InputError, match="alex, vgg, squeeze"):
        metrics.check_available("standard", lpips_net="resnet")
    for suite in ("embedded", "pie"):
        with pytest.raises(InputError, match="does nothing"):
            metrics.check_available(suite, lpips_net="alex")


def test_asking_for_availability_imports_no_torch():
    code = "import sys; from likeness import metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0


def test_the_docs_page_shows_the_definitions_of_the_code():
    from pathlib import Path

    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for part in (definitions.EDIT, definitions.PROBED, definitions.SUBJECT, definitions.PIE):
        assert definitions.table(part) in page, "print them: python -m likeness.metrics.definitions"
    assert definitions.regional_table() in page


def test_every_definition_names_its_unit_source_and_direction():
    for name, definition in definitions.DEFINITIONS.items():
        assert definition.text and definition.source and definition.unit and definition.file.endswith(".py"), name
        assert definition.direction in ("higher", "lower", "neutral"), name
    assert definitions.direction("psnr_outside_rendered") == "higher"
    assert definitions.direction("psnr_inside_attention") == "neutral"
    assert definitions.direction("clip_t_inside_local_blend") == "higher"
    assert definitions.base_name("pie_mse_x1e4_outside_local_blend") == "pie_mse_x1e4"
    assert definitions.region_of("lpips_outside_rendered") == ("outside", "rendered")
    assert definitions.region_of("lpips") is None and definitions.base_name("lpips_outside_moon") not in (
        definitions.DEFINITIONS
    )
