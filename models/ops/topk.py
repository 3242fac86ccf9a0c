"""`edgec::topk`: the k largest elements of each row, and where they are."""

from __future__ import annotations

import torch

__all__ = ["topk"]


@torch.library.custom_op("edgec::topk", mutates_args=())
def topk(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest elements of each row, largest first; of equal ones the first comes first.

    torch leaves the order of equal elements open. This order is a fixed one, so that a router or
    a sampler gives the same answer on every target. NaN takes no part: it is never larger.

    Args:
        x: f32 `[..., n]`.
        k: From 1 to n.

    Returns:
        Values, f32 `[..., k]`, and their indices, i64 `[..., k]`.
    """
    order = torch.argsort(x, dim=-1, descending=True, stable=True)[..., :k]
    return x.gather(-1, order), order.contiguous()


@topk.register_fake
def _(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch._check(
        0 < k <= x.shape[-1],
        lambda: f"edgec::topk: {k} of {x.shape[-1]} elements",
    )
    shape = (*x.shape[:-1], k)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)
