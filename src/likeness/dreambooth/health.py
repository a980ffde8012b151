"""Is the model still editable: how the identifier's and the class word's cross-attention maps are shaped.

Prompt-to-Prompt moves these maps; a word whose map is spread over the whole picture, or squeezed into one
spot, cannot be edited. Measured against the base model. Not from a paper; it predicts, it does not prove.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST_MAP = 32  # side of the largest map read; larger ones cost memory and say little about place
TOP_SHARE = 0.1


class MapReader:
    """Attention processor that computes what diffusers' own does, and keeps the chosen tokens' maps."""

    def __init__(self, maps: list[Tensor]) -> None:
        self.maps = maps

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        """Attend as usual; append (b, heads averaged, pixels, tokens) to the list."""
        batch = hidden_states.shape[0]
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probs = attn.get_attention_scores(query, key, None)
        if probs.shape[1] <= LARGEST_MAP**2:
            self.maps.append(probs.float().view(batch, attn.heads, *probs.shape[1:]).mean(1))
        hidden_states = attn.batch_to_head_dim(torch.bmm(probs, value))
        return attn.to_out[1](attn.to_out[0](hidden_states))


def word_maps(unet, noisy_latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> list[Tensor]:
    """Return a forward pass's cross-attention maps, (b, pixels, tokens) per layer; restore processors."""
    kept = dict(unet.attn_processors)
    maps: list[Tensor] = []
    read = {name: MapReader(maps) if ".attn2." in name else processor for name, processor in kept.items()}
    unet.set_attn_processor(read)
    try:
        with torch.no_grad():
            unet(noisy_latents, timesteps, prompt_embeds)
    finally:
        unet.set_attn_processor(kept)
    return maps


def shape_of(maps: list[Tensor], tokens: list[int]) -> dict[str, float]:
    """Return entropy (1 = spread evenly), focus (share in the strongest tenth of pixels) and mass of a word.

    Averaged over pictures and layers; mass is the mean share of a pixel's attention that the word receives.
    """
    entropy, focus, mass = [], [], []
    for layer in maps:
        pixels = layer.shape[1]
        if pixels < 4:
            continue
        word = layer[..., tokens].sum(-1)
        place = word / word.sum(-1, keepdim=True).clamp_min(1e-12)
        entropy.append(-(place * place.clamp_min(1e-12).log()).sum(-1).mean() / math.log(pixels))
        focus.append(place.topk(max(1, round(TOP_SHARE * pixels)), dim=-1).values.sum(-1).mean())
        mass.append(word.mean())
    if not entropy:
        return {}
    stack = {"entropy": entropy, "focus": focus, "mass": mass}
    return {name: float(torch.stack(values).mean()) for name, values in stack.items()}


def token_positions(tokenizer, prompt: str, words: str) -> list[int]:
    """Return where the tokens of `words` stand in the tokenized prompt, first occurrence; [] if nowhere."""
    inside = tokenizer(prompt).input_ids
    wanted = tokenizer(words, add_special_tokens=False).input_ids
    for start in range(len(inside) - len(wanted) + 1):
        if inside[start : start + len(wanted)] == wanted:
            return list(range(start, start + len(wanted)))
    return []


def measure(pipe, concept, latents: Tensor, noise: Tensor, timesteps: Tensor, noise_scheduler) -> dict[str, float]:
    """Return entropy, focus and mass of a concept's identifier and class word over its own noised photos."""
    from likeness.dreambooth.batches import tokenize

    ids = tokenize(pipe.tokenizer, [concept.instance_prompt]).to(latents.device)
    with torch.no_grad():
        embeds = pipe.text_encoder(ids)[0].expand(len(latents), -1, -1)
    noisy = noise_scheduler.add_noise(latents, noise, timesteps).to(embeds.dtype)
    maps = word_maps(pipe.unet, noisy.to(pipe.unet.dtype), timesteps, embeds.to(pipe.unet.dtype))
    values = {}
    for role, words in (("identifier", concept.identifier), ("class", concept.class_word)):
        tokens = token_positions(pipe.tokenizer, concept.instance_prompt, words)
        if tokens:
            values |= {f"{role}_{name}": value for name, value in shape_of(maps, tokens).items()}
    return values
