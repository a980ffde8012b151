"""The import picture of CONTRIBUTING.md, held against the code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "likeness"
LEAVES = {"errors"}
# package -> which of our other packages it may import
MAY_IMPORT = {
    "config": {"config_values"},
    "config_values": set(),
    "errors": set(),
    "command_line": {"config", "launch"},
    "launch": {"ranks"},
    "malloc": set(),
    "ranks": set(),
    "file_hashes": set(),
    "models": {"paperdoll", "file_hashes"},
    "subjects": set(),
    "dreambooth": {"models", "subjects", "malloc"},
    "prompt_to_prompt": set(),
    "metrics": {"paperdoll"},
    "report": {"metrics"},
    "results": {"report", "metrics"},
    "paperdoll": {"models", "malloc"},
    "disk": {"dreambooth"},
    "export": {"models", "dreambooth", "subjects"},
    "sample": {"models", "dreambooth", "prompt_to_prompt", "report"},
    "replay": {"study", "report", "config"},
    "reproduce": {"study", "report", "results"},
    "study": {
        "config",
        "models",
        "subjects",
        "dreambooth",
        "prompt_to_prompt",
        "metrics",
        "report",
        "malloc",
        "paperdoll",
        "ranks",
    },
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module a file imports, at any depth, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_packages_import_only_what_the_picture_allows(path):
    mine = part_of(path)
    if mine == "__init__":
        return
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("likeness.")}
    known = {part_of(p) for p in MODULES}
    assert mine in MAY_IMPORT, f"{mine} has no place in the picture yet"
    assert (ours & known) - LEAVES - {mine, "__init__"} <= MAY_IMPORT[mine]


@pytest.mark.parametrize("path", [*MODULES, ROOT / "train.py", ROOT / "sweep.py"], ids=lambda p: p.stem)
def test_hydra_and_wandb_stay_at_their_doors(path):
    tops = {name.split(".")[0] for name in imported(path)}
    if path.name not in ("train.py", "sweep.py", "config.py", "launch.py"):
        assert not tops & {"hydra", "omegaconf"}
    if "report" not in path.parts:
        assert not tops & {"wandb", "wandb_workspaces"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_grows_beyond_reading(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
