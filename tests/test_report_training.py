"""The page of a fine-tuning holds every number of its history, marks the kept checkpoint, and is self-contained."""

import re

from PIL import Image

from likeness.report.training import GROUPS, meaning, read_curves, write_training_report

HISTORY = """step,health/identifier_entropy,health/other_bleed_clip_i,health/prior_drift_lpips,health/subject_clip_i,\
train/loss_instance,train/lr,validation/loss_class,odd/number
0,0.91,0.0,0.0,0.5,,,0.2,
10,,,,,0.4,0.001,,7.0
20,0.85,0.0123,0.345,0.75,0.3,0.001,0.25,8.0
"""
LADDER = (
    "step,likeness,prior drift,gain,cost,knee\n0,0.5,0.0,0.0,0.0,\n10,0.7,0.1,0.9,0.2,knee\n20,0.75,0.345,1.0,1.0,\n"
)


def test_every_number_is_there_with_its_curve(tmp_path):
    (tmp_path / "history.csv").write_text(HISTORY)
    page = write_training_report(tmp_path, "tuki <b> & co").read_text()
    names = read_curves(tmp_path / "history.csv")
    assert len(names) == 8 and page.count("<polyline") == 8
    assert all(f"<td>{name.removeprefix('health/')}</td>" in page for name in names)
    assert "<td>prior_drift_lpips</td><td>0</td><td>0.345</td>" in page
    assert all(f"<h2>{heading}</h2>" in page for heading in [*GROUPS, "Other numbers"])
    assert "tuki &lt;b&gt; &amp; co" in page and "<b>" not in page and "Checkpoints" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_every_number_of_a_checkpoints_health_says_what_it_is():
    from likeness.metrics.subject import MEASURED_WITH

    measured = [f"health/prior_{name}" for names in MEASURED_WITH.values() for name in names]
    read = ["health/subject_clip_t", "health/tuki/subject_asked_shown", "health/other_class_read"]
    attention = [f"health/{word}_{n}{c}" for word in ("identifier", "class") for n in ("entropy", "focus", "mass")
                 for c in ("", "_change")]  # fmt: skip
    trained = ["train/loss", "train/loss_prior", "train/lr", "train/grad_norm", "validation/loss_class"]
    assert all(meaning(name) for name in [*measured, *read, *attention, *trained])
    assert meaning("health/prior_drift_lpips") == meaning("health/other_drift_lpips") != meaning("odd/number") == ""


def test_the_photos_stand_above_what_was_drawn(tmp_path):
    (tmp_path / "history.csv").write_text(HISTORY)
    photos = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue")]
    page = write_training_report(tmp_path, "tuki", photos).read_text()
    assert page.count("data:image/webp") == 1 and "<figcaption>3 photos</figcaption>" in page


def test_pictures_and_the_kept_checkpoint_are_shown(tmp_path):
    (tmp_path / "history.csv").write_text(HISTORY)
    (tmp_path / "ladder.csv").write_text(LADDER)
    (tmp_path / "samples").mkdir()
    for step in (10, 20):
        Image.new("RGB", (2000, 40), "red").save(tmp_path / "samples" / f"before-after-{step:06d}.png")
    page = write_training_report(tmp_path, "tuki").read_text()
    assert page.count("data:image/webp") == 1 and "before after 000020" in page
    assert page.count("kept</mark>") == 1
    assert "<td>10</td><td>0.700</td><td>0.100</td><td>0.900</td><td>0.200</td><td><mark>" in page
