"""`edgec::chunk_scan`: a recurrence with a matrix as its state, a chunk of tokens at a time."""

from __future__ import annotations

import torch

__all__ = ["chunk_scan"]


@torch.library.custom_op("edgec::chunk_scan", mutates_args=())
def chunk_scan(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    erase: torch.Tensor | None,
    attention: torch.Tensor,
    decay: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each chunk i in turn, with the state S `[K, V]` of each head:

        u   = value_i - erase_i @ S
        out = query_i @ S + attention_i @ u
        S   = decay_i * S + key_i^T @ u

    What happens within a chunk is in the arguments: how the decays are worked into them is the
    caller's (`edgec.models.plugs.recurrence`). `erase` is that of the delta rule; 0 without it.

    Args:
        query: f32 `[chunks, heads, tokens, K]`, and `key` and `erase` likewise.
        value: f32 `[chunks, heads, tokens, V]`.
        erase: See above, or None.
        attention: f32 `[chunks, heads, tokens, tokens]`.
        decay: f32 `[chunks, heads, K]`, of each row of the state.
        state: f32 `[heads, K, V]`.

    Returns:
        f32 `[chunks, heads, tokens, V]`, and the state after the last chunk.
    """
    current, results = state, []
    for i in range(query.shape[0]):
        new = value[i] if erase is None else value[i] - erase[i] @ current
        results.append(query[i] @ current + attention[i] @ new)
        current = decay[i][..., None] * current + key[i].transpose(1, 2) @ new
    return torch.stack(results), current.clone()


@chunk_scan.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    erase: torch.Tensor | None,
    attention: torch.Tensor,
    decay: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    torch._check(
        state.shape == (query.shape[1], query.shape[3], value.shape[3]),
        lambda: f"chunk_scan: query {query.shape}, value {value.shape}, state {state.shape}",
    )
    return torch.empty_like(value), torch.empty_like(state)
