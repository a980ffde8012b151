"""Subject metrics against their formulas: fidelity to the photos, diversity, drift and bleeding."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_metrics
import torch

from likeness import metrics
from likeness.metrics import definitions
from likeness.metrics.structure import structure_distance, tokens_within
from likeness.paperdoll import world


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    from likeness.paperdoll.probe import Probe, save_probe

    root = tmp_path_factory.mktemp("embedded")
    tiny_metrics.tiny_clip(root / "clip")
    torch.manual_seed(0)
    probe = Probe((8, 16, 16, 16, 16), 32)
    with torch.no_grad():  # untrained, it would tell nobody apart
        probe.identity[2].weight *= 5000
    save_probe(probe, root / "probe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(root))
        metrics.forget()
        yield metrics.build_subject("embedded")
        metrics.forget()


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        tiny_metrics.field_backbones(tmp_path_factory.mktemp("field"), patch)
        yield metrics.build_subject("standard", lpips_net="squeeze")
        metrics.forget()


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(1)
    drawn = [world.render(world.sample_factors(rng), 64) for _ in range(10)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255


def test_fidelity_is_the_mean_over_all_pairs(field, embedded, pictures):
    drawn, photos = pictures[:3], pictures[3:7]
    for subject in (field, embedded):
        values = subject.measure(drawn, photos)
        pairs = [[float(subject.clip.images(a[None]) @ subject.clip.images(b[None]).T) for b in photos] for a in drawn]
        np.testing.assert_allclose(values["clip_i"], np.mean(pairs, 1), atol=1e-5)
    dino = field.dino.model
    small = torch.nn.functional.interpolate(pictures[:7], (37, 37), mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        tokens = dino(pixel_values=(small[:, :, 2:34, 2:34] - mean) / deviation).last_hidden_state[:, 0].numpy()
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    np.testing.assert_allclose(field.measure(drawn, photos)["dino"], (unit[:3] @ unit[3:].T).mean(1), atol=1e-5)


def test_identity_is_compared_with_the_photos_mean_reading(embedded, pictures):
    reading = embedded.probe.read(pictures).identity.numpy()
    values = embedded.measure(pictures[:3], pictures[3:])
    expected = np.sqrt(((reading[:3] - reading[3:].mean(0)) ** 2).mean(1))
    np.testing.assert_allclose(values["identity_distance"], expected, rtol=1e-4)
    assert expected.min() > 0.1
    assert "dino" not in values and "identity_distance" in embedded.backbones


def test_diversity_is_the_mean_over_pairs_and_needs_two(field, pictures):
    def distance(a, b):
        return float(field.lpips.distance(*(field.lpips.features(x[None]) for x in (a, b))))

    pairs = [distance(pictures[i], pictures[j]) for i in range(5) for j in range(i)]
    assert float(field.diversity(pictures[:5])["diversity_lpips"]) == pytest.approx(np.mean(pairs), rel=1e-4)
    assert field.diversity(pictures[:1])["diversity_lpips"].isnan()
    assert float(field.diversity(pictures[[0, 0, 0]])["diversity_lpips"]) == pytest.approx(0, abs=1e-6)


def test_no_training_is_no_drift_and_no_bleeding(embedded, field, pictures):
    for subject in (embedded, field):
        same = subject.drift(pictures, pictures)
        assert all(value.shape == (10,) and value.abs().max() < 1e-4 for value in same.values())
        moved = subject.drift(pictures, pictures.flip(0))
        assert (moved["drift_lpips"] > 0).all() and (moved["drift_clip"] > 0).all()
        bled = subject.bleeding(pictures[:3], pictures[3:], pictures[:3])
        assert all(value.abs().max() < 1e-5 for name, value in bled.items() if name.startswith("bleed_"))


def test_drift_and_bleeding_are_differences_of_what_the_encoders_say(embedded, pictures):
    before, after, photos = pictures[:3], pictures[3:6], pictures[6:]
    old, new = (embedded.probe.read(part) for part in (before, after))
    drift = embedded.drift(before, after)
    moved = np.sqrt(((new.identity.numpy() - old.identity.numpy()) ** 2).mean(1))
    np.testing.assert_allclose(drift["drift_identity"], moved, rtol=1e-3)
    other = [embedded.probe.read(part).who.numpy() for part in (before, after)]
    np.testing.assert_array_equal(drift["drift_who"], (other[0] != other[1]).astype(float))
    clip_before, clip_after, clip_photos = (embedded.clip.images(part).numpy() for part in (before, after, photos))
    np.testing.assert_allclose(drift["drift_clip"], 1 - (clip_before * clip_after).sum(1), atol=1e-5)
    gained = (clip_after @ clip_photos.T).mean(1) - (clip_before @ clip_photos.T).mean(1)
    np.testing.assert_allclose(embedded.bleeding(after, photos, before)["bleed_clip_i"], gained, atol=1e-5)


def test_who_is_counted_where_another_class_is_read(embedded, pictures):
    seen = embedded.see(pictures[:3])
    old, new = (replace(seen, who=torch.tensor(who)) for who in ((0, 1, 2), (0, 2, 2)))
    assert embedded.drift(old, new)["drift_who"].tolist() == [0, 1, 0]


def test_bleeding_measures_the_way_to_the_subject(embedded, field, pictures):
    people, photos = pictures[:4], pictures[[5, 5, 5, 5]]
    bled = embedded.bleeding(photos, photos, people)
    np.testing.assert_allclose(bled["bleed_identity"], 1, atol=1e-3)
    assert (bled["pres_identity_distance"] < 1e-3).all()
    halfway = embedded.bleeding(people, photos, people.flip(0))["bleed_identity"]
    assert (halfway < 0.9).all() and halfway.abs().max() > 1e-3
    bled = field.bleeding(photos, photos, people)
    np.testing.assert_allclose(bled["bleed_dino"], 1 - field.measure(people, photos)["dino"].numpy(), atol=1e-5)
    assert set(field.bleeding(people, photos)) == {"pres_clip_i", "pres_dino"}
    with pytest.raises(ValueError, match="same prompts and noise"):
        field.drift(people, people[:2])
    with pytest.raises(ValueError, match="n > 0"):
        field.measure(people[:0], photos)


def test_what_was_seen_once_is_not_encoded_again(field, pictures, monkeypatch):
    seen, photos = field.see(pictures[:3]), field.see(pictures[3:])
    fresh = field.measure(pictures[:3], pictures[3:])
    monkeypatch.setattr(field.clip, "images", None)
    again = field.measure(seen, photos)
    assert all(torch.equal(again[name], value) for name, value in fresh.items())


def test_every_measured_name_is_defined(embedded, field, pictures):
    for subject in (embedded, field):
        names = set(subject.measure(pictures[:2], pictures[2:])) | set(subject.diversity(pictures[:2]))
        names |= set(subject.drift(pictures[:2], pictures[2:4]))
        names |= set(subject.bleeding(pictures[:2], pictures[2:], pictures[4:6]))
        assert names == set(subject.backbones) == set(subject.directions) <= set(definitions.SUBJECT)
    assert "dino-vits16@" in field.backbones["dino"]


def test_structure_distance_by_hand():
    a = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    b = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    assert structure_distance(a, b).tolist() == [0.5]  # two of four cosines go from 0 to 1
    assert structure_distance(a, b, torch.tensor([[True, False]])).isnan().all()
    region = torch.zeros(1, 8, 8, dtype=torch.bool)
    region[:, :4, :5] = True
    assert tokens_within(region, 5)[0].tolist() == [False, True, False, False, False]
    with pytest.raises(ValueError, match="do not tile"):
        tokens_within(region, 8)
