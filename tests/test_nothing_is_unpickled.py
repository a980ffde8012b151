"""No file is ever unpickled: the source is read with ast for every call that could."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), ROOT / "train.py", ROOT / "sweep.py"])
PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}  # modules that unpickle


def faults(source: str) -> list[str]:
    """Return what in a source text could unpickle a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in PICKLING]
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in PICKLING:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            found += _call(ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords})
    return found


def _call(name: str, given: dict[str, str]) -> list[str]:
    wrong = {
        "torch.load": given.get("weights_only") != "True",
        "torch.jit.load": True,
        "torch.hub.load": True,
        "torch.hub.load_state_dict_from_url": given.get("weights_only") != "True",
        "np.load": given.get("allow_pickle", "False") != "False",
        "numpy.load": given.get("allow_pickle", "False") != "False",
        "pd.read_pickle": True,
        "StableDiffusionPipeline.from_pretrained": given.get("use_safetensors") == "False",
    }
    return [name] if wrong.get(name) else []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_source_unpickles_nothing(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "from dill import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "import joblib.numpy_pickle",
    ],
)
def test_each_way_to_unpickle_would_be_noticed(bad):
    assert faults(bad)


def test_a_pickled_checkpoint_is_refused_before_it_is_opened(tmp_path):
    from likeness.errors import InputError
    from likeness.models import ModelSource, check_available

    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match=r"only \.safetensors is read"):
        check_available(ModelSource("mine", str(tmp_path / "model.ckpt")))
