"""A lab bench for editing personalised diffusion models."""

__version__ = "0.1.0"
