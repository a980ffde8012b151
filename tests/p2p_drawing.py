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


def close(a, b, atol=5e-4):  # latents of this random model reach 20
    torch.testing.assert_close(a, b, atol=atol, rtol=0)
