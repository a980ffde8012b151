"""What only a CUDA device can show; `pytest -m gpu` where there is one."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import test_p2p_golden as golden
import tiny_dreambooth as tiny
import torch
from golden_unet import random_unet

from likeness.dreambooth import Concept, gradients, load_finetuned, train
from likeness.dreambooth.batches import Batches
from likeness.errors import InputError
from likeness.models import ModelSource, load_pipeline
from likeness.paperdoll.photos import FOLDER
from likeness.prompt_to_prompt import (
    LocalBlend,
    Refine,
    Replace,
    Reweight,
    invert,
    prompt_to_prompt,
    seeded_latents,
)
from likeness.subjects import find_photos, load_photos

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

ROOT = Path(__file__).parent.parent
EMBEDDED = ModelSource("paperdoll", "embedded")
SOURCE, TARGET = "painting of a man eating a burger", "painting of a man eating a cake"
WAYS = {
    "whole model, float32": {"train_text_encoder": True},
    "whole model, bfloat16": {"train_text_encoder": 0.5, "mixed_precision": "bf16", "gradient_checkpointing": True},
    "UNet, float16": {"mixed_precision": "fp16", "learning_rate": 1e-5},
    "whole model, float16": {"mixed_precision": "fp16", "learning_rate": 1e-5, "train_text_encoder": 0.5},
    "identifier alone": {"train_text_encoder": True, "text_encoder_layers": "identifier"},
    "LoRA, bfloat16": {"method": "lora", "lora_text_encoder": True, "mixed_precision": "bf16"},
    "cross-attention alone, bfloat16": {"unet_layers": "crossattn", "mixed_precision": "bf16"},
    "compiled, bfloat16": {"mixed_precision": "bf16", "compile": True},
    "compiled, until half, checkpointing": {
        "train_text_encoder": 0.5,
        "mixed_precision": "bf16",
        "compile": True,
        "gradient_checkpointing": True,
    },
    "compiled LoRA, float16": {"method": "lora", "mixed_precision": "fp16", "compile": True},
}


@pytest.fixture(autouse=True)
def exact_products():
    """Compute float32 in float32, which convolutions do not by default."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def class_root(tmp_path_factory):
    return tmp_path_factory.mktemp("class")


def finetune(out: Path, class_root: Path, **options):
    """Fine-tune the embedded model for eight steps."""
    known = {name: options.pop(name) for name in tiny.CALLBACKS if name in options}
    quick = {
        "num_train_steps": 8, "learning_rate": 1e-4, "class_num_inference_steps": 4, "log_every": 3,
        "checkpoint_every": 4, "validation_every": 8, "progress_bars": False,
    }  # fmt: skip
    photos = find_photos(FOLDER / "tuki")
    concept = Concept("tuki", "justin bieber", "photo of tuki justin bieber", photos, ["photo of justin bieber"])
    settings = tiny.settings(**(quick | options))
    result = train(EMBEDDED, [concept], settings, out, class_root=class_root, device="cuda", **known)
    assert json.loads((out / "settings.json").read_text())["device"] == "cuda"
    return result


def trained(out: Path) -> dict[str, torch.Tensor]:
    """Return every tensor that a finished run saved."""
    from safetensors.torch import load_file

    folder = out / "lora" if (out / "lora").exists() else out / "model"
    return {f"{f.relative_to(folder)} {k}": v for f in folder.rglob("*.safetensors") for k, v in load_file(f).items()}


def lose_power(event) -> None:
    """End a run right after its first checkpoint."""
    if event.kind == "checkpoint":
        raise KeyboardInterrupt


def bits_are_the_same_twice_and_in_two_pieces(way: str, tmp_path: Path, class_root: Path) -> None:
    finetune(tmp_path / "one", class_root, **WAYS[way])
    finetune(tmp_path / "two", tmp_path / "its own class pictures", **WAYS[way])
    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / "pieces", class_root, on_event=lose_power, **WAYS[way])
    assert finetune(tmp_path / "pieces", class_root, **WAYS[way]).resumed_from == 4
    one = trained(tmp_path / "one")
    assert all(tensor.isfinite().all() for tensor in one.values())
    for other in ("two", "pieces"):
        assert tiny.same(one, trained(tmp_path / other)), other
    load_finetuned(EMBEDDED, tmp_path / "one", "float16", "cuda")


@pytest.mark.parametrize("way", WAYS)
def test_fine_tuning_twice_or_in_two_pieces_gives_the_same_bits(way, tmp_path, class_root):
    bits_are_the_same_twice_and_in_two_pieces(way, tmp_path, class_root)


@pytest.mark.parametrize("way", ["whole model, float16", "whole model, bfloat16"])
def test_so_it_does_where_gradients_are_large(way, tmp_path, class_root, monkeypatch):
    monkeypatch.setattr(gradients, "KEPT", 0)
    bits_are_the_same_twice_and_in_two_pieces(way, tmp_path, class_root)


@pytest.mark.parametrize("way", ["whole model, float32", "UNet, float16"])
@pytest.mark.parametrize("more", [{}, {"gradient_accumulation_steps": 2, "crops": -1, "ema_decay": 0.9}], ids=str)
def test_a_recorded_training_is_the_one_of_single_kernels(way, more, tmp_path, class_root, monkeypatch):
    """Except for a text encoder in half precision, which transformers < 5.23 gives its causal mask while recording."""
    monkeypatch.setattr(gradients, "KEPT", 0 if more else gradients.KEPT)
    for recorded in (True, False):
        finetune(tmp_path / str(recorded), class_root, cuda_graph=recorded, **WAYS[way] | more)
    assert tiny.same(trained(tmp_path / "True"), trained(tmp_path / "False"))


def test_large_gradients_are_overwritten_by_a_recording(tmp_path, class_root, monkeypatch):
    finetune(tmp_path / "kept", class_root)
    monkeypatch.setattr(gradients, "KEPT", 0)
    finetune(tmp_path / "large", class_root)
    kept, large = (torch.cat([t.flatten() for t in trained(tmp_path / name).values()]) for name in ("kept", "large"))
    assert (kept - large).abs().max() < 1e-5  # their norm is summed in another order


def test_compiled_training_is_the_same_training(tmp_path, class_root):
    changes = []
    base = load_pipeline(EMBEDDED).unet.state_dict()
    for compiled in (False, True):
        out = tmp_path / str(compiled)
        finetune(out, class_root, compile=compiled)
        tuned = load_finetuned(EMBEDDED, out, "float32", "cpu").unet.state_dict()
        changes.append(torch.cat([(tuned[name] - base[name]).flatten() for name in base]))
    assert torch.nn.functional.cosine_similarity(*changes, 0) > 0.99


def test_a_loss_that_is_not_a_number_is_seen_a_step_later(tmp_path, class_root, monkeypatch):
    real, asked = Batches.batch, []

    def broken(self, micro_step, rank, world):
        asked.append(micro_step)
        found = real(self, micro_step, rank, world)
        return replace(found, noise=found.noise * float("nan")) if micro_step == 4 else found

    monkeypatch.setattr(Batches, "batch", broken)
    with pytest.raises(InputError, match=r"not a number at step 5 .*checkpoint-4 is kept"):
        finetune(tmp_path / "run", class_root)
    assert asked[-1] == 5


def drawn(pipe, *, edits, local_blend=None) -> torch.Tensor:
    """Return the latents of ten steps under Prompt-to-Prompt, on the CPU."""
    noise = seeded_latents([3, 4], (8, 16, 16))
    with prompt_to_prompt(pipe, SOURCE, edits, local_blend=local_blend, images_per_prompt=2) as p2p:
        found = pipe(**p2p.inputs, latents=p2p.latents(noise), num_inference_steps=10, guidance_scale=3.0,
                     output_type="latent")  # fmt: skip
    return found.images.float().cpu()


EDITS = {
    "a word swapped": {"edits": [Replace(TARGET)]},
    "and weighed, blended": {
        "edits": [Reweight(TARGET, {"cake": 2.0}, over=Replace(TARGET))],
        "local_blend": LocalBlend(["burger", "cake"], threshold=0.5),
    },
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_are_those_of_the_cpu(edit):
    ours, expected = (drawn(load_pipeline(EMBEDDED, device=device), **EDITS[edit]) for device in ("cuda", "cpu"))
    assert (ours - expected).norm() < 1e-3 * expected.norm()


def drawn_from_a_photo(dtype: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a photo's latents, and those of photo and watercolor after ten steps there and ten back, on the CPU."""
    pipe = load_pipeline(EMBEDDED, dtype=dtype, device=device)
    source, target = "photo of a justin bieber in a forest", "watercolor painting of a justin bieber in a forest"
    way = invert(pipe, load_photos(find_photos(FOLDER / "tuki")[6:7], 128), source, num_inference_steps=10)
    with prompt_to_prompt(pipe, source, [Refine(target)], inversion=way) as p2p:
        found = pipe(**p2p.inputs, latents=p2p.latents(), num_inference_steps=10, guidance_scale=3.0,
                     output_type="latent")  # fmt: skip
    return way.latents[-1].float().cpu(), found.images.float().cpu()


def test_a_photo_is_edited_as_on_the_cpu():
    (photo, ours), (_, expected) = (drawn_from_a_photo("float32", device) for device in ("cuda", "cpu"))
    assert torch.equal(ours[:1], photo) and (ours - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_half_precision_the_source_is_the_photo(dtype):
    photo, drawn = drawn_from_a_photo(dtype, "cuda")
    _, exact = drawn_from_a_photo("float32", "cpu")
    assert torch.equal(drawn[:1], photo) and (drawn - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_half_precision_the_source_is_what_it_is_without_edits(dtype):
    pipe = load_pipeline(EMBEDDED, dtype=dtype, device="cuda")
    source, edited = drawn(pipe, **EDITS["a word swapped"]).chunk(2)
    noise = seeded_latents([3, 4], (8, 16, 16)).to("cuda", pipe.unet.dtype)
    prompts = [SOURCE] * 2 + [TARGET] * 2  # the same batch: its size decides how a GPU sums
    options = {"num_inference_steps": 10, "guidance_scale": 3.0, "output_type": "latent"}
    plain = pipe(prompts, latents=noise.repeat(2, 1, 1, 1), **options).images.float().cpu()
    assert (source - plain[:2]).norm() < 0.05 * source.norm()
    assert (edited - plain[2:]).norm() > 0.1 * edited.norm()
    exact = drawn(load_pipeline(EMBEDDED, device="cuda"), **EDITS["a word swapped"])
    assert (torch.cat([source, edited]) - exact).norm() < 0.15 * exact.norm()


@golden.by_id([case for case in golden.E2E["cases"] if case["kind"] != "none"])
def test_whole_samplings_of_the_reference(case, tiny_pipe):
    tiny_pipe.unet = random_unet("unet_4_levels")
    tiny_pipe.to("cuda")
    noise = torch.from_numpy(golden.E2E_ARRAYS["x_T"])
    golden.sampled(tiny_pipe, case, noise, golden.E2E_ARRAYS[case["key"]])


def run(*words: str) -> str:
    """Run a command of the README and return what it printed."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_the_commands_train_with_health_edit_and_replay(tmp_path):
    small = [
        "subject=tuki", "schedule.num_train_steps=8", "prior_class.num_class_images=16", f"out={tmp_path}",
        "logger=none", "device=cuda",
    ]  # fmt: skip
    run("train.py", "sample_every=8", *small)
    (history,) = tmp_path.glob("models/*/*/history.csv")
    rows = list(csv.DictReader(history.open()))
    assert float(rows[-1]["health/identifier_entropy"]) > 0 and float(rows[-1]["health/prior_drift_lpips"]) >= 0
    run("sweep.py", "edit=local", "seeds=[0,1]", *small)
    (cell,) = tmp_path.glob("cells/*/record.json")
    assert json.loads(cell.read_text())["device"] == "cuda"
    assert run("-m", "likeness.replay", str(cell)) == "identical: 6 pictures\n"
