"""A re-weighted word is read by weight; with the source's own prompt there is no re-prompting to compare with."""

import csv
import json

import pytest
from cells_on_disk import write_cell

from likeness import results
from likeness.errors import InputError
from likeness.report.comparisons import as_markdown
from likeness.report.page import write_report
from likeness.report.records import pooled, read_cells
from likeness.report.settings_map import trade
from likeness.report.weights import weight_curves, weight_table

PROMPT = "tuki under a blossom tree"


def reweighted(root, weight, amounts, *, subject="tuki", name="reweight", **more):
    """Write a cell of the source's own prompt in which so much blossom was read, seed by seed."""
    folder = write_cell(
        root, f"{subject}-{name}-{weight}", subject=subject, lpips=(0.02, 0.0), source_prompt=PROMPT,
        target_prompt=PROMPT, axes={"edit": "reweight", "target": None, "word": "blossom", "weight": weight},
        **more,
    )  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    summary["metrics"]["blossom"] = summary["metrics"]["lpips"] | {"with": sum(amounts) / 4, "without": 0.3}
    (folder / "summary.json").write_text(json.dumps(summary))
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["blossom"] = amounts[int(row["seed"])] if row["arm"] == "with" else 0.3
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def folders(tmp_path):
    amounts = {
        -2.0: (0.9, 0.9, 0.9, 0.9),
        0.0: (0.1, 0.2, 0.1, 0.4),
        1.0: (0.2, 0.3, 0.2, 0.3),
        4.0: (0.5, 0.6, 0.4, 0.2),
    }
    return [reweighted(tmp_path, weight, read) for weight, read in amounts.items()]


def test_the_amount_by_weight_and_its_rank_correlation(folders):
    (curve,) = weight_curves(read_cells(folders)[0])
    assert curve.amounts == pytest.approx({-2.0: 0.9, 0.0: 0.2, 1.0: 0.25, 4.0: 0.425})
    assert curve.rising, "negative weights are shown, not judged"
    assert curve.rank == 1.0, "three seeds rise, one falls: the median"
    assert "| tuki | blossom | 4 | 0.900 | 0.200 | 0.250 | 0.425 | yes | +1.00 |" in as_markdown(weight_table([curve]))


def test_a_curve_that_does_not_rise_says_so(tmp_path):
    cells = [reweighted(tmp_path, w, (a,) * 4) for w, a in ((0.0, 0.3), (1.0, 0.3), (4.0, 0.2))]
    (curve,) = weight_curves(read_cells(cells)[0])
    assert not curve.rising and curve.rank < 0


def test_subjects_have_curves_of_their_own_and_other_edits_none(tmp_path, folders):
    more = [reweighted(tmp_path, w, (w / 10,) * 4, subject="bnh") for w in (0.0, 2.0)]
    cells, _ = read_cells([*folders, *more, write_cell(tmp_path, "tuki-local-cake-00000000")])
    curves = weight_curves(cells)
    assert [curve.subject for curve in curves] == ["tuki", "bnh"] and curves[1].rank is None, (
        "two weights rank nothing"
    )


def test_cells_of_other_settings_make_curves_of_their_own(tmp_path):
    folders = [
        reweighted(tmp_path, w, (end * w,) * 4, name=f"cross{end}", config={"edit": {"cross_replace_steps": [0, end]}})
        for end in (0.1, 0.2)
        for w in (0.0, 1.0, 2.0)
    ]
    text = results.markdown(read_cells(folders)[0])
    assert "| tuki | blossom | cross 0–0.1 | 4 | 0.000 | 0.100 | 0.200 |" in text
    assert "| tuki | blossom | cross 0–0.2 | 4 | 0.000 | 0.200 | 0.400 |" in text
    page = write_report(folders, tmp_path / "report.html", "weights").read_text()
    assert "tuki, cross 0–0.1: what is read" in page and "tuki, cross 0–0.2: what is read" in page


def test_a_cell_that_nothing_but_its_folder_tells_apart_overwrites_none(tmp_path):
    folders = [reweighted(tmp_path, w, (w / 10 + i,) * 4, name=f"no{i}") for i in range(2) for w in (0.0, 1.0)]
    curves = weight_curves(read_cells(folders)[0])
    assert [curve.amounts for curve in curves] == [{0.0: 0.0, 1.0: 0.1}, {0.0: 1.0, 1.0: 1.1}]
    assert [curve.settings for curve in curves] == ["", "no. 2"]


def test_re_prompting_with_the_same_prompt_is_no_edit_to_compare_with(tmp_path, folders):
    local = write_cell(tmp_path, "tuki-local-cake-00000000")
    cells, _ = read_cells([*folders, local])
    alone = pooled(cells[-1:], "lpips")
    assert pooled(cells, "lpips") == alone and pooled(cells[:-1], "lpips") is None
    text = results.markdown(cells[:-1])
    assert "P2P keeps" not in text and "| tuki | blossom |" in text
    with pytest.raises(InputError, match="cannot be traded"):
        trade(cells[:-1])


def test_the_page_shows_the_curve_and_no_verdict(tmp_path, folders):
    page = write_report(folders, tmp_path / "report.html", "weights").read_text()
    assert "How much is drawn, by weight" in page and "rank correlation" in page
    said = "what is read of <em>blossom</em> rises with every step of its weight, from 0.20 at 0 to 0.42 at 4 (n = 4"
    assert said in page and "rises with every step" in page, "negative weights are shown, not judged"
    alone = write_report(folders[:1], tmp_path / "alone.html", "weights").read_text()
    assert "Nothing here is compared" in alone
