"""The attention processor that carries the edits out, without ever forming a map it does not have to.

Self-attention injection is fused attention with the source's queries and keys. A cross-attention edit is
edited @ V = softmax(Q_s K_s) @ (A V) + softmax(Q_t K_t) @ (d V): fused attention over edited values.

Shapes: b batch (guidance halves, then rows), q pixels, t token, c channels, h heads.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from likeness.prompt_to_prompt.control import Control, Layer


class EditedAttention:
    """Replaces a diffusers attention processor for the length of a sampling; one per layer."""

    def __init__(self, layer: Layer, control: Control) -> None:
        self.layer, self.control = layer, control

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Map hidden states (b, q, c) or (b, c, y, x) to the same shape, as diffusers' AttnProcessor2_0 does."""
        self.control.calls += 1
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        shape = hidden_states.shape
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        mask = prepared_mask(attn, attention_mask, context)
        attend = self._cross if self.layer.is_cross else self._self
        out = attend(attn, query, key, value, mask).to(query.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        if len(shape) == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor

    def _self(self, attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        source = self.control.rows(0)
        for prompt in self.control.injected:
            rows = self.control.rows(prompt)
            query[rows], key[rows] = query[source], key[source]
        return fused(attn, query, key, value, mask)

    def _cross(self, attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        control, source = self.control, self.control.rows(0)
        if self.layer.name in control.map_layers:
            self._record(attn, query, key)
        kept = []
        for prompt, part in control.changed:
            rows = control.rows(prompt)
            own = value[rows]
            if part.own is not None:
                scaled = own * part.own.to(own)[:, None]
                kept.append((rows, query[rows].clone(), key[rows].clone(), scaled))
            if part.matrix is not None:
                value[rows] = part.matrix.to(own) @ own
            query[rows], key[rows] = query[source], key[source]
        out = fused(attn, query, key, value, mask)
        for rows, query_own, key_own, scaled in kept:
            part_mask = None if mask is None else mask[rows]
            out[rows] += fused(attn, query_own, key_own, scaled, part_mask)
        return out

    def _record(self, attn: Any, query: Tensor, key: Tensor) -> None:
        """Keep head-averaged maps; a target's own only where the edit leaves some of it."""
        control = self.control
        own = {}
        for prompt, part in control.attended.items():
            if part is None or part.own is not None:
                rows = control.rows(prompt)
                own[prompt] = head_average(attn, query[rows], key[rows])
        source = control.rows(0)
        control.record(self.layer.name, head_average(attn, query[source], key[source]), own)


def prepared_mask(attn: Any, attention_mask: Tensor | None, context: Tensor) -> Tensor | None:
    """Return the attention mask as scaled_dot_product_attention takes it: (b, h, 1 or q, t)."""
    if attention_mask is None:
        return None
    batch, tokens = context.shape[:2]
    prepared = attn.prepare_attention_mask(attention_mask, tokens, batch)
    return prepared.view(batch, attn.heads, -1, prepared.shape[-1])


def split_heads(attn: Any, values: Tensor) -> Tensor:
    """Return (b, h, n, c / h) of (b, n, c)."""
    return values.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def fused(attn: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(Q K^T * scale) @ V as (b, q, c), maps never formed."""
    query, key, value = (split_heads(attn, values) for values in (query, key, value))
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attn.scale)
    return out.transpose(1, 2).flatten(2)


def head_average(attn: Any, query: Tensor, key: Tensor) -> Tensor:
    """Return attention maps (b, q, t) in float32, averaged over heads."""
    query, key = split_heads(attn, query), split_heads(attn, key)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    scores = (query.float() * attn.scale) @ key.float().transpose(-1, -2)
    return scores.softmax(-1).mean(1)
