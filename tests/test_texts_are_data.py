"""Whatever a prompt or style holds, it stays text: in paths, in the page, in CSV and Markdown, for any reader."""

import csv
import functools
import io
import json
import re
import string
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny_study
from cells_on_disk import write_cell
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from likeness import results
from likeness.config import (
    Edit,
    Method,
    Model,
    Sampler,
    Schedule,
    Subject,
    Sweep,
    from_plain,
    slug,
    to_plain,
    to_sweep,
)
from likeness.errors import InputError
from likeness.report.grid import make_grid
from likeness.report.page import write_report
from likeness.report.records import read_cells
from likeness.report.spreadsheet import FORMULA, is_number, read_rows, write_rows
from likeness.study import cells
from likeness.study.draw import PictureCache
from likeness.study.plan import plan_edit

HOSTILE = [
    "../../../etc/passwd", "a/b\\c", "..", "~/x", "con.png", "\"quoted\" 'twice' `thrice` $(rm -rf .)",
    "🌸🧑🏽‍🎨 émigré", "x" * 500, "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>",
    "<!-- --> ]]> &amp; &lt;", '=HYPERLINK("http://x","y")', "+1+1", "-2+3", "@SUM(A1)", "'=1", "a | b", "a,b;c\td",
    "{{7*7}} ${subject.name} {% x %}", "%s %d %(x)s {0}", "\u202eright to left", "null", "1e999", "-inf", "# heading",
    "[x](javascript:alert(1))",
]  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=80),
    st.text(string.punctuation + " \t\nab", min_size=1, max_size=500),
).filter(lambda text: text.split())
PROMPT = TEXT.filter(lambda text: text != "???")  # OmegaConf's word for a value that is missing
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sweep_of(text: str, axis: str) -> Sweep:
    """Return an edit whose style or target prompt is the text."""
    common = {
        "subject": Subject(name="tuki", identifier="tuki", class_word="justin bieber", photos="embedded:tuki"),
        "model": Model(name="paperdoll", source="embedded"),
        "method": Method(name="full"),
        "schedule": Schedule(name=text, num_train_steps=2, learning_rate=1e-4),
        "sampler": Sampler("ddim", "ddim"),
    }
    if axis == "target_prompt":
        edit = Edit(name="custom", operator="refine", uses=["source_prompt", "target_prompt"])
        return Sweep(edit=edit, source_prompt="photo of a man", target_prompt=text, **common)
    phrases = {"style": {"photo": "photo"}}
    edit = Edit(name="global", operator="refine", uses=["style"], source="photo of a man", phrases=phrases)
    return Sweep(edit=edit, style=text, **common)


def changes_nothing(text: str, axis: str) -> bool:
    """Say whether the text asks for what the source shows: the one thing that is refused of a valid text."""
    asked = " ".join(text.split()) if axis == "target_prompt" else f"{text} of a man"
    return asked.lower() == "photo of a man"


def test_asking_for_what_is_there_is_refused():
    assert changes_nothing("PHOTO", "style") and changes_nothing(" photo of  a man", "target_prompt")
    for text, axis in (("PHOTO", "style"), (" photo of  a man", "target_prompt")):
        with pytest.raises(InputError, match="this edit changes nothing"):
            plan_edit(sweep_of(text, axis))


@QUICK
@given(TEXT, st.sampled_from(["style", "target_prompt"]))
def test_a_cells_folder_is_one_short_name_whatever_is_asked(text, axis):
    sweep = sweep_of(text, axis)
    if changes_nothing(text, axis):
        with pytest.raises(InputError, match="this edit changes nothing"):
            plan_edit(sweep)
        return
    plan = plan_edit(sweep)
    identity = cells.cell_identity(sweep, plan, "w", "float32", {})
    name = cells.cell_name(sweep, plan, identity)
    assert len(name) < 200 and set(name) <= set(string.ascii_lowercase + string.digits + "._+-")
    assert Path("cells", name).parts == ("cells", name) and not name.startswith(".")
    longer = sweep_of(f"{text} more", axis)
    other = cells.cell_identity(longer, plan_edit(longer), "w", "float32", {})
    assert name != cells.cell_name(sweep, plan, other)


@functools.cache
def composed() -> Sweep:
    """Return an edit between two given prompts, as Hydra composes it."""
    words = 'source_prompt="photo of a man"', 'target_prompt="photo"'
    return tiny_study.sweep_of(Path("out"), "edit=custom", *words)


@QUICK
@given(PROMPT)
@example("photo ${subject.name} man")
@example("${x}")
@example("\\\\${x} \\${subject.name} ${ \\")
@example("${oc.env:HOME}")
def test_a_prompt_is_the_same_after_the_record_and_before(text):
    sweep = composed()
    sweep = replace(sweep, target_prompt=text, edit=replace(sweep.edit, phrases={"style": {"own": text}}))
    recorded = json.loads(json.dumps(to_plain(sweep)))
    assert recorded["target_prompt"] == text
    again = from_plain(recorded)
    assert again == sweep and again.target_prompt == text and again.edit.phrases["style"]["own"] == text


@settings(QUICK, max_examples=15)
@given(PROMPT)
@example("photo ${subject.name} man")
@example("\\${x} and \\\\${seeds}")
def test_a_prompt_that_hydra_hands_over_is_resolved_once(text):
    cfg = OmegaConf.create(to_plain(composed()))
    cfg.target_prompt = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # as a person escapes it for Hydra
    assert to_sweep(cfg).target_prompt == text


def test_a_prompt_on_the_command_line_keeps_what_is_escaped():
    words = r'target_prompt="photo \${subject.name} \${x} man"'
    sweep = tiny_study.sweep_of(Path("out"), "edit=custom", 'source_prompt="photo of a man"', words)
    assert sweep.target_prompt == "photo ${subject.name} ${x} man"
    assert from_plain(to_plain(sweep)) == sweep


@QUICK
@given(TEXT)
def test_slugs_and_cached_pictures_stay_in_their_folder(text):
    assert 0 < len(slug(text)) <= 48 and set(slug(text)) <= set(string.ascii_lowercase + string.digits + "._+-")
    assert slug(text)[0] not in "._"
    path = PictureCache(Path("pictures"), {"a": text}).path(text, 3)
    assert path.parts[0] == "pictures" and len(path.parts) == 3 and len(path.parts[1]) == 8


@QUICK
@given(st.lists(TEXT, min_size=1, max_size=4), st.floats(allow_nan=False, allow_infinity=False))
def test_rows_come_back_as_they_were_and_no_spreadsheet_computes_them(tmp_path, texts, value):
    file = tmp_path / "rows.csv"
    write_rows(file, [{"prompt": text, "value": value} for text in texts])
    assert [row["prompt"] for row in read_rows(file)] == texts
    assert [float(row["value"]) for row in read_rows(file)] == [value] * len(texts)
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            assert not row["prompt"].startswith(FORMULA) or is_number(row["prompt"])
    write_rows(tmp_path / "again.csv", read_rows(file))
    assert (tmp_path / "again.csv").read_bytes() == file.read_bytes()


class Tags(HTMLParser):
    """Collects what a browser would act on, and the text it would show."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements, self.data = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(sorted(name for name, _ in attrs))))

    def handle_data(self, data):
        self.data.append(data)


def page_of(folder: Path, text: str) -> Tags:
    """Return the page over one cell that asks for the text."""
    made = write_cell(folder / "cells", f"cell{len(list(folder.glob('cells/*')))}", target="cake")
    record = json.loads((made / "record.json").read_text())
    record |= {"target_prompt": text, "notices": [text], "command": text}
    record["axes"]["target"] = text
    (made / "record.json").write_text(json.dumps(record))
    return Tags(write_report([made], folder / "report.html", text).read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_prompt_adds_nothing_to_the_page_but_its_text(tmp_path, text):
    plain, hostile = page_of(tmp_path, "plain words"), page_of(tmp_path, text)
    assert set(hostile.elements) <= set(plain.elements) | {("del", ()), ("mark", ())}
    assert [e for e in hostile.elements if e[0] == "script"] == [e for e in plain.elements if e[0] == "script"]
    assert not any(name.startswith("on") for _, names in hostile.elements for name in names)
    shown = " ".join("".join(hostile.data).split())
    assert " ".join(text.split())[:40] in shown


@settings(QUICK, max_examples=25)
@given(TEXT)
@example("a | b\n| c | d |")
def test_a_markdown_table_keeps_its_columns(tmp_path, text):
    folder = write_cell(tmp_path, f"cell{len(list(tmp_path.iterdir()))}", target=text)
    done, failed = read_cells([folder])
    assert not failed and done[0].axes["target"] == text
    rows = [line for line in results.markdown(done).splitlines() if line.startswith("|")]
    header = rows[0].count("|")
    assert rows[2].replace("\\|", "").count("|") == header
    assert results.write_csv(done, tmp_path / "all.csv").read_text(encoding="utf-8")


@settings(QUICK, max_examples=15)
@given(TEXT)
def test_a_grid_can_be_labelled_with_it(text):
    from PIL import Image

    grid = make_grid([[Image.fromarray(np.zeros((8, 8, 3), np.uint8))]], [text], [text], title=text)
    assert grid.width > 0 and grid.save(io.BytesIO(), "PNG") is None


def test_a_prompt_that_is_no_text_is_refused():
    with pytest.raises(InputError, match="not valid text"):
        plan_edit(sweep_of("caf\udce9", "target_prompt"))
