"""Cells and fine-tuned models judged: figures' bars, re-weighting, identity among others, bleeding."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cells_on_disk
import pytest
import tiny_study
import torch
from PIL import Image
from remembering import Remembering

from likeness.errors import InputError
from likeness.paperdoll import card, photos, world
from likeness.paperdoll.judge import Judge
from likeness.report import notebook
from likeness.study import evaluate_cells, evaluate_subjects, judged, metric_agreement

SOURCE = world.Factors(style="painting", food="burger")
MODEL = {"model": "paperdoll"}


def cell_of(root, name, judge, factors_of, **more):
    """Write a cell whose pictures are drawn from `factors_of(seed, arm)`."""

    def picture(seed, arm):
        return Image.fromarray(judge.draw(replace(factors_of(seed, arm), background=seed)))

    more["axes"] = MODEL | more.get("axes", {})
    return cells_on_disk.write_cell(root, name, picture=picture, **more)


def local_edit(seed, arm):
    """The edit always happens; without Prompt-to-Prompt the head moves 6 px, with it 1 px. One seed fails."""
    if arm == "source" or (seed == 3 and arm == "with"):
        return SOURCE
    return replace(SOURCE, food="cake", head_x=0.5 + {"without": 6, "with": 1}[arm] / 128)


def test_a_figure_is_judged_by_the_pictures_not_by_the_cells_own_probe(tmp_path):
    judge = Remembering()
    folder = cell_of(tmp_path, "cake", judge, local_edit, success=(0.0, 0.0), lpips=(0.2, 0.5))
    found = evaluate_cells.evaluate_figures([tmp_path], judge)[tmp_path.name]
    assert found["pairs"] == 4 and found["edit happened with"] == 0.75 and found["edit happened without"] == 1
    assert found["happened and LPIPS lower"] == 0.75 and found["lowest single edit"] == 0.75
    assert found["head moved without px"] == pytest.approx(6, abs=0.01)
    assert found["head moved with px"] == pytest.approx(0.75, abs=0.01)
    assert found["LPIPS difference"]["mean"] == pytest.approx(-0.3, abs=0.02) and found["single edits"] == {
        "cake": 0.75
    }
    text = evaluate_cells.table({"figure": found})
    assert "| figure | 4 | 75.0% / 100.0% | 75.0% | 75.0% |" in text and "0.8 / 6.0 px" in text
    rows = judged.judged_rows(judged.finished_cells([folder]), judge)
    assert len(rows) == 8 and {row["arm"] for row in rows} == {"with", "without"}
    assert all(row["true_other_changed"] == 0 for row in rows)


def test_the_judged_table_is_written_into_its_page(tmp_path, monkeypatch, capsys):
    judge, page = Remembering(), tmp_path / "README.md"
    older, newer = (tmp_path / f"2026-01-0{day}_10-00-00_002_local" for day in (1, 2))
    cell_of(older, "cake", judge, lambda seed, arm: SOURCE)
    cell_of(newer, "cake", judge, local_edit)
    monkeypatch.setattr("likeness.paperdoll.judge.load_judge", lambda: judge)
    asked = [str(newer), str(older), "--page", str(page)]
    with pytest.raises(SystemExit, match="markers"):
        evaluate_cells.main(asked)
    page.write_text(f"before\n{notebook.OPEN}\nold\n{notebook.CLOSE}\nafter\n")
    evaluate_cells.main(asked)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| 002_local | 4 | 75.0% / 100.0% |" in text, "the newer run of the two"
    assert f"Runs judged: `{newer.name}`." in text and "| 002_local | 4 |" in capsys.readouterr().out


def test_the_notebooks_index_has_a_place_for_the_judged_table():
    assert "| figure | pairs |" in notebook.read_page(Path(__file__).parents[1] / "experiments" / "README.md")


def test_a_failed_edit_does_not_count_as_structure_kept(tmp_path):
    judge = Remembering()
    cell_of(tmp_path, "cake", judge, lambda seed, arm: local_edit(3, arm), lpips=(0.0, 0.5))
    found = evaluate_cells.evaluate_figures([tmp_path], judge)[tmp_path.name]
    assert found["happened and LPIPS lower"] == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_blossom_follows_the_weight_or_is_said_not_to(tmp_path, sign):
    judge = Remembering()
    tree = world.Factors(scene="blossom tree", sunglasses=True)
    prompt = "photo of a man wearing a pair of sunglasses under a blossom tree"
    for weight in (-2.0, 0.0, 0.5, 1.0, 2.0, 4.0):

        def factors(seed, arm, amount=0.5 + sign * weight / 10):
            return replace(tree, blossom=amount + seed / 50 if arm == "with" else 0.5)

        axes = {"edit": "reweight", "target": None, "word": "blossom", "weight": weight}
        prompts = {"source_prompt": prompt, "target_prompt": prompt}
        cell_of(tmp_path, f"w{weight}", judge, factors, axes=axes, **prompts)
    found = evaluate_cells.evaluate_figures([tmp_path], judge)[tmp_path.name]
    assert "pairs" not in found, "nothing was asked to change"
    values = found["reweighting"]["tuki"]
    assert values["strictly increasing"] == (sign > 0) and values["seeds"] == 4
    assert values["median Spearman of weight and blossom"] == pytest.approx(sign)
    assert len(values["means"]) == 6 and "-2" in evaluate_cells.table({"five": found})


def weighted(weight, seed, amount, prompt="a photo"):
    about = {"arm": "with", "subject": "tuki", "word": "blossom", "source_prompt": prompt, "source": prompt}
    return about | {"weight": weight, "seed": seed, "true_blossom": amount}


def test_curves_are_of_one_word_and_one_source_prompt():
    up, down = ([weighted(w, 0, 0.5 + sign * w, prompt) for w in (0.0, 1.0, 2.0)]
                for sign, prompt in ((0.1, "a photo"), (-0.1, "a drawing")))  # fmt: skip
    other = [row | {"word": "rusty", "true_blossom": 0.0} for row in up]
    found = evaluate_cells.reweighting(up + down + other)
    assert {name: values["strictly increasing"] for name, values in found.items()} == {
        "tuki, a photo": True, "tuki, a drawing": False
    }  # fmt: skip
    assert list(evaluate_cells.reweighting(up)) == ["tuki"]
    with pytest.raises(InputError, match="weight 1 of blossom was drawn twice for seed 0"):
        evaluate_cells.reweighting([*up, weighted(1.0, 0, 0.9)])


def test_cells_that_must_not_be_put_together_are_no_figure(tmp_path):
    judge = Remembering()
    for place, more in (("weights", {"weights": "other"}), ("clip", {"clip": "clip@2"}), ("dtype", {"dtype": "f16"})):
        cell_of(tmp_path / place, "cake", judge, local_edit)
        cell_of(tmp_path / place, "pie", judge, local_edit, **more)
    for place, said in (("weights", "different weights"), ("clip", "different backbones"), ("dtype", "precision")):
        with pytest.raises(InputError, match=said):
            evaluate_cells.evaluate_figures([tmp_path / place], judge)
    rows = metric_agreement.generated_rows([tmp_path / "weights"], judge)
    assert len(rows) == 16 and len({row["source"] for row in rows}) == 8, "two models draw other source pictures"
    with pytest.raises(InputError, match="different backbones"):
        metric_agreement.generated_rows([tmp_path / "clip"], judge)


def test_only_seeds_drawn_with_every_weight_are_ranked():
    rows = [
        weighted(weight, seed, weight + seed)
        for weight in (0.0, 1.0, 2.0)
        for seed in range(3)
        if (weight, seed) != (2.0, 2)
    ]
    assert evaluate_cells.reweighting(rows)["tuki"]["seeds"] == 2
    with pytest.raises(InputError, match="no seed was drawn with every weight"):
        evaluate_cells.reweighting(
            [row for row in rows if row["weight"] < 2 or row["seed"] > 1] + [rows[0] | {"weight": 2.0, "seed": 7}]
        )


def test_places_without_cells_of_the_drawn_world_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        judged.finished_cells([tmp_path / "nowhere"])
    cells_on_disk.write_cell(tmp_path, "other", axes={"model": "sd15"})
    with pytest.raises(InputError, match="no finished cell of model=paperdoll"):
        judged.finished_cells([tmp_path])


def test_nearest_means_nearer_than_every_other():
    others = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    readings = torch.tensor([[0.1, 0.1], [0.9, 0.0], [-1.0, -1.0]])
    assert evaluate_subjects.nearest(readings, torch.zeros(2), others).tolist() == [True, False, True]


class ByColour:
    """Takes a picture's mean colour for its identity."""

    def read(self, images):
        return Colours(images.mean((2, 3)))


class Colours:
    def __init__(self, identity):
        self.identity = identity

    def names(self, factor):
        return ["keanu reeves" if colour.mean() < 0.5 else "woman" for colour in self.identity]


def test_identity_bleeding_and_class_are_told_apart(tmp_path):
    judge = ByColour()
    photo = evaluate_subjects.photo_identity(judge, "bnh").view(1, 3, 1, 1).expand(1, 3, 8, 8)

    def draw(pipe, texts):
        shown = {"bnh": photo, "photo of justin bieber": torch.zeros(1, 3, 8, 8)}
        found = [next((v for k, v in shown.items() if k in text), torch.ones(1, 3, 8, 8)) for text in texts]
        return torch.cat(found)

    subject = {"identifier": "bnh", "class_word": "keanu reeves", "class_prompts": []}
    others = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    base = torch.zeros(4, 3, 8, 8)
    found = evaluate_subjects.outcome(None, base, tmp_path / "model", subject, judge, draw, others, 2, (1.0, 0.75))
    assert found.pictures == 16 and found.subject_nearest == 1 and set(found.by_prompt.values()) == {1.0}
    assert found.other_class == "justin bieber" and found.bled == 0
    assert found.class_before == 1 and found.class_after == 0 and not found.prior_preservation
    line = evaluate_subjects.table([found]).splitlines()[2]
    assert line.startswith("| bnh | without | 100.0% [80.6, 100.0] of 16 | 100.0% / 75.0% |")


def test_what_is_within_reach_is_told_by_the_worlds_own_drawings():
    judge = ByColour()
    far, near = torch.full((2, 3), 9.0), evaluate_subjects.photo_identity(judge, "bnh")[None]

    def black(vae, images):
        return torch.zeros_like(images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_subjects, "redraw", black)
        patch.setattr(evaluate_subjects, "UNSEEN", evaluate_subjects.UNSEEN[:2])
        assert evaluate_subjects.within_reach(judge, None, "bnh", far, seeds=2) == (1.0, 1.0)
        dark = torch.zeros(1, 3)
        rendered, redrawn = evaluate_subjects.within_reach(judge, None, "bnh", dark, seeds=2)
        assert rendered == 1.0 and redrawn == 0.0, "black is nearer to another's reading"
        assert evaluate_subjects.within_reach(judge, None, "bnh", near, seeds=2) == (0.0, 0.0), "a tie is no hit"


def test_random_people_are_reproducible_and_no_subjects():
    torch.manual_seed(0)
    judge = Judge((8, 8, 16, 16), (0, 1, 1, 1), 4, 16).eval()
    once, again = (evaluate_subjects.random_identities(judge, count=3) for _ in range(2))
    assert torch.equal(once, again) and once.shape == (3, world.IDENTITY_DIM) and not torch.equal(once[0], once[1])


def test_finished_models_are_judged_and_others_refused(tmp_path, monkeypatch):
    root = tiny_study.build_world(tmp_path / "weights")
    monkeypatch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(root))
    monkeypatch.setattr(evaluate_subjects, "UNSEEN", evaluate_subjects.UNSEEN[:2])
    folder = tmp_path / "bnh-own"
    with pytest.raises(InputError, match="no finished fine-tuned model"):
        evaluate_subjects.described(folder)
    shutil.copytree(root / "pipeline", folder / "model")
    subject = {"identifier": "bnh", "class_word": "keanu reeves", "class_prompts": ["photo of keanu reeves"]}
    identity = {"settings": {"method": "full"}, "subjects": [subject]}
    (folder / "settings.json").write_text(json.dumps({"finished": True, "identity": identity}))
    judge = Judge((8, 8, 16, 16), (0, 1, 1, 1), 4, 16).eval()

    def draw(pipe, texts):
        return evaluate_subjects.generate(pipe, texts, seed=0, steps=1, guidance=1.0)

    found = evaluate_subjects.evaluate_models([folder], judge, draw, seeds=1, device="cpu", count=3)
    assert len(found) == 1 and found[0].prior_preservation and found[0].pictures == 2
    assert 0 <= found[0].redrawn <= 1 and 0 <= found[0].rendered <= 1
    assert found[0].class_before == found[0].class_after, "this model was not trained at all"
    identity["subjects"][0]["identifier"] = "zwx"
    (folder / "settings.json").write_text(json.dumps({"finished": True, "identity": identity}))
    with pytest.raises(InputError, match="'zwx' is no subject of the drawn world"):
        evaluate_subjects.described(folder)


def test_the_table_of_subjects_stays_in_the_card_when_it_is_written_again(tmp_path):
    with pytest.raises(InputError, match="make evaluate-paperdoll"):
        card.put_subjects(tmp_path, "table")
    (tmp_path / "training.json").write_text(json.dumps({"preset": "tiny", "seed": 0, "data": {}, "stages": {}}))
    card.write_card(tmp_path, {"drawn/food": 0.5}, "evaluate")
    assert "Not measured yet." in (tmp_path / "MODEL_CARD.md").read_text()
    card.put_subjects(tmp_path, "| bnh |")
    page = (tmp_path / "MODEL_CARD.md").read_text()
    assert "| bnh |" in page and "Not measured yet." not in page and "drawn/food | 0.500" in page
    card.write_card(tmp_path, {"drawn/food": 0.5}, "evaluate")
    assert (tmp_path / "MODEL_CARD.md").read_text() == page
    assert set(photos.CLASS_WORDS) == set(world.SUBJECTS)
