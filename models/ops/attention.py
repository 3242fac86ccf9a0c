"""`edgec::attention`: causal attention of a block of tokens over a sequence's cache."""

from __future__ import annotations

import torch

__all__ = ["attention"]


@torch.library.custom_op("edgec::attention", mutates_args=())
def attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    start: torch.Tensor,
    sinks: torch.Tensor | None,
    scale: float,
    window: int,
    softcap: float,
    key_scales: torch.Tensor | None,
    value_scales: torch.Tensor | None,
) -> torch.Tensor:
    """Softmax attention with grouped query heads over rows `0 .. start + tokens` of the cache.

    The token at index i of the block sits at position `p = start + i` and sees the rows m with
    `m <= p`, and `m > p - window` where the window is not 0. Rows past `start + tokens` are
    never read into the result, whatever they hold.

    With a window the cache is a ring: position p is in row `p % capacity`. It must have room for
    the window and the block, or for all positions.

    Args:
        query: f32 `[1, query_heads, tokens, width]`.
        key_cache: `[capacity, kv_heads, width]`, the block's own rows already written.
        value_cache: `[capacity, kv_heads, value_width]`.
        start: i64 scalar, the position of the block's first token.
        sinks: f32 `[query_heads]`: a logit per head that takes part in the softmax's sum and
            has no value (gpt-oss), or None.
        scale: Factor of the scores.
        window: Sliding window in tokens, or 0.
        softcap: Scores become `softcap * tanh(score / softcap)` (gemma2), or 0.
        key_scales: f32 `[capacity, kv_heads]`, factors of the rows of an i8 cache, or None.
        value_scales: Likewise.

    Returns:
        f32 `[1, tokens, query_heads, value_width]`.
    """
    heads, kv_heads, tokens = query.shape[1], key_cache.shape[1], query.shape[2]
    end = int(start) + tokens
    low = max(0, int(start) - window + 1) if window else 0
    row = torch.arange(low, end)
    place = row % key_cache.shape[0] if window else row
    keys, values = key_cache[place].to(query.dtype), value_cache[place].to(query.dtype)
    if key_scales is not None and value_scales is not None:
        keys = keys * key_scales[place][..., None]
        values = values * value_scales[place][..., None]
    keys, values = keys.permute(1, 0, 2), values.permute(1, 0, 2)
    grouped = query[0].reshape(kv_heads, heads // kv_heads, tokens, -1)
    scores = torch.einsum("hgld,hmd->hglm", grouped, keys) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(tokens)[:, None] + int(start)
    visible = row[None] <= position
    if window:
        visible &= row[None] > position - window
    scores = scores.masked_fill(~visible, float("-inf"))
    if sinks is not None:
        sink = sinks.reshape(kv_heads, -1, 1, 1).expand(-1, -1, tokens, 1).to(scores.dtype)
        scores = torch.cat([scores, sink], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : end - low]
    result = torch.einsum("hglm,hmd->hgld", weights, values)
    return result.reshape(1, heads, tokens, -1).transpose(1, 2).contiguous()


@attention.register_fake
def _(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    start: torch.Tensor,
    sinks: torch.Tensor | None,
    scale: float,
    window: int,
    softcap: float,
    key_scales: torch.Tensor | None,
    value_scales: torch.Tensor | None,
) -> torch.Tensor:
    torch._check(
        query.shape[1] % key_cache.shape[1] == 0 and query.shape[3] == key_cache.shape[2],
        lambda: f"attention: query {query.shape}, keys {key_cache.shape}",
    )
    return query.new_empty(1, query.shape[2], query.shape[1], value_cache.shape[2])
