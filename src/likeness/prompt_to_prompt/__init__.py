"""Prompt-to-Prompt image editing with cross-attention control (Hertz et al. 2022), on diffusers pipelines.

It imports torch and diffusers only; prompts in, edited pictures out. Nothing here knows of configurations.
"""

from likeness.prompt_to_prompt.blend import LocalBlend
from likeness.prompt_to_prompt.checks import PromptToPromptWarning
from likeness.prompt_to_prompt.edits import Edit, Refine, Replace, Reweight
from likeness.prompt_to_prompt.inversion import Inversion, invert
from likeness.prompt_to_prompt.plugin import PromptToPrompt, prompt_to_prompt, seeded_latents

__all__ = [
    "Edit",
    "Inversion",
    "LocalBlend",
    "PromptToPrompt",
    "PromptToPromptWarning",
    "Refine",
    "Replace",
    "Reweight",
    "invert",
    "prompt_to_prompt",
    "seeded_latents",
]
