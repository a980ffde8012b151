"""The DreamBooth objective (Ruiz et al. 2023, eq. 2): instance loss + weight x prior loss; min-SNR weights.

Legend: b rows of the micro-batch, instance rows first, class rows after; c h w latent.
"""

from __future__ import annotations

import math

from jaxtyping import Float, Int
from torch import Tensor

from likeness.dreambooth.settings import POLYNOMIAL_END


def dreambooth_loss(
    noise_pred: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    num_instance: int,
    prior_loss_weight: float,
    weights: Float[Tensor, " b"] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (total, instance, prior); the total is the sum of the two means, as published, no average.

    `weights` are per row, so each half is weighted by its own timesteps.
    """
    per_row = (noise_pred.float() - target.float()).square().mean(dim=(1, 2, 3))
    if weights is not None:
        per_row = per_row * weights
    instance = per_row[:num_instance].mean()
    if len(per_row) == num_instance:
        return instance, instance, per_row.new_zeros(())
    prior = per_row[num_instance:].mean()
    return instance + prior_loss_weight * prior, instance, prior


def training_target(noise_scheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the UNet must predict: the noise, or the velocity (Salimans and Ho 2022, app. D)."""
    kind = noise_scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    assert kind == "v_prediction", kind  # refused before training starts
    return noise_scheduler.get_velocity(latents, noise, timesteps)


def min_snr_weights(
    alphas_cumprod: Float[Tensor, " t"], timesteps: Int[Tensor, " b"], gamma: float, prediction_type: str
) -> Float[Tensor, " b"]:
    """Return the loss weight of each row (Hang et al. 2023, sec. 3.4), for epsilon or v-prediction."""
    signal = alphas_cumprod[timesteps].double()
    snr = signal / (1 - signal)
    clipped = snr.clamp(max=gamma)
    weights = clipped / snr if prediction_type == "epsilon" else clipped / (snr + 1)
    return weights.nan_to_num(1.0).float()  # zero terminal SNR with epsilon: 0/0, whose limit is 1


def lr_factor(name: str, step: int, total: int, warmup: int, learning_rate: float) -> float:
    """Return the factor of every learning rate at optimizer step `step` (from 0); a function of the step alone.

    As diffusers' `get_scheduler`, whose polynomial decay ends at a rate, so that its factor depends on
    `learning_rate`; unlike there, warm-up is also done where the name does not say so.
    """
    if step < warmup:
        return step / max(1, warmup)
    left = max(0.0, min(1.0, (total - step) / max(1, total - warmup)))
    return _DECAYS[name](left, learning_rate)


def _cosine(left: float, learning_rate: float) -> float:
    return 0.5 * (1 - math.cos(math.pi * left))


def _polynomial(left: float, learning_rate: float) -> float:
    """Decay with power 1 to POLYNOMIAL_END."""
    end = POLYNOMIAL_END / learning_rate
    return end + (1 - end) * left


_DECAYS = {
    "constant": lambda left, learning_rate: 1.0,
    "constant_with_warmup": lambda left, learning_rate: 1.0,
    "linear": lambda left, learning_rate: left,
    "cosine": _cosine,
    "polynomial": _polynomial,
}
