"""What a sampling under Prompt-to-Prompt leaves to look at: attention maps of words, and LocalBlend's masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from likeness.prompt_to_prompt.control import Control
from likeness.prompt_to_prompt.words import need, read_prompt


@dataclass(frozen=True)
class AttentionMaps:
    """Cross-attention maps averaged over steps, heads and the layers nearest 256 pixels.

    Those of targets are edited, but not re-weighted; in the reference behaviours they are re-weighted too.
    """

    control: Control
    tokenizer: Any
    prompts: list[str]

    def word(self, word: str, *, prompt: int = 0, image: int = 0) -> Tensor:
        """Return the map (y, x) of a word or phrase, on the CPU: attention probabilities averaged over its tokens.

        `prompt` 0 is the source, 1 the first target. Raises ValueError if nothing was stored or the word is
        not in that prompt, or there is no such prompt.
        """
        if not 0 <= prompt < len(self.prompts):
            raise ValueError(
                f"prompt={prompt}: expected 0 for the source, or 1 to {len(self.prompts) - 1} for a target."
            )
        if not self.control.maps:
            raise ValueError("no attention maps were stored: pass store_attention=True, and sample first.")
        tokens = need(read_prompt(self.tokenizer, self.prompts[prompt]), word, "a word to show")
        maps = self.control.averaged()[prompt, image]
        return (maps[..., tokens].mean(-1) / max(1, self.control.step)).cpu()


@dataclass(frozen=True)
class Masks:
    """The masks of LocalBlend, one per blended step."""

    control: Control

    def __len__(self) -> int:
        return len(self.control.masks)

    def at(self, index: int, *, prompt: int = 1, image: int = 0) -> Tensor:
        """Return the boolean mask (h, w) of the index-th blended step, in latent pixels, on the CPU."""
        if not self.control.masks:
            raise ValueError("no masks: pass local_blend=LocalBlend(...), and sample first.")
        return self.control.masks[index][prompt, image, 0].cpu()

    def last(self, *, prompt: int = 1, image: int = 0) -> Tensor:
        """Return the mask (h, w) of the last step."""
        return self.at(-1, prompt=prompt, image=image)
