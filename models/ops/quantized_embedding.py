"""`edgec::quantized_embedding`: rows of a packed int8 or int4 table."""

from __future__ import annotations

import torch

from edgec.models.weights.packing import dequantize, flat_format

__all__ = ["quantized_embedding"]


@torch.library.custom_op("edgec::quantized_embedding", mutates_args=())
def quantized_embedding(
    ids: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, width: int
) -> torch.Tensor:
    """The rows `ids` of the dequantised table.

    Args:
        ids: i32 or i64 `[1, tokens]`.
        weight: Packed integers i8, see `edgec.weight_formats`; its shape gives the bits.
        scales: f16 `[P, width / group, 16]`, or with zero points `[2, P, width / group, 16]`.
        width: K, the columns of the table.

    Returns:
        f32 `[1, tokens, width]`.
    """
    table = dequantize(
        weight, scales, flat_format(weight, scales, width), weight.shape[0] * weight.shape[2]
    )
    return torch.nn.functional.embedding(ids, table)


@quantized_embedding.register_fake
def _(ids: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, width: int) -> torch.Tensor:
    return scales.new_empty(*ids.shape, width, dtype=torch.float32)
