"""`edgec::cache_update`: writes the rows of a block of tokens into a state buffer."""

from __future__ import annotations

import torch

__all__ = ["cache_update"]


@torch.library.custom_op("edgec::cache_update", mutates_args=())
def cache_update(
    cache: torch.Tensor, new: torch.Tensor, start: torch.Tensor, ring: bool
) -> torch.Tensor:
    """`cache` with `new` at rows `start` and on, converted to the cache's type.

    Compiled, this happens in place: the result is the same buffer.

    Args:
        cache: `[capacity, heads, width]`.
        new: `[tokens, heads, width]`; `start + tokens` must not exceed the capacity, or in a
            ring `tokens` must not.
        start: i64 scalar, the position of the first new row.
        ring: Whether position p is in row `p % capacity`.

    Returns:
        Like `cache`.
    """
    result = cache.clone()
    rows = int(start) + torch.arange(new.shape[0])
    result[rows % cache.shape[0] if ring else rows] = new.to(cache.dtype)
    return result


@cache_update.register_fake
def _(cache: torch.Tensor, new: torch.Tensor, start: torch.Tensor, ring: bool) -> torch.Tensor:
    torch._check(cache.shape[1:] == new.shape[1:], lambda: f"cache {cache.shape}, new {new.shape}")
    return torch.empty_like(cache)
