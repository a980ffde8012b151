"""What may be averaged, and what is then said: groups, pairs by seed, Holm over the table, the verdict."""

import csv
import json

import pytest
from cells_on_disk import write_cell
from markupsafe import escape

from likeness import results
from likeness.report.comparisons import OVER, TITLES, as_markdown, group_table
from likeness.report.effects import effects, effects_table, structure_verdict
from likeness.report.page import write_report
from likeness.report.records import count_pairs, count_sources, measured_alike, pairs, pooled, read_cells


def add_structure(folder, with_, without):
    """Put a structure distance of every seed into a written cell."""
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        values = {"with": with_, "without": without}.get(row["arm"])
        row["clip_structure"] = "" if values is None else values[int(row["seed"])]
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    record = json.loads((folder / "record.json").read_text())
    record["backbones"]["clip_structure"], record["directions"]["clip_structure"] = "clip@1", "lower"
    (folder / "record.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def cells(tmp_path):
    """Two subjects, two edits: two of the cells edit the same source pictures."""
    made = [
        ("one", "tuki", "cake", {}, [0.1, 0.2, 0.1, 0.2], [0.5, 0.6, 0.4, 0.7]),
        ("two", "tuki", "pizza", {}, [0.2, 0.2, 0.1, 0.3], [0.4, 0.6, 0.5, 0.6]),
        ("three", "bnh", "cake", {"edit": "global"}, [0.3, 0.1, 0.2, 0.2], [0.5, 0.5, 0.4, 0.6]),
    ]
    folders = [
        add_structure(write_cell(tmp_path, name, subject=subject, target=target, axes=axes), with_, without)
        for name, subject, target, axes, with_, without in made
    ]
    return read_cells(folders)[0]


def test_overall_by_edit_and_by_subject_with_holm_over_the_table(cells):
    found = effects(cells)
    groups = list(dict.fromkeys(effect.group for effect in found))
    assert groups == ["overall", "edit local", "edit global", "subject tuki", "subject bnh"]
    assert {e.metric for e in found} == {"edit_success", "clip_structure", "lpips"}
    overall = next(e for e in found if e.group == "overall" and e.metric == "clip_structure")
    assert overall.difference["n"] == 12 and overall.difference["independent"] == 8
    ps = sorted(e.difference["p"] for e in found)
    assert min(e.corrected for e in found) == pytest.approx(min(1, ps[0] * len(found)))
    table = as_markdown(effects_table(found))
    assert "| overall | structure distance, paperdoll CLIP ↓ | 12 | 8 |" in table and "| better |" in table


def test_means_and_difference_count_every_source_picture_once(cells):
    for metric in ("lpips", "clip_structure", "edit_success"):
        entry = pooled(cells, metric)  # two edits of tuki's pictures, one of bnh's
        assert entry["with"] - entry["without"] == pytest.approx(entry["difference"]["mean"])
    tuki, bnh = (pooled(members, "lpips")["with"] for members in (cells[:2], cells[2:]))
    assert pooled(cells, "lpips")["with"] == pytest.approx((tuki + bnh) / 2)
    assert count_sources(cells) == 8 and count_pairs(cells) == 12
    assert OVER in results.markdown(cells)


def test_the_page_shows_the_same_table_with_effect_sizes_and_p_explained(cells, tmp_path):
    text = write_report([cell.folder for cell in cells], tmp_path / "report.html", "t").read_text(encoding="utf-8")
    table = effects_table(effects(cells))
    size, p = (table.columns.index(name) for name in ("effect d", "p (Holm)"))
    for line in table.lines:
        assert f'<td data-order="{line.values[size].order}">{line.values[size].text}</td>' in text
        assert f'<td data-order="{line.values[p].order}">{line.values[p].text}</td>' in text
    for column in ("effect d", "p (Holm)", "effect d of LPIPS", "p of LPIPS (Holm)", "sources"):
        assert f'<button type="button" title="{escape(TITLES[column])}">{column}</button>' in text
    assert OVER in text and "pairs of 8 source pictures" in text
    assert "of 12 pictures (edits of 8 source pictures, each counted once)" in text
    per_subject = group_table("Per subject", cells, lambda cell: cell.axes["subject"])
    at = per_subject.columns.index("sources")
    assert [line.values[at].text for line in per_subject.lines] == ["4", "4"]


def test_pairs_are_made_by_seed_whatever_the_order_of_the_rows(cells):
    mean = pooled(cells[:1], "clip_structure")["difference"]["mean"]
    cells[0].rows.reverse()
    assert pooled(cells[:1], "clip_structure")["difference"]["mean"] == pytest.approx(mean)
    dropped = [row for row in cells[0].rows if not (row["arm"] == "without" and row["seed"] == "2")]
    cells[0].rows[:] = dropped
    assert {source[-1] for *_, source in pairs(cells[:1], "lpips")} == {"0", "1", "3"}


def test_the_verdict_is_said_only_where_the_interval_says_so(cells, tmp_path):
    word, sentence = structure_verdict(effects(cells))
    assert word == "more" and sentence.startswith("P2P keeps more structure than re-prompting")
    swapped = add_structure(write_cell(tmp_path, "worse"), [0.5, 0.6, 0.4, 0.7], [0.1, 0.2, 0.1, 0.2])
    assert "keeps less structure" in structure_verdict(effects(read_cells([swapped])[0]))[1]
    undecided = add_structure(write_cell(tmp_path, "open"), [0.1, 0.6, 0.1, 0.7], [0.5, 0.2, 0.4, 0.2])
    constant = add_structure(write_cell(tmp_path, "constant"), [0.1] * 4, [0.5] * 4)
    for folder in (undecided, constant):
        done, _ = read_cells([folder])
        assert structure_verdict(effects(done))[0] == "open" and "keeps" not in results.markdown(done)
    assert "P2P keeps more structure" in results.markdown(cells)


def test_report_and_table_judge_structure_by_the_same_metric(tmp_path):
    lost = {"with_": [0.5, 0.6, 0.4, 0.7], "without": [0.1, 0.2, 0.1, 0.2]}  # against what LPIPS says
    folder = add_structure(write_cell(tmp_path, "one", lpips=(0.2, 0.5)), **lost)
    done, _ = read_cells([folder])
    _, sentence = structure_verdict(effects(done))
    assert "keeps less structure" in sentence and sentence in results.markdown(done)
    assert sentence in write_report([folder], tmp_path / "report.html", "t").read_text(encoding="utf-8")
    bare = write_cell(tmp_path, "bare", lpips=(0.2, 0.5))  # no structure distance: LPIPS decides, for both
    _, sentence = structure_verdict(effects(read_cells([bare])[0]))
    assert "keeps more structure" in sentence and "LPIPS" in sentence
    assert sentence in results.markdown(read_cells([bare])[0])
    assert sentence in write_report([bare], tmp_path / "report.html", "t").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("other", "told_by"),
    [
        ({"environment": {"git": None, "packages": {"torch": "2.0.0"}}}, "torch 2.0.0"),
        ({"weights": "another"}, "weights no. 2"),
        ({"dtype": "float16"}, "float16"),
        ({"axes": {"subject": "tuki", "edit": "local", "target": "cake", "model": "sd15"}}, "sd15"),
        ({"data": {"base": "0123abcd"}}, "0123abcd"),
        ({"axes": {"subject": "tuki", "edit": "local", "target": "cake", "schedule": "long"}}, "long"),
    ],
)
def test_other_models_weights_and_versions_are_not_averaged(tmp_path, other, told_by):
    folders = [write_cell(tmp_path, "one"), write_cell(tmp_path, "two"), write_cell(tmp_path, "other", **other)]
    done, failed = read_cells(folders)
    assert not failed
    groups = measured_alike(done)
    assert [len(members) for members in groups.values()] == [2, 1] and told_by in list(groups)[1]
    assert results.markdown(done).count("Measured with") == 2
    if "schedule" not in other.get("axes", {}):
        with pytest.raises(ValueError, match="not pooled"):
            pooled(done, "lpips")


def test_two_subjects_of_one_setup_are_averaged(tmp_path):
    folders = [write_cell(tmp_path, s, subject=s, weights=f"weights of {s}") for s in ("tuki", "bnh")]
    done, _ = read_cells(folders)
    assert list(map(len, measured_alike(done).values())) == [2]
    assert pooled(done, "lpips")["difference"]["independent"] == 8


def test_the_own_prior_class_of_two_subjects_is_one_setup_and_another_prior_class_is_not(tmp_path):
    words = {"tuki": "justin bieber", "bnh": "keanu reeves"}

    def cell(name, subject, prior):
        word = words[subject]
        prior_class = {"name": prior.replace(" ", "_"), "class_word": prior, "prompts": ["photo of {class_word}"]}
        config = {"subject": {"class_word": word}, "prior_class": prior_class, "method": {}, "schedule": {}}
        axes = {"prior_class": prior_class["name"], "method": "full"}
        return write_cell(tmp_path, name, subject=subject, config=config, weights=name, axes=axes)

    own = [cell(subject, subject, word) for subject, word in words.items()]
    other = cell("other", "bnh", "justin bieber")
    groups = measured_alike(read_cells([*own, other])[0])
    assert [[cell.folder.name for cell in members] for members in groups.values()] == [["tuki", "bnh"], ["other"]]
    assert [text.rsplit(" · ", 1)[-1] for text in groups] == ["own full", "justin_bieber full"]
    assert "| subject bnh |" in results.markdown(read_cells(own)[0])
