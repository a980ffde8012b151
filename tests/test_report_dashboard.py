"""The W&B workspace is built and serialised offline; it shows only keys that are really logged."""

import json
import re
import sys

import pytest

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed (the dashboard extra)")

from likeness.errors import InputError
from likeness.report import dashboard
from likeness.report.metric_names import HEADLINE, METRICS
from likeness.study.tracking import alike, summary_numbers


@pytest.fixture(scope="module")
def sections():
    view = dashboard.build("me", "likeness")._to_model().model_dump(by_alias=True, exclude_none=True)
    assert view["entity"] == "me" and view["project"] == "likeness"
    json.dumps(view)  # what save() sends
    return {s["name"]: s["panels"] for s in view["spec"]["section"]["panelBankConfig"]["sections"]}


def test_the_workspace_has_the_sections_of_the_study(sections):
    assert list(sections) == [
        "Pictures", "Edit success against structure kept", "Metrics by subject, edit and style", "Re-weighting",
        "Training health",
    ]  # fmt: skip
    bars = [p["config"] for p in sections["Metrics by subject, edit and style"] if p["viewType"] == "Bar Chart"]
    assert {(c["groupBy"], c["metrics"][0]) for c in bars} == {
        (f"cell.value.alike.{axis}", f"edit/{metric}") for axis in ("subject", "edit", "style") for metric in HEADLINE
    }
    scatter = sections["Edit success against structure kept"][0]["config"]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:edit/lpips", "summary:edit/edit_success")
    assert {p["config"]["xAxis"] for p in sections["Re-weighting"]} == {"config:cell.value.weight"}


def test_panels_do_not_overlap(sections):
    for panels in sections.values():
        taken = set()
        for panel in panels:
            box = panel["layout"]
            fields = {
                (x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])
            }
            assert not fields & taken and box["x"] + box["w"] <= 24
            taken |= fields


def test_every_number_it_shows_is_one_that_cells_log(sections):
    entry = {"with": 0.1, "without": 0.2, "difference": {"mean": 0.1, "low": 0.0, "high": 0.2, "p": 0.5}}
    logged = set(summary_numbers({"n": 4, "metrics": dict.fromkeys(METRICS, entry)}))
    shown = set(re.findall(r"edit/[a-z_]+", json.dumps(sections)))
    assert shown - {"edit/grid", "edit/attention", "edit/pictures"} <= logged


RECORD = {
    "axes": {"subject": "tuki", "edit": "local", "style": None, "model": "paperdoll"}, "weights": "w1",
    "backbones": {"lpips": "trunk@1"}, "dtype": "float32", "environment": {"packages": {"torch": "2.6"}},
}  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        {"weights": "w2"}, {"backbones": {"lpips": "alex@1"}}, {"dtype": "bfloat16"},
        {"environment": {"packages": {"torch": "2.7"}}}, {"axes": RECORD["axes"] | {"model": "sd15"}},
    ],
)  # fmt: skip
def test_a_bar_is_of_cells_drawn_and_measured_alike(other, sections):
    bars = [p["config"] for p in sections["Metrics by subject, edit and style"] if p["viewType"] == "Bar Chart"]
    first = alike(RECORD)
    assert {bar["groupBy"] for bar in bars} == {f"cell.value.alike.{axis}" for axis in first}
    assert alike(RECORD | {"source_prompt": "another"}) == first
    assert first["edit"].startswith("tuki, local (paperdoll ") and first["style"].startswith("tuki, no style (")
    assert not set(alike(RECORD | other).values()) & set(first.values())
    means = [p["config"].get("showAvgYAxisLine") for panels in sections.values() for p in panels]
    assert not any(means), "a running mean would be over cells of every model"


def test_every_panel_of_training_finds_what_is_logged(sections):
    """Names as history.csv of one subject holds them, and of several in one model."""
    alone = ["subject_clip_i", "prior_drift_lpips", "other_bleed_identity", "identifier_entropy", "class_focus_change"]
    logged = [f"{prefix}{name}" for prefix in ("health/", "health/tuki/") for name in alone]
    logged += ["validation/loss_instance"]
    configs = [panel["config"] for panel in sections["Training health"]]
    patterns = [config["metricRegex"] for config in configs if config.get("metricRegex")]
    assert len(patterns) >= 4
    for pattern in patterns:
        assert any(re.fullmatch(pattern, name) for name in logged), pattern
    for name in logged:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


def test_without_an_account_it_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(SystemExit, match="wandb login"):
        dashboard.main([])


def test_a_key_that_is_no_key_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="login failed"):
        dashboard.main([])


def test_a_dead_connection_is_one_line(monkeypatch):
    import wandb

    def api():
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "Api", api)
    with pytest.raises(InputError, match=r"did not take the workspace: no route to host$"):
        dashboard.save("likeness")


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(InputError, match=r"\.\[dashboard\]"):
        dashboard.build("me", "likeness")
