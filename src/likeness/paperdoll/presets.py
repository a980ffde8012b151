"""Sizes and plans of pretraining: `tiny` for tests, `cpu` for two cores, `gpu` for one data-centre GPU."""

from __future__ import annotations

from dataclasses import dataclass

from likeness.paperdoll.checkpoints import Plan


@dataclass(frozen=True)
class Preset:
    """What is trained and for how long; pictures are 128 px, latents 16x16."""

    pictures: int
    encoded: int  # pictures the UNet trains on, encoded once
    captions: int  # per picture
    reconstructions: int  # pictures the probe also sees as the autoencoder redraws them
    vae_widths: tuple[int, ...]
    latent_channels: int
    clip_width: int
    clip_layers: int
    probe_widths: tuple[int, ...]
    unet_widths: tuple[int, ...]
    judge_pictures: int  # drawn for the judge alone
    judge_widths: tuple[int, ...]
    judge_blocks: tuple[int, ...]  # residual blocks at 64, 32, 16 and 8 px
    vae: Plan
    clip: Plan
    probe: Plan
    unet: Plan
    judge: Plan
    crop: int = 64
    text_rate: float = 0.0  # learning rate of the text encoder over the UNet's; 0 keeps CLIP's tower
    evaluation: int = 256  # pictures of each measurement in the model card


PRESETS = {
    "tiny": Preset(
        pictures=48, encoded=48, captions=2, reconstructions=8, vae_widths=(8, 8, 16, 16), latent_channels=8,
        clip_width=32, clip_layers=1, probe_widths=(8, 16, 16, 16, 16), unet_widths=(16, 16, 32),
        judge_pictures=24, judge_widths=(8, 8, 16, 16), judge_blocks=(0, 1, 1, 1),
        vae=Plan(6, 4, 1e-3, warmup=2), clip=Plan(6, 8, 1e-3, warmup=2), probe=Plan(6, 8, 1e-3, warmup=2),
        unet=Plan(6, 4, 1e-3, warmup=2), judge=Plan(6, 8, 1e-3, warmup=2), evaluation=8, text_rate=0.3,
    ),
    "cpu": Preset(
        pictures=48_000, encoded=48_000, captions=6,
        reconstructions=1500, vae_widths=(16, 32, 64, 128), latent_channels=8,
        clip_width=128, clip_layers=3, probe_widths=(32, 64, 128, 128, 96), unet_widths=(48, 96, 224),
        judge_pictures=40_000, judge_widths=(32, 64, 128, 192), judge_blocks=(0, 1, 2, 2),
        vae=Plan(24_000, 8, 1.5e-3, ema=0.998), clip=Plan(2500, 64, 1e-3, weight_decay=0.01),
        probe=Plan(6000, 48, 1e-3, ema=0.998, weight_decay=0.01),
        unet=Plan(30_000, 32, 1e-3, warmup=100, ema=0.998),
        judge=Plan(18_000, 16, 2e-3, warmup=100, ema=0.998, weight_decay=0.02), evaluation=128,
    ),
    "gpu": Preset(
        pictures=200_000, encoded=200_000, captions=6,
        reconstructions=20_000, vae_widths=(16, 32, 64, 128), latent_channels=8,
        clip_width=128, clip_layers=3, probe_widths=(32, 64, 128, 128, 96), unet_widths=(48, 96, 224),
        judge_pictures=100_000, judge_widths=(32, 64, 128, 192), judge_blocks=(0, 1, 2, 2),
        vae=Plan(20_000, 64, 1e-3, warmup=500, ema=0.999),
        clip=Plan(8_000, 512, 1e-3, warmup=500, weight_decay=0.05),
        probe=Plan(20_000, 256, 1e-3, warmup=500, ema=0.999, weight_decay=0.02),
        unet=Plan(60_000, 512, 1e-3, warmup=1000, ema=0.9995),
        judge=Plan(20_000, 128, 1e-3, warmup=500, ema=0.999, weight_decay=0.02), evaluation=512,
    ),
}  # fmt: skip
