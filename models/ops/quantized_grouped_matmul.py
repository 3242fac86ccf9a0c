"""`edgec::quantized_grouped_matmul`: rows in groups, each by its expert's packed weights."""

from __future__ import annotations

import torch

from edgec.models.ops.grouped_matmul import grouped_matmul
from edgec.models.weights.packing import dequantize, flat_format

__all__ = ["quantized_grouped_matmul"]


@torch.library.custom_op("edgec::quantized_grouped_matmul", mutates_args=())
def quantized_grouped_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    offsets: torch.Tensor | None,
    counts: torch.Tensor | None,
    experts: torch.Tensor | None,
    features: int,
) -> torch.Tensor:
    """`edgec::grouped_matmul` over int8 or int4 weights, one packed matrix for each expert.

    A target's kernel may round activations to int8 in blocks of 32 columns, see
    `edgec::quantized_linear`.

    Args:
        x: f32 `[rows, K]`; with `offsets`, rows is a multiple of 16.
        weight: Packed integers i8 `[experts, P, K / 4 or K / 8, 16, 4]`, each expert's as
            `edgec.weight_formats` packs a matrix `[features, K]`.
        scales: f16 `[experts, P, K / group, 16]`.
        bias: f32 `[experts, features]` or None.
        offsets: i32 `[experts + 1]`, where each expert's rows start, or None.
        counts: i32 `[experts]` with `offsets`, else None: how many of an expert's rows, from the
            first, are looked at. What the result holds in the others is undefined.
        experts: i32 `[rows]`, each row's own expert, or None. Exactly one of the two is given.
        features: N, the rows of each matrix.

    Returns:
        f32 `[rows, features]`.
    """
    wide = torch.stack(
        [
            dequantize(w, s, flat_format(w, s, x.shape[1]), features)
            for w, s in zip(weight, scales, strict=True)
        ]
    )
    result: torch.Tensor = grouped_matmul(x, wide, bias, offsets, experts, False)
    return result


@quantized_grouped_matmul.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    offsets: torch.Tensor | None,
    counts: torch.Tensor | None,
    experts: torch.Tensor | None,
    features: int,
) -> torch.Tensor:
    torch._check((offsets is None) != (experts is None), lambda: "offsets or experts, not both")
    torch._check((offsets is None) == (counts is None), lambda: "offsets need counts")
    torch._check(
        x.shape[1] in (weight.shape[2] * 4, weight.shape[2] * 8)
        and scales.shape[:2] == weight.shape[:2]
        and (bias is None or bias.shape == (weight.shape[0], features)),
        lambda: f"edgec::quantized_grouped_matmul: rows {x.shape} by experts {weight.shape}",
    )
    return x.new_empty(x.shape[0], features)
