"""`edgec::grouped_matmul`: rows in groups, each group by the weights of its expert."""

from __future__ import annotations

from itertools import pairwise

import torch

__all__ = ["ROW_BLOCK", "grouped_matmul"]

ROW_BLOCK = 16
"""Groups of sorted rows start at multiples of this, so that a tile has rows of one expert only."""


@torch.library.custom_op("edgec::grouped_matmul", mutates_args=())
def grouped_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    offsets: torch.Tensor | None,
    experts: torch.Tensor | None,
    transposed: bool,
) -> torch.Tensor:
    """`x[i] @ weight[e].T + bias[e]`, where e is the expert of row i.

    Which that is, one of two arguments says:

    - `offsets`, i32 `[experts + 1]`, for rows sorted by expert: those of expert e are
      `offsets[e] .. offsets[e + 1]`, both multiples of 16 (`ROW_BLOCK`). An expert may have none
      and one expert may have all. What the result holds past the last offset is undefined.
    - `experts`, i32 `[rows]`, for a few rows in any order: each row's own. Only the weights of
      these experts are read.

    Products and sums are in the type of `x`; the weights may be stored narrower.

    Args:
        x: f32 `[rows, K]`; with `offsets`, rows is a multiple of 16.
        weight: f32, f16 or bf16 `[experts, N, K]`, or `[experts, K, N]` when `transposed`.
        bias: f32 `[experts, N]` or None.
        offsets: See above, or None.
        experts: See above, or None.
        transposed: Which of its two forms `weight` has.

    Returns:
        f32 `[rows, N]`.
    """
    matrices = weight if transposed else weight.transpose(1, 2)
    result = x.new_zeros(x.shape[0], matrices.shape[2])
    if experts is not None:
        spans = [(i, i + 1, int(e)) for i, e in enumerate(experts)]
    else:
        assert offsets is not None
        bounds = offsets.tolist()
        spans = [(a, b, e) for e, (a, b) in enumerate(pairwise(bounds))]
    for begin, end, expert in spans:
        product = x[begin:end] @ matrices[expert].to(x.dtype)
        result[begin:end] = product if bias is None else product + bias[expert]
    return result


@grouped_matmul.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    offsets: torch.Tensor | None,
    experts: torch.Tensor | None,
    transposed: bool,
) -> torch.Tensor:
    torch._check((offsets is None) != (experts is None), lambda: "offsets or experts, not both")
    count, n, k = weight.shape
    if transposed:
        n, k = k, n
    torch._check(
        x.shape[1] == k and (bias is None or bias.shape == (count, n)),
        lambda: f"edgec::grouped_matmul: rows {x.shape} by experts {weight.shape}",
    )
    return x.new_empty(x.shape[0], n)
