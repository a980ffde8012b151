"""The real path at Stable Diffusion 1.5's true dimensions, with random weights: load, edit for one step."""

import pytest
import torch

from likeness.models import ModelSource, load_pipeline
from likeness.prompt_to_prompt import Replace, prompt_to_prompt, seeded_latents


def random_weights(build):
    """Build on no memory, then fill with small numbers; the libraries' own initialisation takes minutes."""
    with torch.device("meta"):
        module = build()
    module = module.to_empty(device="cpu").half()
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.02)
    for name, buffer in module.named_buffers():
        if "position_ids" in name:
            buffer.copy_(torch.arange(buffer.shape[-1])[None])
    return module


@pytest.mark.slow
def test_true_dimensions_load_and_edit(tiny_sd, tmp_path):
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    unet = random_weights(lambda: UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8))
    assert 855e6 < sum(p.numel() for p in unet.parameters()) < 865e6
    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    vae = random_weights(
        lambda: AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    StableDiffusionPipeline(
        vae=vae, text_encoder=random_weights(lambda: CLIPTextModel(text)), unet=unet, scheduler=scheduler,
        tokenizer=CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer"), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(tmp_path / "sd15")  # fmt: skip
    del unet, vae
    pipe = load_pipeline(ModelSource("sd15", str(tmp_path / "sd15")), dtype="float32")
    edit = Replace("a photo of a dog", cross_replace_steps=1.0, self_replace_steps=1.0)
    with prompt_to_prompt(pipe, "a photo of a cat", [edit], store_attention=True) as p2p:
        latents = pipe(
            **p2p.inputs, latents=p2p.latents(seeded_latents([0], (4, 64, 64))), num_inference_steps=1,
            output_type="latent",
        ).images  # fmt: skip
    assert latents.shape == (2, 4, 64, 64) and latents.isfinite().all()
    assert p2p.attention_maps.word("dog", prompt=1).shape == (16, 16)
