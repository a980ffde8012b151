"""A lab bench for editing personalised diffusion models."""

import os

# Without it torch takes no matrix product on a GPU for reproducible. It is read once, at the first one of the process.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

__version__ = "0.1.0"
