"""Draw with and without Prompt-to-Prompt on a tiny pipeline; shared by the tests of the plug-in."""

import torch
from p2p_reference import NaiveAttention

from likeness.prompt_to_prompt import prompt_to_prompt, seeded_latents

SOURCE = "A painting of a squirrel eating a burger"
TARGET = "A painting of a lion eating a burger"
LASAGNE = "A painting of a squirrel eating a lasagne"
STEPS = 4


def noise(*seeds, size=(8, 8)):
    return seeded_latents(seeds, (4, *size))


def draw(pipe, edits, start, *, source=SOURCE, guidance=5.0, steps=STEPS, **options):
    """Latents by prompt, and the context."""
    with prompt_to_prompt(pipe, source, edits, images_per_prompt=len(start), **options) as p2p:
        latents = pipe(
            **p2p.inputs, latents=p2p.latents(start), num_inference_steps=steps, guidance_scale=guidance,
            output_type="latent",
        ).images  # fmt: skip
    return p2p.split(latents), p2p


def plain(pipe, prompt, start, guidance=5.0, **options):
    return pipe(
        [prompt] * len(start), latents=start, num_inference_steps=STEPS, guidance_scale=guidance, output_type="latent",
        **options,
    ).images  # fmt: skip


def pictures_of(pipe, latents):
    """Pictures (n, 3, h, w) in [0, 1]."""
    with torch.no_grad():
        pictures = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return pipe.image_processor.postprocess(pictures, output_type="pt")


def attention_of(pipe, prompt, start, guidance, pixels):
    """Cross-attention maps (pixels, t) of a plain sampling, over heads, layers of so many pixels, and steps."""
    kept, original = [], dict(pipe.unet.attn_processors)

    def keep(probabilities, is_cross, place):
        if is_cross and probabilities.shape[1] == pixels:
            rows = probabilities.unflatten(0, (2 if guidance > 1 else 1, -1))
            kept.append(rows[-1].mean(0))

    pipe.unet.set_attn_processor({name: NaiveAttention(keep, "", ".attn2." in name) for name in original})
    try:
        plain(pipe, prompt, start, guidance)
    finally:
        pipe.unet.set_attn_processor(original)
    return torch.stack(kept).mean(0)


def tiny_xl(tiny_sd):
    """A StableDiffusionXLPipeline of random weights, with autoencoder and tokenizer of the tiny one."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64, transformer_layers_per_block=(1, 2), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
    )  # fmt: skip
    config = CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, projection_dim=32
    )
    tokenizer = CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")
    pipe = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(tiny_sd / "vae"), text_encoder=CLIPTextModel(config), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(config), tokenizer_2=tokenizer, unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    for module in unet.modules():
        if hasattr(module, "to_q"):
            module.to_q.weight.data *= 6
            module.to_v.weight.data *= 6
    return pipe


def close(a, b, atol=5e-4):  # latents of this random model reach 20
    torch.testing.assert_close(a, b, atol=atol, rtol=0)
