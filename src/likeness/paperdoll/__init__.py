"""The embedded model: a drawn world with known truth, and the latent-diffusion model trained on it."""
