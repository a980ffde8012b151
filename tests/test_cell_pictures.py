"""What a cell shows beside its arms: where words act, and what LocalBlend let through."""

import tiny_study
from PIL import Image

from likeness.study.cell import run_cell
from likeness.study.gather import gather


def test_attention_maps_and_masks_are_shown(world, tmp_path):
    overrides = ("finetuned=base", "edit=blend", "show_attention=true", "+edit.weights.cake=2", "seeds=[0,3]")
    cell = run_cell(tiny_study.sweep_of(tmp_path, *overrides), tmp_path / "run" / "0", list(overrides))
    assert (cell / "attention.png").is_file() and (cell / "mask-seed0003.png").is_file()
    assert {path.stem for path in (cell / "attention").iterdir()} >= {"source-08-burger", "target-08-cake"}
    with Image.open(cell / "grid.png") as grid, Image.open(cell / "attention.png") as words:
        assert grid.height > 4 * 160 + words.height, "three arms, the masks, and every word"
    report = gather(tmp_path / "run").read_text()
    assert "Where each word acts" in report and "mask, seed0003" in report
