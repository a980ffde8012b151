"""Prompts drawn with a fine-tuned model: one grid, every picture, nothing twice."""

import json

import pytest
import tiny_dreambooth as tiny
from PIL import Image

from likeness import sample as module
from likeness.errors import InputError
from likeness.sample import main, sample

PROMPTS = ["photo of tuki man", "photo of  a man"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "run"
    tiny.train_tiny(out, num_train_steps=1, validation_every=0)
    return out


def test_every_prompt_is_drawn_from_every_seed_once(run, capsys, monkeypatch):
    main([str(run), *PROMPTS, "--seeds", "3", "5", "8", "--steps", "2", "--device", "cpu"])
    grid = capsys.readouterr().out.strip()
    folder = run / "drawn"
    (folder,) = folder.iterdir()
    assert grid == str(folder / "grid.png") and folder.name.startswith("photo_of_tuki_man-")
    names = [f"prompt{row:02d}-seed{seed:04d}.png" for row in (1, 2) for seed in (3, 5, 8)]
    pictures = [Image.open(folder / name).tobytes() for name in names]
    assert len(set(pictures)) == 6 and Image.open(folder / names[0]).size == (32, 32)
    about = json.loads((folder / "sample.json").read_text())
    assert about["prompts"] == ["photo of tuki man", "photo of a man"] and about["seeds"] == [3, 5, 8]
    monkeypatch.setattr(module, "_draw", lambda *given: pytest.fail("drawn again"))
    main([str(run), *PROMPTS, "--seeds", "3", "5", "8", "--steps", "2", "--device", "cpu"])
    assert capsys.readouterr().out.strip() == grid


def test_a_seed_is_that_of_the_cells(run, tmp_path):
    from likeness.dreambooth import load_finetuned
    from likeness.dreambooth.sampling import draw
    from likeness.prompt_to_prompt import seeded_latents

    folder = sample(run, PROMPTS[:1], [7], steps=2, guidance_scale=3.0, device="cpu", out=tmp_path / "out")
    pipe = load_finetuned(tiny.source(tiny.root() / "model"), run)
    (wanted,) = draw(pipe, PROMPTS[:1], seeded_latents([7], (4, 16, 16)), 2, 3.0)
    assert Image.open(folder / "prompt01-seed0007.png").tobytes() == wanted.tobytes()


def test_nothing_is_overwritten_and_bad_input_is_one_error(run, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="holds something else"):
        sample(run, PROMPTS, out=tmp_path / "mine")
    with pytest.raises(InputError, match="holds no finished"):
        sample(tmp_path, PROMPTS)
    with pytest.raises(InputError, match="not empty"):
        sample(run, [" "])
    with pytest.raises(SystemExit, match=r"error: .* one step"):
        main([str(run), *PROMPTS, "--steps", "0"])
