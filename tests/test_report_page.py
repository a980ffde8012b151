"""The grid, the table and the page: nothing clipped, nothing pooled that must not be, nothing from outside."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from cells_on_disk import write_cell
from PIL import Image, ImageFont

from likeness.report.grid import line_height, make_grid, wrap
from likeness.report.page import highlighted, write_report
from likeness.report.records import by_backbones, pooled, read_cells, values
from likeness.report.table import print_table

LONG = "van gogh painting of a bnh keanu reeves wearing a pair of sunglasses in the jungle " * 3


def test_wrapped_labels_fit_and_lose_no_word():
    font = ImageFont.load_default(16)
    lines = wrap(LONG + "x" * 200, font, 150)
    assert all(font.getlength(line) <= 150 for line in lines)
    assert "".join(lines).replace(" ", "") == (LONG + "x" * 200).replace(" ", "")


def test_a_grid_is_large_enough_for_its_labels_and_pictures():
    picture = Image.new("RGB", (128, 128), (255, 0, 0))
    grid = make_grid([[picture] * 4, [picture] * 4], ["source", LONG], [f"seed {i}" for i in range(4)], title="local")
    pixels = np.asarray(grid)
    red = (pixels == (255, 0, 0)).all(-1).sum()
    assert red == 8 * 160 * 160
    margins = np.concatenate([pixels[:, :6].ravel(), pixels[:, -6:].ravel(), pixels[:6].ravel(), pixels[-6:].ravel()])
    assert (margins == 255).all()  # nothing touches the edge
    lines = len(wrap(LONG, ImageFont.load_default(14), 184 - 14))
    assert grid.height > lines * line_height(ImageFont.load_default(14))


def test_a_grid_without_matching_labels_is_refused():
    with pytest.raises(ValueError, match="one label per row"):
        make_grid([[Image.new("RGB", (8, 8))]], ["a", "b"])


class Page(HTMLParser):
    """Collects references and text."""

    def __init__(self, text):
        super().__init__()
        self.references, self.text, self.tags = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def cells(tmp_path):
    return [
        write_cell(tmp_path, "one"),
        write_cell(tmp_path, "two", subject="bnh", target="<script>lasagne", success=(0.75, 1.0), lpips=(0.3, 0.4)),
    ]


def test_the_page_stands_alone_and_shows_every_cell(cells, tmp_path):
    page = Page(write_report(cells, tmp_path / "report.html", "demo").read_text())
    assert all(reference.startswith(("data:image/", "#")) for reference in page.references)
    assert sum(reference.startswith("data:image/") for reference in page.references) == 2
    assert "eating a cake" in page.text and "<script>lasagne" in page.text and "script" not in page.tags
    assert "svg" in page.tags and "88%" in page.text  # 7 of 8 pictures with, as counted by hand
    assert re.search(r"Measured with: .*trunk@2", page.text)


def test_pooling_is_over_pictures_and_equals_the_rows(cells):
    done, failed = read_cells(cells)
    assert not failed
    entry = pooled(done, "lpips")
    with_, without = (np.array(values(done, "lpips", arm)) for arm in ("with", "without"))
    assert entry["difference"]["n"] == 8
    assert entry["difference"]["mean"] == pytest.approx((with_ - without).mean()) and entry["difference"]["high"] < 0


def test_different_backbones_are_never_pooled(tmp_path):
    folders = [write_cell(tmp_path, "one"), write_cell(tmp_path, "two", clip="clip@other")]
    done, _ = read_cells(folders)
    assert len(by_backbones(done)) == 2
    with pytest.raises(ValueError, match="different backbones"):
        pooled(done, "clip_t")
    page = Page(write_report(folders, tmp_path / "report.html", "demo").read_text())
    assert page.text.count("Measured with clip@") + page.text.count("Measured with trunk@") == 2
    assert page.tags.count("svg") == 2


def test_failed_and_foreign_folders_are_listed(cells, tmp_path, capsys):
    write_cell(tmp_path, "broken", status="failed", error="CUDA out of memory")
    (tmp_path / "foreign").mkdir()
    folders = [*cells, tmp_path / "broken", tmp_path / "foreign"]
    page = Page(write_report(folders, tmp_path / "report.html", "demo").read_text())
    assert "CUDA out of memory" in page.text and "unreadable" in page.text
    print_table(folders)
    shown = capsys.readouterr().out
    assert "tuki" in shown and "cake" in shown and "failed" in shown


def test_changed_words_are_marked():
    assert highlighted("eating a burger", "eating a cake") == (
        "eating a <del>burger</del>",
        "eating a <mark>cake</mark>",
    )
