"""The whole pretraining chain at its smallest, what it installs, and that a killed stage resumes exactly."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, CLIPProcessor

from likeness.errors import InputError
from likeness.paperdoll import weights
from likeness.paperdoll.checkpoints import load_tensors, read_state
from likeness.paperdoll.pretrain import STAGES, Run, install, main, parse, pretrain
from likeness.paperdoll.probe import load_probe


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Run:
    """A finished tiny pretraining."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = Run(tmp_path_factory.mktemp("pretrain"), preset_name="tiny", workers=1)
    pretrain(run)
    torch.set_num_threads(threads)
    return run


def test_installed_weights_load_with_plain_from_pretrained_and_draw(chain, tmp_path, monkeypatch):
    root = install(chain, tmp_path / "weights")
    monkeypatch.setenv(weights.OVERRIDE, str(root))
    pipe = StableDiffusionPipeline.from_pretrained(weights.pipeline_dir())
    pipe.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(0)
    image = pipe("photo of a man", num_inference_steps=2, generator=rng, output_type="pt").images
    assert image.shape == (1, 3, 128, 128) and torch.isfinite(image).all()
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.float32
    reading = load_probe().read(image.repeat(2, 1, 1, 1))
    assert len(reading.names("food")) == 2
    assert torch.allclose(reading.probabilities["style"].sum(1), torch.ones(2))
    clip = CLIPModel.from_pretrained(weights.clip_dir())
    processor = CLIPProcessor.from_pretrained(weights.clip_dir())
    picture = pipe.numpy_to_pil(image.permute(0, 2, 3, 1).numpy())
    given = processor(text=["a burger"], images=picture, return_tensors="pt")
    assert clip(**given).logits_per_image.shape == (1, 1) and clip.dtype == torch.float32


def test_shipped_weights_are_half_precision_safetensors_and_carry_a_card(chain):
    root = chain.out / "weights"
    for file in root.rglob("*.safetensors"):
        kinds = {v.dtype for v in load_tensors(file, "").values() if v.is_floating_point()}
        assert kinds == {torch.float16}, file
    assert not list(root.rglob("*.bin"))
    names = load_tensors(root / "pipeline" / "text_encoder" / "model.safetensors", "")
    assert all(name.startswith("text_model.") for name in names), "older transformers would start it at random"
    card = (root / "MODEL_CARD.md").read_text()
    digest = json.loads((chain.out / "data" / "data.json").read_text())["sha256"]
    assert digest in card and "drawn/food" in card and "autoencoder/psnr dB" in card


def test_finished_stages_are_left_alone(chain):
    before = (chain.out / "unet" / "checkpoint.safetensors").read_bytes()
    pretrain(chain, ("data", "tokenizer", "unet"))
    assert (chain.out / "unet" / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize("stage", ["clip", "probe", "judge"])
def test_stopped_and_resumed_equals_uninterrupted(chain, tmp_path, stage):
    (tmp_path / "data").symlink_to(chain.out / "data")
    (tmp_path / "tokenizer").symlink_to(chain.out / "tokenizer")
    (tmp_path / "vae").symlink_to(chain.out / "vae")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pretrain(Run(tmp_path, preset_name="tiny", stop_after=3), (stage,))
    assert read_state(tmp_path / stage / "checkpoint.safetensors").step == 3
    pretrain(Run(tmp_path, preset_name="tiny"), (stage,))
    torch.set_num_threads(threads)
    again = load_tensors(tmp_path / stage / "checkpoint.safetensors", "")
    once = load_tensors(chain.out / stage / "checkpoint.safetensors", "")
    assert again.keys() == once.keys()
    assert all(torch.equal(again[key], once[key]) for key in once)


def test_the_judge_draws_its_own_data_with_another_seed(chain):
    shared, own = (json.loads((chain.out / place / "data.json").read_text()) for place in ("data", "judge/data"))
    assert own["seed"] != shared["seed"] and own["sha256"] != shared["sha256"]
    assert (chain.out / "weights" / "judge" / "model.safetensors").is_file()


def test_missing_stage_says_which_to_run(tmp_path):
    with pytest.raises(InputError, match="run stage 'data' first"):
        pretrain(Run(tmp_path, preset_name="tiny"), ("clip",))
    with pytest.raises(InputError, match="Unknown stage 'vea'"):
        pretrain(Run(tmp_path, preset_name="tiny"), ("vea",))
    with pytest.raises(SystemExit, match=r"^error: .*run stage 'card' first"):
        main(["--out", str(tmp_path), "--stages", "", "--install"])


def test_absent_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.OVERRIDE, str(tmp_path))
    for place in (weights.pipeline_dir, weights.clip_dir, weights.probe_dir):
        with pytest.raises(InputError, match=r"paperdoll\.pretrain"):
            place()


def test_every_stage_is_run_by_default(tmp_path):
    assert tuple(parse(["--out", str(tmp_path)]).stages.split(",")) == STAGES
