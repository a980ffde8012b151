"""The worked examples of docs/extending.md, written to disk as the page says and run."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_study

from likeness import metrics
from likeness.errors import InputError
from likeness.study import draw
from likeness.study.cell import run_cell

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_study.build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def written(tmp_path):
    """A folder with the repository's conf/ and every file that the page shows."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    blocks = dict(BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")))
    assert len(blocks) == 6
    for name, text in blocks.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def project(written, monkeypatch, world):
    """The same folder where Python finds it, with a world to draw in."""
    monkeypatch.syspath_prepend(written)
    monkeypatch.setenv("LIKENESS_PAPERDOLL_WEIGHTS", str(world))
    metrics.forget()
    draw.load_cached.cache_clear()
    yield written
    metrics.forget()
    draw.load_cached.cache_clear()
    for name in ("fade", "contrast"):
        sys.modules.pop(name, None)


def cell(project, *overrides):
    sweep = tiny_study.sweep_of(project / "out", *overrides, conf=project / "conf")
    if not list(project.glob("out/models/*/tuki-*")):
        tiny_study.pretend_to_finetune(sweep)
    return run_cell(sweep, project / "run", list(overrides))


def record_of(folder):
    return json.loads((folder / "record.json").read_text())


def test_words_alone_make_an_edit(project):
    record = record_of(cell(project, "edit=hat"))
    assert record["target_prompt"] == "photo of a tuki justin bieber wearing sunglasses"


def test_an_operator_and_a_metric_of_ones_own_are_drawn_measured_and_known_by_their_code(project):
    overrides = ("edit=fade", "style=watercolor", "metrics=mine")
    folder = cell(project, *overrides)
    record = record_of(folder)
    assert record["axes"]["operator"] == "fade:Fade" and record["directions"]["contrast_lost"] == "lower"
    assert record["backbones"]["contrast_lost"].startswith("contrast:contrast_lost@")
    with (folder / "results.csv").open(newline="") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert float(rows["source"]["contrast_lost"]) == 0 and float(rows["with"]["contrast_lost"]) != 0
    assert "contrast_lost" in json.loads((folder / "summary.json").read_text())["metrics"]
    pictures = [(folder / "images" / f"seed0000-{arm}.png").read_bytes() for arm in ("with", "without")]
    refined = cell(project, "edit=global", "style=watercolor", "metrics=mine") / "images" / "seed0000-with.png"
    assert pictures[0] not in (pictures[1], refined.read_bytes())
    (project / "fade.py").write_text((project / "fade.py").read_text().replace("share = 0.5", "share = 0.6"))
    sys.modules.pop("fade")
    assert cell(project, *overrides) != folder


def test_a_model_is_a_configuration(project, world):
    source = f"model.source={world / 'pipeline'}"
    sweep = tiny_study.sweep_of(
        project / "out", "model=mine", source, "model.resolution=128", "metrics=embedded", conf=project / "conf"
    )
    tiny_study.pretend_to_finetune(sweep)
    record = record_of(run_cell(sweep, project / "run", []))
    assert record["axes"]["model"] == "mine" and record["config"]["schedule"]["num_train_steps"] == 600


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("edit.operator=nowhere:Fade", "beside sweep.py"),
        ("edit.operator=fade:Fad", "has no 'Fad'"),
        ("metrics.extra=[contrast:contrast_lost,contrast:contrast_lost]", "there is a metric 'contrast_lost' already"),
    ],
)
def test_what_is_not_there_is_named(project, override, message):
    with pytest.raises(InputError, match=message):
        cell(project, "edit=fade", override)


@pytest.mark.parametrize(
    ("page", "section", "pictures"),
    [
        ("README.md", "Use it as a library", 2),
        ("docs/prompt_to_prompt.md", "Use it as a library", 4),
        ("docs/prompt_to_prompt.md", "Edit a photo", 1),
    ],
)
def test_the_library_examples_run_as_they_stand(page, section, pictures, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / page).read_text(encoding="utf-8").split(f"## {section}\n")[1]
    code = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
    assert "num_inference_steps=50" in code
    names = {}
    exec(code.replace("num_inference_steps=50", "num_inference_steps=4"), names)
    groups = names["p2p"].split(names["images"])
    assert [len(group) for group in groups] == [pictures] * (1 + len(names["edits"]))
    assert not names["p2p"].notices


def commands(page: str) -> list[str]:
    """Return the fenced train.py and sweep.py lines of a page, continued lines joined."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("\\\n", " ")
    found = [line for block in text.split("```")[1::2] for line in block.splitlines()]
    return [line for line in found if re.match(r"python (train|sweep)\.py [^.]", line)]


@pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/")  # as launch.py does
@pytest.mark.parametrize("page", ["your_own_subject.md", "cluster.md", "extending.md"])
def test_every_command_of_the_pages_composes(written, page):
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from likeness import config

    subject = dict(BLOCK.findall((ROOT / "docs" / "your_own_subject.md").read_text(encoding="utf-8")))
    (written / "conf" / "subject" / "me.yaml").write_text(subject["conf/subject/me.yaml"])
    assert commands(page)
    with initialize_config_dir(version_base="1.3", config_dir=str(written / "conf")):
        for command in commands(page):
            script, *overrides = [word for word in shlex.split(command, comments=True)[1:] if word != "-m"]
            if "-m" not in command.split():
                chosen = overrides
            else:  # the first of the swept values
                parsed = OverridesParser.create().parse_overrides(overrides)
                chosen = [
                    f"{o.get_key_element()}={next(o.sweep_string_iterator())}" if o.is_sweep_override() else text
                    for o, text in zip(parsed, overrides, strict=True)
                ]
            composed = compose(script.removesuffix(".py"), chosen)
            assert (config.to_train if script == "train.py" else config.to_sweep)(composed), command


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_help_lists_every_target_that_explains_itself():
    explained = re.findall(r"^([^\s:]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", "help"], cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == explained and "bench-sd15" in explained
