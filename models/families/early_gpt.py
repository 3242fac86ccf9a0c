"""gpt_neo, openai-gpt: attention of their own, from before there were caches of fixed size.

The one tells the positions of queries by the number of keys, as is right over a cache that grows;
the other knows no cache at all. Here positions come from where the call's tokens start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgec.models.plugs.attention import attend
from edgec.models.plugs.discovery import CausalMask
from edgec.models.plugs.state import active_state

__all__ = ["REPLACED"]


def _gpt_neo(
    self: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, None]:
    """`GPTNeoSelfAttention._attn`, over f32 `[1, heads, tokens, width]` and all rows of the cache.

    The mask that is given has no window; scores are not scaled.
    """
    window = int(self.config.window_size) if self.attention_type == "local" else 0
    return _over_all_rows(query, key, value, window, 1.0), None


def _openai_gpt(
    self: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    output_attentions: bool = False,
) -> list[torch.Tensor]:
    """`Attention._attn`, over f32 `[1, heads, tokens, width]`, of keys the transposed."""
    state = active_state()
    key, value = state.update(k.transpose(2, 3), v, self.layer_idx)
    scale = float(v.shape[-1]) ** -0.5 if self.scale else 1.0
    if state.discovery.native_attention:
        return [_over_all_rows(q, key, value, 0, scale)]
    result, _ = attend(self, q, key, value, CausalMask(0), scaling=scale)
    return [result.transpose(1, 2)]


def _over_all_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, scale: float
) -> torch.Tensor:
    """Of f32 `[1, heads, rows, width]` each query sees its position's row and those before."""
    position = active_state().start + torch.arange(query.shape[2], device=query.device)[:, None]
    row = torch.arange(key.shape[2], device=query.device)
    visible = row <= position
    if window:
        visible = visible & (row > position - window)
    scores = query @ key.transpose(-1, -2) * scale
    scores = torch.where(visible, scores, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1) @ value


REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    ("GPTNeoSelfAttention", "_attn"): _gpt_neo,
    ("openai.Attention", "_attn"): _openai_gpt,
}
"""Class and method to what it is during a call."""
