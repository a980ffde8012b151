"""Regions: the world's own, where its truth is known, and those that the drawing leaves behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from likeness.config import Blend, Edit, Model, Sampler, Sweep
from likeness.metrics.regions import at_size, rendered_region
from likeness.paperdoll import world
from likeness.paperdoll.probe import Reading
from likeness.study import draw
from likeness.study.plan import EditPlan

BURGER, CAKE = "photo of a man eating a burger", "photo of a man eating a cake"


def true_reading(factors):
    """What a faultless probe would read."""
    return Reading(
        categorical={},
        probabilities={},
        continuous={name: torch.tensor([float(getattr(f, name)) for f in factors]) for name in world.CONTINUOUS},
        identity=torch.from_numpy(np.stack([f.identity.vector() for f in factors])),
        who=torch.zeros(len(factors)),
    )


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(2)
    return [world.sample_factors(rng, style="photo", scene="beach", food="burger") for _ in range(6)]


def changed(before, after):
    """Where the world's two pictures differ visibly, scene layout and light as in the picture."""
    return np.stack(
        [
            np.abs(world.render(a).astype(int) - world.render(b).astype(int)).max(2) > 40
            for a, b in zip(before, after, strict=True)
        ]
    )


@pytest.mark.parametrize(
    ("target", "change", "most"),
    [
        (f"{CAKE} on a beach", {"food": "cake"}, 0.3),
        ("photo of a man on a beach", {"food": "none"}, 0.3),
        (f"{BURGER} wearing a hat on a beach", {"hat": True}, 0.5),
        (f"{BURGER} in the jungle", {"scene": "jungle"}, 0.9),
    ],
)
def test_the_rendered_region_holds_what_the_edit_changes_and_little_else(people, target, change, most):
    people = [replace(f, hat=False) for f in people]
    region = rendered_region(true_reading(people), f"{BURGER} on a beach", target, (128, 128)).numpy()
    truth = changed(people, [replace(f, **change) for f in people])
    assert truth.any((1, 2)).all()
    assert (region & truth).sum() / truth.sum() > 0.97
    assert region.mean() < most and (~region).any((1, 2)).all()


def test_a_style_or_no_change_has_no_region(people):
    reading = true_reading(people)
    assert rendered_region(reading, BURGER, "watercolor painting of a man eating a cake", (64, 64)) is None
    assert rendered_region(reading, BURGER, BURGER, (64, 64)) is None


def test_masks_grow_to_the_pictures_size():
    mask = torch.tensor([[[True, False], [False, False]]])
    assert at_size(mask, (4, 4))[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]


def test_a_drawn_cell_keeps_where_it_acted(tiny_pipe, tmp_path):
    edit = Edit(name="blend", operator="replace", blend=Blend(threshold=0.3, start=0.0))
    sweep = Sweep(
        model=Model(name="tiny", source="x", seeds_per_call=2),
        edit=edit,
        sampler=Sampler(name="ddim", scheduler="ddim", num_inference_steps=2, guidance_scale=5.0),
        seeds=[0, 1, 2],
        show_attention=True,
    )
    plan = EditPlan("replace", BURGER, CAKE, {}, swaps=(("a burger", "a cake"),))
    drawn = draw.draw_cell(tiny_pipe, sweep, plan, draw.PictureCache(tmp_path, {}))
    assert set(drawn.regions) == {"local_blend", "attention"}
    for masks in drawn.regions.values():
        assert len(masks) == 3 and all(mask.dtype == bool and mask.ndim == 2 and mask.any() for mask in masks)
    sweep.show_attention, edit.blend = False, None
    assert draw.draw_cell(tiny_pipe, sweep, plan, draw.PictureCache(tmp_path, {})).regions == {}
