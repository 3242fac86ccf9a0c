"""Recurrences whose state is a matrix: Mamba-2, lightning attention, the gated delta rule.

For each head, with keys and queries `[K]`, values `[V]`, a state S `[K, V]` and decays g <= 0:

    S_t = exp(g_t) S_(t-1) + k_t u_t^T        y_t = S_t^T q_t

where `u_t = v_t`, or with the delta rule `u_t = beta_t (v_t - (exp(g_t) S_(t-1))^T k_t)`. A token
with g = 0 whose u is 0 leaves the state as it was: so padding has to come in.

A prompt is computed in chunks, whose length divides the multiple that prompts are padded to. All
within a chunk is products of matrices; only the state goes from one chunk to the next
(`edgec::chunk_scan`). Sources: Dao and Gu, "Transformers are SSMs" (Mamba-2, section 6); Yang,
Kautz and Hatamizadeh, "Gated Delta Networks" (section 3.3, the WY form with decays).
"""

from __future__ import annotations

import math

import torch

from edgec.models.ops.chunk_scan import chunk_scan

__all__ = ["recurrence"]

LONGEST_CHUNK = 32


def recurrence(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    decay: torch.Tensor,
    beta: torch.Tensor | None,
    state: torch.Tensor,
    multiple: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs of a block of tokens and the state after it; see the module's text.

    Args:
        query: f32 `[tokens, groups, K]`, and `key` likewise; `groups` divides `heads`.
        value: f32 `[tokens, heads, V]`.
        decay: f32 `[tokens, heads]` or, of each row of the state, `[tokens, heads, K]`.
        beta: f32 `[tokens, heads]` with the delta rule, or None.
        state: f32 `[heads, K, V]`.
        multiple: Of which `tokens` is one, unless it is 1.

    Returns:
        f32 `[tokens, heads, V]`, and the new state.
    """
    if value.shape[0] == 1:
        return _step(query, key, value, decay, beta, state)
    tokens, heads = value.shape[:2]
    chunk = math.gcd(multiple, LONGEST_CHUNK)

    def chunks(x: torch.Tensor) -> torch.Tensor:
        """`[tokens, heads, ...]` as `[chunks, heads, tokens, ...]`."""
        return x.reshape(-1, chunk, *x.shape[1:]).transpose(1, 2)

    query, key, value, decay = (chunks(x) for x in (query, key, value, decay))
    # From a chunk's start to each token, from each token to the chunk's end, and all of it. The
    # sums are never read at two places by one operation: IREE would fuse that with the product
    # that makes them, and read what is not written yet.
    lower = torch.ones(chunk, chunk, device=value.device).tril()
    to, since = _sums(decay, lower), _sums(decay, -lower)
    after, whole = _sums(decay, 1 - lower), decay.sum(2)
    hidden = lower == 0
    per_row = decay.dim() == 4
    if per_row:
        between = to[:, :, :, None] + since[:, :, None]
        between = between.masked_fill(hidden[..., None], float("-inf")).exp()

        def scores(left: torch.Tensor) -> torch.Tensor:
            pairs = left[:, :, :, None] * key[:, :, None]
            return (_spread(pairs, heads) * between).sum(-1)

    else:
        between = (to[..., :, None] + since[..., None, :]).masked_fill(hidden, float("-inf")).exp()
        to, after, whole = to[..., None], after[..., None], whole[..., None]

        def scores(left: torch.Tensor) -> torch.Tensor:
            return _spread(left @ key.transpose(2, 3), heads) * between

    attention = scores(query)
    erase = None
    if beta is not None:
        rate = chunks(beta)[..., None]
        inverse = _inverse(scores(key) * rate)
        erase = inverse @ (_spread(key, heads) * rate * to.exp())
        value = inverse @ (value * rate)
    result, new = chunk_scan(
        _spread(query, heads) * to.exp(),
        _spread(key, heads) * after.exp(),
        value,
        erase,
        attention,
        whole.exp().expand(-1, -1, state.shape[1]),
        state,
    )
    # Of one chunk the transposed would be a view, and modelling code looks at it in other shapes.
    return result.transpose(1, 2).reshape(tokens, heads, -1).contiguous(), new


def _step(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    decay: torch.Tensor,
    beta: torch.Tensor | None,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token: the old state is read once, and written once."""
    heads = value.shape[1]
    q, k = (_spread(x, heads)[0] for x in (query, key))
    v, kept = value[0], decay[0].exp()
    if kept.dim() == 1:
        kept = kept[:, None]
    # Both products read the old state: together, in one pass.
    q_read, k_read = (torch.stack([q, k], dim=1) * kept[:, None] @ state).unbind(1)
    if beta is not None:
        v = (v - k_read) * beta[0][:, None]
    new = kept[..., None] * state + k[..., None] * v[:, None]
    return (q_read + (q * k).sum(-1, keepdim=True) * v)[None], new


def _spread(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Each group's `[:, groups, ...]` for all of its heads."""
    return x.repeat_interleave(heads // x.shape[1], dim=1) if x.shape[1] != heads else x


def _sums(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sums over the tokens of a chunk, `[chunks, heads, tokens, ...]`, for each token."""
    return weights @ x if x.dim() == 4 else x @ weights.T


def _inverse(lower: torch.Tensor) -> torch.Tensor:
    """`(1 + lower)^-1`; of `lower`, a power of two wide, only what is below the diagonal counts.

    Blocks along the diagonal are inverted, and from two of them the block of twice their size,
    `[[A, 0], [C, B]]^-1 = [[A', 0], [-B' C A', B']]`: as exact as substituting row by row, and
    made of products of whole matrices.
    """
    size = lower.shape[-1]
    row = torch.arange(size, device=lower.device)
    inverse = torch.eye(size, device=lower.device)
    block = 1
    while block < size:
        # Below an even block, an odd one with the same pair: 2i + 1 under 2i.
        here, left = row[:, None] // block, row // block
        below = torch.logical_and(here % 2 == 1, here - 1 == left)
        corner = torch.where(below, lower, 0.0)
        inverse = inverse - (corner if block == 1 else inverse @ corner @ inverse)
        block *= 2
    return inverse
