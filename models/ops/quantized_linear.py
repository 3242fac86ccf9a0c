"""`edgec::quantized_linear`: a linear layer over packed int8 or int4 weights."""

from __future__ import annotations

import torch

from edgec.models.weights.packing import dequantize, flat_format

__all__ = ["quantized_linear"]


@torch.library.custom_op("edgec::quantized_linear", mutates_args=())
def quantized_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    features: int,
) -> torch.Tensor:
    """`x @ dequantized.T + bias`, sums in f32.

    A target's kernel may round activations to int8 in blocks of 32 columns, each scaled by its
    largest magnitude; docs/quantisation.md says which do.

    Args:
        x: Activations, f32 `[..., K]`.
        weight: Packed integers i8, see `edgec.weight_formats`; K and its shape give the
            bits.
        scales: f16 `[P, K / group, 16]`, or with zero points `[2, P, K / group, 16]`.
        bias: f32 `[features]` or None.
        features: N, the rows of the matrix.

    Returns:
        f32 `[..., features]`.
    """
    wide = dequantize(weight, scales, flat_format(weight, scales, x.shape[-1]), features)
    return torch.nn.functional.linear(x, wide, bias)


@quantized_linear.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    features: int,
) -> torch.Tensor:
    torch._check(
        x.shape[-1] in (weight.shape[1] * 4, weight.shape[1] * 8),
        lambda: f"quantized_linear: {x.shape} by {weight.shape}",
    )
    return x.new_empty(*x.shape[:-1], features)
