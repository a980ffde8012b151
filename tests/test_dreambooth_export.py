"""Exported files are read back by diffusers and draw the same picture to 1e-4."""

import pytest
import tiny_dreambooth as tiny
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open

from likeness.errors import InputError
from likeness.export import export, main, unet_name
from likeness.models import load_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def latents(pipe) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return pipe("photo of tuki man", latents=noise, num_inference_steps=3, output_type="pt").images


def metadata(file) -> dict:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_a_full_model_becomes_one_file(tmp_path, capsys):
    tiny.train_tiny(tmp_path / "run", num_train_steps=2, train_text_encoder=True)
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "one.safetensors")]) == 0
    folder = tmp_path / "run" / "model"
    again = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "one.safetensors"), config=str(folder), local_files_only=True, safety_checker=None
    )
    wanted = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert torch.allclose(latents(again), latents(wanted), atol=1e-4)
    assert metadata(tmp_path / "one.safetensors")["modelspec.trigger_phrase"] == "tuki man"


def test_a_lora_becomes_a_kohya_file_with_its_alpha(tmp_path):
    options = {
        "method": "lora",
        "lora_text_encoder": True,
        "lora_rank": 2,
        "lora_alpha": 6,
        "learning_rate": 1e-2,
    }
    tiny.train_tiny(tmp_path / "run", num_train_steps=3, **options)
    file = export(tmp_path / "run")
    assert file == tmp_path / "run" / "export" / "run.safetensors"
    pipes = [load_pipeline(tiny.source(tiny.root() / "model")) for _ in range(3)]
    pipes[0].load_lora_weights(str(tmp_path / "run" / "lora"))
    pipes[1].load_lora_weights(str(file.parent), weight_name=file.name)
    assert torch.allclose(latents(pipes[0]), latents(pipes[1]), atol=1e-4)
    assert not torch.allclose(latents(pipes[0]), latents(pipes[2]), atol=1e-2)
    known = metadata(file)
    assert known["ss_network_dim"] == "2" and known["ss_network_alpha"] == "6.0"
    assert known["modelspec.architecture"] == "stable-diffusion-v1/lora" and known["ss_output_name"] == "run"
    assert known["ss_base_model_version"] == "sd_v1" and known["ss_v2"] == "False"
    with safe_open(file, "pt") as opened:
        names = list(opened.keys())
    assert any(n.startswith("lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down") for n in names)
    assert any(n.endswith("attn2_to_out_0.alpha") for n in names)


@pytest.mark.parametrize(
    ("prediction_type", "version", "architecture"),
    [("epsilon", "sd_v2", "v2-512"), ("v_prediction", "sd_v2_v", "v2-768-v")],
)
def test_a_lora_names_the_base_it_was_trained_on(tmp_path, prediction_type, version, architecture):
    """2.x is known by the width of its text encoder; programs refuse, or misread, a LoRA of another family."""
    base = tiny.save_model(tmp_path / "sd21", prediction_type=prediction_type, width=1024)
    tiny.train_tiny(tmp_path / "run", model=base, method="lora", num_train_steps=1, num_class_images=2)
    known = metadata(export(tmp_path / "run"))
    assert (known["ss_base_model_version"], known["ss_v2"], known["ss_sd_model_name"]) == (version, "True", "sd21")
    assert known["modelspec.architecture"] == f"stable-diffusion-{architecture}/lora"
    assert f"base_model: {base}\n" in (tmp_path / "run" / "README.md").read_text()


def test_every_tensor_of_the_sd15_unet_has_its_original_name():
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    names = [unet_name(name, unet.config) for name in unet.state_dict()]
    assert len(names) == len(set(names)) == 686
    for known in (
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "input_blocks.3.0.op.weight",
        "input_blocks.11.0.out_layers.3.weight",
        "middle_block.1.proj_in.weight",
        "middle_block.2.emb_layers.1.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.2.conv.bias",
        "output_blocks.11.1.norm.weight",
        "time_embed.2.bias",
        "out.2.weight",
    ):
        assert known in names


def test_what_cannot_be_exported_says_so(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "no finished fine-tuned model" in capsys.readouterr().err
    import json

    from likeness.export import export_checkpoint

    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text(json.dumps({"hidden_size": 1024}))
    with pytest.raises(InputError, match=r"Stable Diffusion 2\.x"):
        export_checkpoint(tmp_path, tmp_path / "x.safetensors")
