"""Gathering outputs into one table, and finding what W&B has not seen."""

import csv
import subprocess
import sys

import pytest
from cells_on_disk import write_cell

from likeness import results
from likeness.errors import InputError
from likeness.report import sync, tracker
from likeness.report.parquet import write_parquet
from likeness.report.records import read_cells
from likeness.study import failures


def test_every_picture_is_one_row_and_failed_cells_are_named(tmp_path, capsys):
    cells = tmp_path / "cells"
    one = write_cell(cells, "one", target="a | b")
    write_cell(cells, "two", subject="bnh", lpips=(0.4, 0.3))
    write_cell(cells, "broken", status="failed", error="disk full")
    write_cell(cells, ".half.written")
    (tmp_path / "runs" / "0").mkdir(parents=True)
    (tmp_path / "runs" / "0" / "cell.txt").write_text(f"{one.resolve()}\n")
    results.main([str(tmp_path), "--csv", str(tmp_path / "all.csv")])
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 3 and {row["cell"] for row in rows} == {"one", "two"}
    shown = capsys.readouterr().out
    assert "| tuki | local | a \\| b | 4 | 100% / 50% |" in shown and "disk full" in shown
    assert shown.count("Measured with") == 1


def test_jobs_that_failed_before_there_was_a_cell_are_named(tmp_path, capsys):
    run = tmp_path / "runs" / "sweep"
    failures.point_to(run / "0", write_cell(tmp_path / "cells", "one"))
    failures.write(run / "1", None, ["edit=local"], "no such model")
    results.main([str(run)])
    assert "left out: 1: edit=local: no such model" in capsys.readouterr().out


def test_parquet_holds_the_same_rows_with_numbers_as_numbers(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (the parquet extra)")
    edit = {"cross_replace_steps": [0.0, 0.4], "word_windows": {"cake": [0.0, 0.5]}, "behaviour": "corrected"}
    write_cell(tmp_path / "cells", "one", target='=1+1 "quoted"', config={"edit": edit})
    results.main([str(tmp_path), "--csv", str(tmp_path / "a.csv"), "--parquet", str(tmp_path / "new" / "a.parquet")])
    table = parquet.read_table(tmp_path / "new" / "a.parquet").to_pylist()
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(table) == len(rows) == 12
    for row, same in zip(rows, table, strict=True):
        assert same["seed"] == int(row["seed"]) and same["cell"] == "one" and same["arm"] == row["arm"]
        assert same["cross_end"] == 0.4 and same["target"] == '=1+1 "quoted"' and same["weight"] is None
        assert same["lpips"] == (float(row["lpips"]) if row["lpips"] else None)


def test_parquet_says_what_it_needs(tmp_path, monkeypatch):
    write_cell(tmp_path / "cells", "one")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SystemExit, match=r"\.\[parquet\]"):
        results.main([str(tmp_path), "--parquet", str(tmp_path / "a.parquet")])
    with pytest.raises(InputError, match="column lpips"):
        monkeypatch.undo()
        write_parquet([{"cell": "one", "lpips": "much"}], tmp_path / "a.parquet")


def test_p_values_are_corrected_over_the_table(tmp_path):
    folders = [write_cell(tmp_path, f"cell{i}") for i in range(4)]
    cells, _ = read_cells(folders)
    alone, together = results.markdown(cells[:1]), results.markdown(cells)
    assert "| 0.125 |" in alone and "| 0.500 |" in together


WINDOWED = {"cross_replace_steps": [0.0, 0.4], "self_replace_steps": [0.1, 0.2], "blend": {"threshold": 0.7},
            "behaviour": "corrected", "word_windows": {"cake": [0.0, 0.5]}}  # fmt: skip


def test_every_row_of_the_csv_tells_its_settings(tmp_path):
    axes = {"edit": "global", "style": "van gogh", "scene": "jungle", "target": None}
    config = {"edit": WINDOWED, "sampler": {"scheduler": "ddim", "num_inference_steps": 50, "guidance_scale": 3.0}}
    write_cell(tmp_path / "cells", "one", axes=axes, config=config)
    write_cell(tmp_path / "cells", "old")  # without a configuration
    results.main([str(tmp_path), "--csv", str(tmp_path / "all.csv")])
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    expected = {
        "style": "van gogh", "scene": "jungle", "target": "", "cross_start": "0", "cross_end": "0.4",
        "self_start": "0.1", "self_end": "0.2", "blend_threshold": "0.7", "blend_start": "",
        "behaviour": "corrected", "word_windows": "cake 0–0.5", "guidance_scale": "3", "scheduler": "ddim",
    }  # fmt: skip
    assert {name: rows["one"][name] for name in expected} == expected
    assert rows["old"]["target"] == "cake" and rows["old"]["cross_end"] == rows["old"]["scheduler"] == ""


def test_lines_of_the_markdown_tell_settings_seeds_and_twins_apart(tmp_path):
    edits = [WINDOWED, WINDOWED | {"blend": {"threshold": 0.3}}]
    folders = [write_cell(tmp_path, f"windows-{i}", config={"edit": edit}) for i, edit in enumerate(edits)]
    text = results.markdown(read_cells(folders)[0])
    assert "| cake, blend 0.7 |" in text and "| cake, blend 0.3 |" in text
    others = [write_cell(tmp_path, "more", seeds=[0, 1, 2, 3, 4]), write_cell(tmp_path, "few")]
    text = results.markdown(read_cells(others)[0])
    assert "| cake, seeds 0–4 |" in text and "| cake, seeds 0–3 |" in text
    twins = [write_cell(tmp_path, name) for name in ("tuki-local-0a0a", "tuki-local-1b1b")]
    text = results.markdown(read_cells(twins)[0])
    assert "| cake, cell 0a0a |" in text and "| cake, cell 1b1b |" in text


def test_other_backbones_get_a_table_of_their_own(tmp_path):
    cells, _ = read_cells([write_cell(tmp_path, "one"), write_cell(tmp_path, "two", clip="clip@2")])
    assert results.markdown(cells).count("Measured with") == 2


def test_nothing_to_gather_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match=r"sweep\.py"):
        results.main([str(tmp_path)])
    with pytest.raises(InputError, match="no folder"):
        results.cells_under([tmp_path / "nowhere"])


def test_only_runs_that_stayed_offline_are_uploaded(tmp_path):
    for name in ("offline-run-1", "offline-run-2", "run-3"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    (tmp_path / "wandb" / "offline-run-2" / "run-2.wandb.synced").touch()
    assert [run.name for run in sync.offline_runs(tmp_path)] == ["offline-run-1"]
    with pytest.raises(InputError, match="nothing to upload"):
        sync.sync(tmp_path / "empty")


def test_an_upload_without_a_login_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tracker, "has_login", lambda: False)
    for number in range(3):
        (tmp_path / f"offline-run-{number}").mkdir()
    with pytest.raises(InputError, match=r"no W&B login: .* upload the 3 again"):
        sync.sync(tmp_path)


def test_a_dead_server_ends_the_upload_at_the_first_run(tmp_path, monkeypatch, capsys):
    for number in range(3):
        (tmp_path / f"offline-run-{number}").mkdir()
    asked = []
    monkeypatch.setattr(tracker, "has_login", lambda: True)

    def hangs(command, check, timeout):
        asked.append(command[-1])
        if len(asked) == 2:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(sync.subprocess, "run", hangs)
    with pytest.raises(SystemExit, match="1"):
        sync.main([str(tmp_path), "--timeout", "7"])
    shown = capsys.readouterr().out
    assert len(asked) == 2 and "no answer within 7 s" in shown and "uploaded 1 of 3 runs" in shown
    assert "not uploaded: " + str(tmp_path / "offline-run-2") in shown
