"""`edgec::quantized_cache_update`: writes a block of tokens into an int8 state buffer."""

from __future__ import annotations

import torch

__all__ = ["quantized_cache_update"]


@torch.library.custom_op("edgec::quantized_cache_update", mutates_args=())
def quantized_cache_update(
    cache: torch.Tensor, scales: torch.Tensor, new: torch.Tensor, start: torch.Tensor, ring: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`cache` and `scales` with `new`, rounded to int8, at rows `start` and on.

    A head's row is scaled by its largest magnitude over 127 and rounded, ties to even. Compiled,
    this happens in place: the results are the same buffers.

    Args:
        cache: i8 `[capacity, heads, width]`.
        scales: f32 `[capacity, heads]`.
        new: f32 `[tokens, heads, width]`; `start + tokens` must not exceed the capacity, or in a
            ring `tokens` must not.
        start: i64 scalar, the position of the first new row.
        ring: Whether position p is in row `p % capacity`.

    Returns:
        Like `cache` and `scales`.
    """
    rows, factors = cache.clone(), scales.clone()
    place = int(start) + torch.arange(new.shape[0])
    if ring:
        place %= cache.shape[0]
    most = new.abs().amax(dim=-1)
    inverse = torch.where(most > 1e-30, 127 / most, torch.zeros_like(most))
    rows[place] = (new * inverse[..., None]).round().to(torch.int8)
    factors[place] = most / 127
    return rows, factors


@quantized_cache_update.register_fake
def _(
    cache: torch.Tensor, scales: torch.Tensor, new: torch.Tensor, start: torch.Tensor, ring: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    torch._check(
        cache.shape[1:] == new.shape[1:] and cache.shape[:2] == scales.shape,
        lambda: f"cache {cache.shape}, scales {scales.shape}, new {new.shape}",
    )
    return torch.empty_like(cache), torch.empty_like(scales)
