"""The map of a sensitivity sweep: what is pooled, which points are the front, which is chosen, and what is refused."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from cells_on_disk import write_cell

from likeness.errors import InputError
from likeness.report import settings_map, tradeoff
from likeness.report.records import measured_alike, read_cells
from likeness.report.tradeoff_plot import draw_map
from likeness.report.varying import varying
from likeness.study.gather import gather


def cell(root, number, cross, self_, success, lpips, *, steps=400, subject="tuki", **more):
    config = {
        "edit": {"cross_replace_steps": [0.0, cross], "self_replace_steps": [0.0, self_], "blend": None},
        "schedule": {"num_train_steps": steps},
    }
    return write_cell(
        root, f"cell{number}-{subject}", subject=subject, success=(success, 1.0), lpips=(lpips, 0.6), config=config,
        weights=f"weights-{subject}-{steps}", **more,
    )  # fmt: skip


@pytest.fixture
def swept(tmp_path):
    """Four settings; (0.4, 0.2) is dominated by (0.4, 0.6)."""
    made = [(0.4, 0.2, 0.5, 0.40), (0.4, 0.6, 0.75, 0.30), (0.8, 0.2, 1.0, 0.50), (0.8, 0.6, 0.25, 0.10)]
    folders = [
        cell(tmp_path, number, *values, subject=subject)
        for number, values in enumerate(made)
        for subject in ("bnh", "tuki")
    ]
    return read_cells(folders)[0]


def test_settings_that_move_are_found_and_cells_pooled_over_subjects(swept):
    assert varying(swept) == ["edit.cross_replace_steps", "edit.self_replace_steps"]
    made = settings_map.trade(swept)
    assert [point.values for point in made.points] == [("0–0.4", "0–0.2"), ("0–0.4", "0–0.6"), ("0–0.8", "0–0.2"),
                                                       ("0–0.8", "0–0.6")]  # fmt: skip
    assert all(point.n == 8 for point in made.points)
    assert made.points[0].lost == pytest.approx(0.40, abs=0.02) and made.points[0].success == 0.5
    (plain,) = made.plain
    assert plain.n == 32 and plain.lost == pytest.approx(0.6, abs=0.02)


def test_the_front_leaves_out_the_dominated_and_the_chosen_point_is_nearest_the_corner(swept):
    made = settings_map.trade(swept)
    assert {made.points[i].values for i in made.front} == {("0–0.4", "0–0.6"), ("0–0.8", "0–0.2"), ("0–0.8", "0–0.6")}
    assert made.points[made.chosen].values == ("0–0.4", "0–0.6")
    table = settings_map.markdown(made)
    assert re.search(r"\| 0–0\.4 \| 0–0\.6 \| 8 \| 0\.75 \|.*\*\*chosen\*\* \|", table)
    assert table.count("| front |") == 2 and "| re-prompting | re-prompting | 32 |" in table


def test_the_map_is_valid_svg_with_every_point(swept):
    drawn = ElementTree.fromstring(draw_map(settings_map.trade(swept)))
    titles = [e.text for e in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 5 and any("0–0.4, 0–0.6: 0.75" in t for t in titles)


def test_training_steps_are_a_setting_of_re_prompting_too(tmp_path):
    folders = [
        cell(tmp_path, 10 * a + b, 0.8, self_, 0.5, 0.3, steps=steps)
        for a, steps in enumerate((120, 400, 800))
        for b, self_ in enumerate((0.2, 0.4))
    ]
    made = settings_map.trade(read_cells(folders)[0])
    assert made.settings == ["schedule.num_train_steps", "edit.self_replace_steps"]
    assert [p.values for p in made.plain] == [("120",), ("400",), ("800",)]
    assert "| 800 | re-prompting |" in settings_map.markdown(made)


def test_what_must_not_be_averaged_is_refused(tmp_path):
    one = cell(tmp_path, 1, 0.4, 0.2, 1.0, 0.3)
    other = cell(tmp_path, 2, 0.8, 0.2, 1.0, 0.3)
    again = write_cell(
        tmp_path, "again", weights="other", config=read_cells([one])[0][0].record["config"]
    )  # same setting and subject, other weights
    with pytest.raises(InputError, match="different weights"):
        settings_map.trade(read_cells([one, other, again])[0])
    with pytest.raises(InputError, match="do not differ"):
        settings_map.trade(read_cells([one])[0])
    with pytest.raises(InputError, match="measured with dino"):
        settings_map.trade(read_cells([one, other])[0], "dino")


def test_the_command_writes_map_and_table(swept, tmp_path, capsys):
    tradeoff.main([str(tmp_path), "--svg", str(tmp_path / "map.svg"), "--markdown", str(tmp_path / "table.md")])
    assert (tmp_path / "map.svg").read_text().startswith("<svg") and "chosen" in (tmp_path / "table.md").read_text()
    with pytest.raises(SystemExit, match="no finished cell"):
        (tmp_path / "empty").mkdir()
        tradeoff.main([str(tmp_path / "empty")])


def gathered(root, cells):
    """Point at cells from the jobs of a run folder, gather them, and return folder and page."""
    run = root / "run"
    for number, made in enumerate(cells):
        (run / str(number)).mkdir(parents=True)
        (run / str(number) / "cell.txt").write_text(f"{made.folder}\n")
    return run, gather(run).read_text(encoding="utf-8")


def test_a_sweep_over_windows_leaves_its_map_in_folder_and_page(swept, tmp_path, capsys):
    run, page = gathered(tmp_path, swept)
    drawn = (run / "map.svg").read_text(encoding="utf-8")
    assert drawn == draw_map(settings_map.trade(swept)) and drawn in page
    assert "What the settings trade" in page and not list(run.glob("*.part"))


def test_edits_that_differ_in_a_window_by_kind_are_no_sweep_over_it(swept, tmp_path, capsys):
    other = cell(tmp_path, 9, 0.8, 0.6, 0.5, 0.3, axes={"edit": "blend"})
    run, page = gathered(tmp_path, [next(c for c in swept if c.axes["subject"] == "tuki"), *read_cells([other])[0]])
    assert not (run / "map.svg").exists() and "What the settings trade" not in page


def trained(root, number, end, steps, **more):
    axes = {"schedule": str(steps)} | more.pop("axes", {})
    return cell(root, number, 0.8, end, 0.5, 0.2 + end / 2, steps=steps, axes=axes, **more)


def test_a_sweep_over_trainings_and_windows_leaves_one_map_of_both(tmp_path, capsys):
    folders = [trained(tmp_path, steps + i, end, steps) for steps in (200, 1600) for i, end in enumerate((0.0, 0.4))]
    swept_twice = read_cells(folders)[0]
    run, page = gathered(tmp_path, swept_twice)
    drawn = (run / "map.svg").read_text(encoding="utf-8")
    assert drawn == draw_map(settings_map.trade(swept_twice)) and "training steps 1600" in drawn
    assert page.count("What the settings trade") == 1 and "all 2 trainings" in page
    assert not (run / "map-2.svg").exists() and len(measured_alike(swept_twice)) == 2


def test_trainings_of_different_subjects_or_versions_are_on_no_map_together(tmp_path):
    ends = ((0, 0.0), (1, 0.4))
    tuki = [trained(tmp_path, i, end, 200) for i, end in ends]
    bnh = [trained(tmp_path, 10 + i, end, 1600, subject="bnh") for i, end in ends]
    other = [trained(tmp_path, 20 + i, end, 800, clip="clip@2") for i, end in ends]
    for folders in (tuki + bnh, tuki + other):
        maps = settings_map.maps_by_group(measured_alike(read_cells(folders)[0]))
        assert [(made.settings, count) for made, count in maps.values()] == [(["edit.self_replace_steps"], 1)] * 2
