"""Cells whose source is a photo: which one, what its prompt is, what is drawn from it, what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny_study
import torch
from PIL import Image

from likeness import config, models, replay
from likeness.errors import InputError
from likeness.paperdoll.photos import FOLDER
from likeness.report import records
from likeness.report.by_photo import grouped, together
from likeness.report.cards import facets
from likeness.report.commands import seed_commands
from likeness.report.page import write_page
from likeness.report.parquet import TEXTS, write_parquet
from likeness.report.records import pairs, read_cells
from likeness.report.table import print_table
from likeness.report.varying import told_apart
from likeness.report.weights import weight_curves
from likeness.results import markdown, tidy
from likeness.study import judged, photo
from likeness.study.cell import run_cell
from likeness.study.dry_run import print_total
from likeness.study.idle import refuse_idle
from likeness.study.overview import overview
from likeness.study.plan import plan_edit
from likeness.subjects import load_photos

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")
STYLE = ("edit=global", "style=drawing")
OWN_WORDS = ("edit=custom", "source_prompt=photo of a cake", "target_prompt=drawing of a cake")


def cell_of(out, *overrides):
    overrides = ("finetuned=base", *overrides)
    return run_cell(tiny_study.sweep_of(out, *overrides), out / "run", list(overrides))


def record_of(cell):
    return json.loads((cell / "record.json").read_text())


def picture(cell, arm):
    return np.asarray(Image.open(cell / "images" / f"seed0000-{arm}.png")).astype(int)


@pytest.fixture(scope="module")
def cell(world, tmp_path_factory):
    return cell_of(tmp_path_factory.mktemp("out"), *STYLE, "photo=07")


@torch.no_grad()
def kept_by_the_autoencoder(file, side):
    pipe = models.load_pipeline(models.ModelSource("paperdoll", "embedded"))
    latents = pipe.vae.encode(load_photos([file], side) * 2 - 1).latent_dist.mean
    return (pipe.vae.decode(latents).sample[0].permute(1, 2, 0).clamp(-1, 1).numpy() + 1) * 127.5


def test_the_source_is_the_photo_and_its_caption_the_prompt(cell):
    record = record_of(cell)
    assert record["source_prompt"] == "photo of a tuki justin bieber in a forest"
    assert record["target_prompt"] == "drawing of a tuki justin bieber in a forest"
    assert record["axes"]["photo"] == "07.png" and record["seeds"] == [0] and len(record["photo"]) == 12
    assert cell.name.startswith("tuki-global-drawing_07.png-")
    source = picture(cell, "source")
    assert np.abs(source - kept_by_the_autoencoder(FOLDER / "tuki" / "07.png", len(source))).max() <= 1
    arms = [picture(cell, arm) for arm in ("source", "without", "with")]
    assert all(np.abs(a - b).max() > 1 for a, b in zip(arms, arms[1:] + arms[:1], strict=True))


def test_it_is_drawn_once_and_replays_to_the_same_bits(cell, tmp_path, capsys):
    out = cell.parents[1]
    assert cell_of(out, *STYLE, "photo=7") == cell, "the seventh photo is that one"
    assert "already there" in capsys.readouterr().out
    assert cell_of(out, *STYLE, f"photo={FOLDER / 'tuki' / '07.png'}") == cell, "and so is the file"
    capsys.readouterr()
    replay.main([str(cell)])
    assert capsys.readouterr().out == "identical: 3 pictures\n"


def test_a_photo_of_ones_own(world, tmp_path):
    mine = tmp_path / "me.jpg"
    Image.open(FOLDER / "bnh" / "05.png").resize((300, 200)).save(mine)
    by_prompt = cell_of(tmp_path, *OWN_WORDS, f"photo={mine}")
    assert record_of(by_prompt)["axes"]["photo"] == "me.jpg" and picture(by_prompt, "source").shape == (128, 128, 3)
    mine.with_suffix(".txt").write_text("photo of a burger")
    by_caption = cell_of(tmp_path, *STYLE, f"photo={mine}")
    assert record_of(by_caption)["target_prompt"] == "drawing of a burger"
    mine.with_suffix(".txt").write_text("photo of a lasagne")
    assert max(replay.replay(by_caption)["pictures"].values()) == 0, "the record holds the prompt"
    Image.open(FOLDER / "bnh" / "06.png").save(mine)
    replayed = replay.replay(by_caption)
    assert replayed["pictures"]["seed0000-source.png"] > 1 and replayed["changed"][0].startswith("photo: ")
    assert cell_of(tmp_path, *STYLE, f"photo={mine}") != by_caption


def test_plain_pictures_of_a_photo_are_its_own(world, tmp_path):
    """The same target prompt from drawn noise, from a photo, and from the same photo inverted as something else."""
    prompts = ("edit=custom", "target_prompt=drawing of a cake")
    drawn = cell_of(tmp_path, *prompts, "source_prompt=photo of a cake")
    one, other = (cell_of(tmp_path, *prompts, f"source_prompt={p}", "photo=1") for p in ("photo of a cake", "a cake"))
    arms = [picture(cell, "without") for cell in (drawn, one, other)]
    assert all(np.abs(a - b).max() > 1 for a, b in zip(arms, arms[1:] + arms[:1], strict=True))
    again = cell_of(tmp_path, *prompts, "source_prompt=photo of a cake", "photo=1", "edit.self_replace_steps=0.8")
    assert again != one and (picture(again, "without") == picture(one, "without")).all()
    assert record_of(again)["drawn"] == 2, "its plain picture was there"


def test_a_word_reweighted_in_a_photo_is_held_against_its_noise_and_prompt(world, tmp_path):
    """With the source's own prompt, re-prompting draws it again; of a photo it draws what the noise makes of it."""
    cell = cell_of(tmp_path, "edit=reweight", "word=forest", "weight=2", "photo=07")
    assert np.abs(picture(cell, "source") - picture(cell, "without")).max() > 1


def test_the_command_of_a_photos_picture_is_accepted(cell):
    (command,) = seed_commands(record_of(cell)["command"], [0])
    assert command.endswith("photo=07 'seeds=[0]'")
    assert cell_of(cell.parents[1], *STYLE, "photo=07", "seeds=[0]") == cell


def settled(*overrides):
    return photo.settled(tiny_study.sweep_of("out", *overrides))


def test_what_names_a_photo(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("10.png", "2.png", "a.png", "a.jpg")):
        shutil.copy(FOLDER / "tuki" / f"0{number + 1}.png", folder / name)
    given = ("1", "02", "4", "2.png", "a.jpg", "10.png")
    found = [settled(*STYLE, f"subject.photos={folder}", f"photo={text}").photo for text in given]
    assert found == ["10.png", "2.png", "a.png", "2.png", "a.jpg", "10.png"], "a number is a place, never a name"
    with pytest.raises(
        InputError, match="photo=10 is neither a file nor a photo of tuki; those are 1 to 4, or by name"
    ):
        settled(*STYLE, f"subject.photos={folder}", "photo=10")
    with pytest.raises(InputError, match=r"photo=a is several: a.jpg, a.png; give one with its ending"):
        settled(*STYLE, f"subject.photos={folder}", "photo=a")
    sweep = settled(*STYLE, f"subject.photos={folder}", "photo=1")
    assert plan_edit(sweep).source_prompt == "photo of tuki justin bieber", "as it was trained on"
    assert photo.settled(sweep) == sweep


@pytest.mark.parametrize("given", ["13", "0", "nobody", "/nowhere/me.jpg"])
def test_a_photo_that_is_not_there(given):
    with pytest.raises(
        InputError, match=r"is neither a file nor a photo of tuki; those are 1 to 12, or by name 01.png"
    ):
        settled(*STYLE, f"photo={given}")


def test_a_file_that_is_no_photo(tmp_path):
    (tmp_path / "me.jpg").write_text("no picture")
    with pytest.raises(InputError, match=r"cannot read me.jpg"):
        settled(*OWN_WORDS, f"photo={tmp_path / 'me.jpg'}")
    Image.open(FOLDER / "tuki" / "01.png").save(tmp_path / "you.png")
    with pytest.raises(InputError, match=r"has no caption: write what it shows into .*you.txt, or give edit=custom"):
        settled(*STYLE, f"photo={tmp_path / 'you.png'}")
    with pytest.raises(InputError, match="edit=custom needs a source prompt"):
        plan_edit(settled("edit=custom", "target_prompt=a", f"photo={tmp_path / 'you.png'}"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=[0,1]", r"seeds=\[0,1\] does nothing with photo, which is one; leave it out"),
        (
            "edit.source=photo of a cake",
            "does nothing with photo, whose caption is the source prompt; use edit=custom",
        ),
        ("subject.prompts.global=a photo", "does nothing with photo, whose caption is the source prompt"),
    ],
)
def test_options_that_do_nothing_beside_a_photo(override, message):
    with pytest.raises(InputError, match=message):
        refuse_idle(tiny_study.sweep_of("out", *STYLE, "photo=1", override), [*STYLE, "photo=1", override])


def test_what_photos_without_a_caption_show_may_be_said_beside_a_model_that_is_there():
    asked = ["finetuned=base", "subject.instance_prompt=photo of a cake"]
    refuse_idle(tiny_study.sweep_of("out", *STYLE, "photo=1", *asked), asked)
    with pytest.raises(InputError, match="instance_prompt=photo of a cake does nothing with finetuned=base"):
        refuse_idle(tiny_study.sweep_of("out", *STYLE, *asked), asked)


def test_a_sampler_that_cannot_invert_is_refused_at_once():
    with pytest.raises(InputError, match=r"inverted with DDIM, and sampler.scheduler is dpm: use sampler=ddim"):
        tiny_study.sweep_of("out", *STYLE, "photo=1", "sampler=dpm")


def test_a_dry_run_says_which_photo(world, tmp_path, capsys):
    assert cell_of(tmp_path, *STYLE, "photo=07", "dry_run=true") is None
    print_total()
    shown = capsys.readouterr().out
    assert "tuki · global · drawing 07.png · refine\n  source  photo of a tuki justin bieber in a forest" in shown


@pytest.fixture(scope="module")
def swept(world, tmp_path_factory):
    """Two edits of three photos, and one of a drawn picture, as a sweep leaves them."""
    out = tmp_path_factory.mktemp("swept")
    asked = [(f"style={style}", f"photo={number}") for style in ("drawing", "watercolor") for number in (5, 6, 7)]
    for number, overrides in enumerate([*asked, ("style=drawing",)]):
        overrides = ("finetuned=base", "edit=global", *overrides)
        run_cell(tiny_study.sweep_of(out, *overrides), out / "run" / str(number), list(overrides))
    return out


def test_photos_are_sources_of_their_own(swept):
    cells = [changed(cell, source_prompt="the same") for cell in cells_of(swept)]
    assert len({source for *_, source in pairs(cells, "lpips")}) == 3
    assert [cell.label for cell in cells] == ["drawing, 05.png", "drawing, 06.png", "drawing, 07.png"]
    assert facets(cells[0])["photo"] == "05.png"


def test_photos_are_one_line_of_a_table(swept, capsys):
    done, _ = read_cells(sorted((swept / "cells").iterdir()))
    lines = told_apart(together(done))
    assert [(cell.label, cell.summary["n"]) for cell in lines] == [
        ("drawing", 1), ("drawing, 3 photos", 3), ("watercolor, 3 photos", 3),
    ]  # fmt: skip
    for line in lines[1:]:
        members = [cell for cell in done if cell.axes["photo"] and cell.axes["style"] == line.axes["style"]]
        mean = np.mean([cell.summary["metrics"]["lpips"]["difference"]["mean"] for cell in members])
        assert line.difference("lpips")["mean"] == pytest.approx(mean) and line.difference("lpips")["n"] == 3
        assert line.mean("lpips", "with") == pytest.approx(np.mean([cell.mean("lpips", "with") for cell in members]))
    assert markdown(done).count("| tuki | global | drawing, 3 photos | 3 |") == 1
    print_table(done)
    shown = capsys.readouterr().out
    assert "watercolor, 3 photos" in shown and "06.png" not in shown and "7 cells, mean over 4" in shown


def test_the_figure_shows_some_of_the_photos(swept, tmp_path, monkeypatch):
    shown = {}

    def make_grid(rows, labels, columns, cell):
        shown.update(rows=rows, labels=labels, columns=columns)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("likeness.study.overview.make_grid", make_grid)
    overview(swept / "run", None, tmp_path / "picture.png", seeds=1)
    assert [len(row) for row in shown["rows"]] == [3, 3, 3] and shown["columns"][1] == "re-prompting, same seed"
    assert shown["labels"][:2] == ["tuki -> drawing, 3 photos", "tuki -> watercolor, 3 photos"]


def cells_of(swept, style="drawing"):
    done, _ = read_cells(sorted((swept / "cells").iterdir()))
    return [cell for cell in done if cell.axes["photo"] and cell.axes["style"] == style]


def sizes(cells):
    return [len(group) for group in grouped(cells)]


def changed(cell, folder="b", **record):
    return replace(cell, record=cell.record | record, folder=cell.folder / folder)


def test_only_what_a_photo_sets_apart_is_pooled(swept):
    photos = cells_of(swept)
    assert sizes([*photos, changed(photos[0], weights="else")]) == [3, 1]
    config = photos[0].record["config"]
    narrow = config | {"edit": config["edit"] | {"cross_replace_steps": [0, 0.4]}}
    assert sizes([changed(photos[0], config=narrow), *photos[1:]]) == [1, 2]
    assert sizes([*photos, changed(photos[1])]) == [3, 1], "the same photo once more, for another display"
    assert sizes([changed(cell, target_prompt=cell.record["source_prompt"]) for cell in photos]) == [1, 1, 1]
    custom = [
        changed(c, axes=c.axes | {"style": None, "edit": "custom"}, target_prompt=t) for c in photos for t in "ab"
    ]
    lines = told_apart(together([replace(cell, folder=cell.folder / str(n)) for n, cell in enumerate(custom)]))
    assert [line.label for line in lines] == ["a, 3 photos", "b, 3 photos"]
    named_alike = [changed(cell, axes=cell.axes | {"photo": "x.png"}) for cell in photos]
    assert [line.label for line in told_apart(together(named_alike))] == ["drawing, 3 photos"]


def test_the_judge_takes_photos_for_pictures_of_one_edit(swept):
    class Judge:
        def read(self, pictures):
            return {"style": torch.zeros(len(pictures), 8), "head": torch.zeros(len(pictures), 2)}

    done, _ = read_cells(sorted((swept / "cells").iterdir()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judged, "compare", lambda *_: {"edit_success": [1.0]})
        rows = judged.judged_rows(done, Judge())
    assert len(rows) == 2 * len(done) and len({row["edit"] for row in rows}) == 3
    assert len({(row["source"], row["seed"]) for row in rows}) == 4


def test_reweighted_photos_are_readings_of_one_curve(swept):
    def weighted(cell, weight, amount):
        rows = [row | {"blossom": str(amount)} for row in cell.rows]
        metrics = {"blossom": {"with": amount}}
        axes = cell.axes | {"edit": "reweight", "style": None, "word": "blossom", "weight": weight}
        return replace(
            cell, rows=rows, summary=cell.summary | {"metrics": metrics}, record=cell.record | {"axes": axes}
        )

    first, second, third = cells_of(swept)
    read = [(first, 0.0, 0.1), (first, 1.0, 0.2), (first, 2.0, 0.3), (second, 0.0, 0.8), (second, 2.0, 0.9)]
    read += [(third, weight, 0.5 - 0.1 * weight) for weight in (0.0, 1.0, 2.0)]
    (curve,) = weight_curves([weighted(*one) for one in read])
    assert curve.n == 2 and curve.rank == 0, "over the photos drawn with every weight: one rises, one falls"
    assert curve.amounts == pytest.approx({0.0: 1.4 / 3, 1.0: 0.6 / 2, 2.0: 1.5 / 3})


def test_the_page_names_the_photo(swept):
    page = write_page(cells_of(swept), [], swept / "page.html", "photos").read_text()
    assert "<figcaption>06.png<details>" in page and "3 edits of photos" in page and "seed 0<details>" not in page
    assert page.count('<option value="07.png">07.png</option>') == 1


def test_photos_in_parquet(swept, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (the parquet extra)")
    done, _ = read_cells(sorted((swept / "cells").iterdir()))
    write_parquet(tidy(done), tmp_path / "a.parquet")
    assert set(parquet.read_table(tmp_path / "a.parquet").column("photo").to_pylist()) >= {"05.png", "07.png"}
    assert set(records.AXES) - set(TEXTS) == {"weight"}, "all but numbers are texts"
    assert records.AXES == config.RECORDED_AXES


def test_what_may_not_be_meant(world, tmp_path):
    mine = tmp_path / "me.jpg"
    Image.open(FOLDER / "bnh" / "05.png").resize((96, 80)).save(mine)
    said = photo.photo_notices(tiny_study.sweep_of("out", *OWN_WORDS, f"photo={mine}"))
    assert [text.partition(": ")[2] for text in said] == [
        "the embedded model draws paper dolls only and cannot draw a real photo; use model=sd15.",
        "it has 96x80 pixels, and is enlarged to 128x128.",
        "of its 96x80 pixels the square in the middle is taken.",
    ]
    assert not photo.photo_notices(tiny_study.sweep_of("out", *STYLE, "photo=1"))
