"""The grid, the table and the page: nothing clipped, nothing pooled that must not be, nothing from outside."""

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from cells_on_disk import write_cell
from PIL import Image, ImageFont

from likeness.report.cards import outcome
from likeness.report.commands import seed_commands
from likeness.report.comparisons import cell_table
from likeness.report.differences import MOST_ROWS, difference_plot
from likeness.report.grid import line_height, make_grid, wrap
from likeness.report.metric_names import interval, verdict
from likeness.report.page import highlighted, write_report
from likeness.report.records import direction_of, measured_alike, pooled, read_cells, values
from likeness.report.settings_map import pareto
from likeness.report.table import MOST_LINES, print_table
from likeness.report.thumbnails import HTML, HTML_OF_CELL, HTML_OF_PICTURE, SIZES, Thumbnails, choose

LONG = "van gogh painting of a bnh keanu reeves wearing a pair of sunglasses in the jungle " * 3
HOSTILE = '</script><img src=x onerror="document.title=1">{{ 7 * 7 }} \'"&<b>🦄'


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
    """Collects links, pictures, tags and text, and the two JSON blocks."""

    def __init__(self, path):
        super().__init__()
        self.links, self.sources, self.tags, self.blocks, self.text, self.block = [], [], [], {}, "", None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        if tag in ("script", "style"):
            self.block = attributes.get("id", tag)

    def handle_endtag(self, tag):
        self.block = None

    def handle_data(self, data):
        if self.block is None:
            self.text += data
        else:
            self.blocks[self.block] = data


@pytest.fixture
def cells(tmp_path):
    return [
        write_cell(tmp_path, "one"),
        write_cell(tmp_path, "two", subject="bnh", target=HOSTILE, success=(0.75, 1.0), lpips=(0.3, 0.4)),
    ]


def test_the_page_stands_alone_and_shows_every_cell(cells, tmp_path):
    page = Page(write_report(cells, tmp_path / "runs" / "a b" / "report.html", "demo"))
    assert page.sources == []  # pictures come from the page's own thumbnails
    local = [link for link in page.links if not link.startswith(("#", "data:,"))]
    assert all(not re.match(r"[a-z]+:|/", link) for link in local)
    assert all((tmp_path / "runs" / "a b" / unquote(link)).exists() for link in local)
    assert sum(link.endswith("-with.png") for link in local) == 8
    assert len(json.loads(page.blocks["thumbnails"])) == 12  # of 24 pictures, two cells show the same
    assert "eating a cake" in page.text and "svg" in page.tags and "88%" in page.text  # 7 of 8, counted by hand
    assert re.search(r"Measured with: .*trunk@2", page.text)


def test_what_a_user_typed_is_only_ever_text(cells, tmp_path):
    page = Page(write_report(cells, tmp_path / "report.html", HOSTILE))
    assert page.tags.count("script") == 3 and "b" in page.tags and page.sources == []
    assert page.text.count(HOSTILE) >= 4
    assert HOSTILE.casefold() in json.loads(page.blocks["index"])[1]["text"]


def test_every_picture_has_a_command_that_draws_it():
    command = shlex.join(["python", "sweep.py", "style=van gogh's", "seeds=[0,1]", "edit.weights={cake:2}"])
    words = shlex.split(seed_commands(command, [3])[0])
    assert words == ["python", "sweep.py", "style=van gogh's", "edit.weights={cake:2}", "seeds=[3]"]


def test_the_pareto_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    points = [tuple(p) for p in np.round(rng.random((60, 2)), 1)]
    front = pareto(points)
    for index, (x, y) in enumerate(points):
        beaten = any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)
        assert beaten or any(points[i] == (x, y) for i in front)
        assert not (beaten and index in front)
    assert pareto([(0.2, 1.0), (0.2, 1.0)]) == [0]


def test_a_verdict_needs_an_interval_without_zero():
    sure = {"mean": -0.2, "low": -0.3, "high": -0.1}
    assert verdict(sure, "lower") == "better" and verdict(sure, "higher") == "worse"
    assert verdict({**sure, "high": 0.0}, "lower") == verdict(sure, "neutral") == "open"
    assert verdict({"mean": -0.2, "low": None, "high": None}, "lower") == "open"  # one pair
    assert interval("edit_success", {"mean": 0.25, "low": 0.0, "high": 0.5}) == "+25 pt [+0, +50]"


def test_a_page_claims_structure_only_where_the_interval_does(tmp_path):
    sure = Page(write_report([write_cell(tmp_path, "sure")], tmp_path / "sure.html", "t"))
    undecided = write_cell(tmp_path, "undecided", lpips=(0.3, 0.3), spread=0.5)
    open_ = Page(write_report([undecided], tmp_path / "open.html", "t"))
    assert "keeps more structure" in sure.text and "not measurably" not in sure.text
    assert "does not measurably keep more" in open_.text


def test_differences_are_placed_in_order_and_many_cells_are_pooled(tmp_path):
    folders = [write_cell(tmp_path, f"c{i}", lpips=(0.1 * i, 0.3)) for i in range(6)]
    done, _ = read_cells(folders)
    plot = difference_plot(done, range(6), "lpips")
    means = [row.mean for row in plot.rows]
    assert means == sorted(means) and 0 < means[0] < plot.zero < means[-1] < 100
    verdicts = [row.verdict for row in plot.rows]
    assert verdicts[:3] + verdicts[4:] == ["better"] * 3 + ["worse"] * 2
    assert all(len(row.dots) == row.n == 4 for row in plot.rows)
    (row,) = difference_plot(done * (MOST_ROWS // 6 + 1), range(MOST_ROWS + 2), "lpips").rows
    assert row.number is None and row.n == 4 * 6 * (MOST_ROWS // 6 + 1) and row.dots == []
    assert difference_plot(done, range(6), "clip_t") is None


def test_the_table_sorts_by_numbers_and_corrects_p_over_itself(tmp_path):
    done, _ = read_cells([write_cell(tmp_path, f"c{i}", lpips=(0.1 * i, 0.3)) for i in range(3)])
    table = cell_table(done, range(3))
    assert [len(line.values) for line in table.lines] == [len(table.columns)] * 3
    at = table.columns.index("LPIPS to the source ↓: with / without")
    assert [line.values[at].order for line in table.lines] == [cell.mean("lpips", "with") for cell in done]
    assert table.lines[0].values[-1].text == "0.375"  # 0.125, the smallest of four pairs, times three


def test_outcomes_are_read_from_the_rows():
    assert outcome({"edit_success": "1.0", "lpips": "0.217"}) == "✓ edited · LPIPS 0.22"
    assert outcome({"edit_success": "", "lpips": ""}) == ""


def noise(seed, arm):
    values = np.random.default_rng([seed, len(arm)]).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_thumbnails_stay_in_their_budget_and_are_remembered(tmp_path, monkeypatch):
    folder = write_cell(tmp_path, "noisy", picture=noise)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("images/*.png"))]
    largest = choose({folder: names}, 10**9)
    assert largest == SIZES[0] and choose({folder: names}, 12 * 1500) == SIZES[-1]
    thumbnails = Thumbnails(HTML + HTML_OF_CELL + 13 * HTML_OF_PICTURE + 12 * 2000)
    for name in [*names, "images/missing.png"]:
        thumbnails.add(folder, name)
    pictures, places = thumbnails.encode()
    assert sum(map(len, pictures)) < 12 * 1500 * 4 / 3 and set(places) == {(folder, name) for name in names}
    monkeypatch.setattr("likeness.report.thumbnails.encode", None)  # nothing may be encoded again
    monkeypatch.setattr("likeness.report.thumbnails.choose", lambda *_: SIZES[-1])
    assert thumbnails.encode() == (pictures, places)
    noise(9, "source").save(folder / names[0])
    with pytest.raises(TypeError):
        thumbnails.encode()


def test_a_picture_that_cannot_be_read_is_said_to_be_missing(cells, tmp_path):
    (cells[0] / "images" / "seed0002-with.png").write_bytes(b"torn")
    (cells[0] / "images" / "seed0003-with.png").unlink()
    text = write_report(cells, tmp_path / "report.html", "demo").read_text(encoding="utf-8")
    assert text.count(": picture missing") == 2


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
    assert len(measured_alike(done)) == 2
    with pytest.raises(ValueError, match="different backbones"):
        pooled(done, "clip_t")
    page = Page(write_report(folders, tmp_path / "report.html", "demo"))
    assert len(re.findall("Measured with [a-z]", page.text)) == 2 and page.tags.count("svg") == 2


def test_failed_and_foreign_folders_are_listed(cells, tmp_path, capsys):
    write_cell(tmp_path, "broken", status="failed", error="CUDA out of memory")
    (tmp_path / "foreign").mkdir()
    folders = [*cells, tmp_path / "broken", tmp_path / "foreign"]
    page = Page(write_report(folders, tmp_path / "report.html", "demo"))
    assert "CUDA out of memory" in page.text and "unreadable" in page.text
    print_table(*read_cells(folders))
    shown = capsys.readouterr().out
    assert "tuki" in shown and "cake" in shown and "failed" in shown


def test_the_terminal_shows_the_same_numbers_and_prompts_as_text(tmp_path, capsys):
    folders = [write_cell(tmp_path, "one", target="[/red] [bold]cake"), write_cell(tmp_path, "two", lpips=(0.3, 0.4))]
    print_table(*read_cells(folders))
    shown = capsys.readouterr().out
    done, _ = read_cells(folders)
    assert "[/red] [bold]cake" in shown and interval("lpips", done[0].difference("lpips")) in shown
    (last,) = [line for line in shown.splitlines() if "2 cells" in line]
    assert interval("lpips", pooled(done, "lpips")["difference"]) in last and " 8 " in last


def test_a_page_over_failed_cells_only_is_a_page(tmp_path):
    folder = write_cell(tmp_path, "broken", status="failed", error="disk full")
    assert "disk full" in Page(write_report([folder], Path(tmp_path) / "report.html", "demo")).text


def test_changed_words_are_marked():
    assert highlighted("eating a burger", "eating a cake") == (
        "eating a <del>burger</del>",
        "eating a <mark>cake</mark>",
    )


def test_cells_that_differ_in_a_window_are_told_apart(tmp_path, capsys):
    windows = ([0.0, 0.4], [0.0, 0.8])
    folders = [
        write_cell(tmp_path, f"c{i}", config={"edit": {"cross_replace_steps": window}, "question": "why?"})
        for i, window in enumerate(windows)
    ]
    page = Page(write_report(folders, tmp_path / "report.html", "demo"))
    assert "tuki · local · cake, cross 0–0.4" in page.text and "cake, cross 0–0.8" in page.text and "why?" in page.text
    print_table(*read_cells(folders))
    assert "cross 0–0.8" in capsys.readouterr().out


def test_of_very_many_cells_the_table_shows_some_and_counts_the_rest(tmp_path, capsys):
    (cell,), _ = read_cells([write_cell(tmp_path, "cell0")])
    print_table([replace(cell, folder=tmp_path / f"cell-{number:04d}") for number in range(MOST_LINES + 7)])
    shown = capsys.readouterr().out
    assert shown.count("tuki") == MOST_LINES and "7 more in the report" in shown and "107 cells" in shown


def test_a_record_without_its_parts_is_named_and_the_others_are_read(tmp_path):
    whole, torn = write_cell(tmp_path, "whole"), write_cell(tmp_path, "torn")
    (torn / "record.json").write_text(json.dumps({"format": 1, "status": "done"}))
    bare = write_cell(tmp_path, "bare")
    (bare / "summary.json").write_text("{}")
    cells, failed = read_cells([torn, bare, whole])
    assert [cell.folder for cell in cells] == [whole]
    assert "record.json has no axes" in failed[0].error and "summary.json has no metrics, n" in failed[1].error


def test_which_way_a_metric_points_is_said_by_the_cells_that_have_it(tmp_path):
    without, having = write_cell(tmp_path, "without"), write_cell(tmp_path, "having")
    record = json.loads((without / "record.json").read_text())
    record["directions"].pop("lpips")
    (without / "record.json").write_text(json.dumps(record))
    assert direction_of(read_cells([without, having])[0], "lpips") == "lower"
