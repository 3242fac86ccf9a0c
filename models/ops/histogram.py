"""`edgec::histogram`: how many rows go to each expert."""

from __future__ import annotations

import torch

__all__ = ["histogram"]


@torch.library.custom_op("edgec::histogram", mutates_args=())
def histogram(ids: torch.Tensor, length: torch.Tensor, bins: int) -> torch.Tensor:
    """Counts how often each of `0 .. bins - 1` occurs in the first `length` rows of `ids`.

    What a padded prompt holds past its true length is not counted, and so routed nowhere.

    Args:
        ids: i64 `[rows, k]`. Values outside the bins are not counted.
        length: i64 scalar, at most `rows`.
        bins: The number of bins, at least 1.

    Returns:
        i32 `[bins]`, exact.
    """
    counted = ids[: int(length), :, None] == torch.arange(bins)
    return counted.sum(dim=(0, 1), dtype=torch.int32)


@histogram.register_fake
def _(ids: torch.Tensor, length: torch.Tensor, bins: int) -> torch.Tensor:
    torch._check(ids.dim() == 2 and bins > 0, lambda: f"edgec::histogram: ids {ids.shape}")
    return ids.new_empty(bins, dtype=torch.int32)
