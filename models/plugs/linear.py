"""Plug point 4: linear layers and embeddings whose weights are stored narrower or quantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from edgec.models.ops.linear import linear
from edgec.models.ops.quantized_embedding import quantized_embedding
from edgec.models.ops.quantized_linear import quantized_linear
from edgec.weight_formats import WeightFormat

__all__ = [
    "WEIGHT_SCALES",
    "NarrowEmbedding",
    "NarrowLinear",
    "QuantizedEmbedding",
    "QuantizedMatrix",
    "narrow_weights",
]

WEIGHT_SCALES = "_scales"
"""Suffix that makes a quantised parameter's name that of its scales."""


class NarrowLinear(nn.Module):
    """`nn.Linear` over weights f32, f16 or bf16 `[N, K]`; activations stay f32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = linear(x, self.weight, self.bias)
        return result


class NarrowEmbedding(nn.Module):
    """`nn.Embedding` over a table f32, f16 or bf16 `[V, K]`; the rows come out as f32.

    `padding_idx` is kept for those who ask for it: its row is like any other here.
    """

    def __init__(self, weight: nn.Parameter, padding_idx: int | None) -> None:
        super().__init__()
        self.weight = weight
        self.padding_idx = padding_idx

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(ids, self.weight).to(torch.float32)


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix `[rows, columns]` that became packed integers and scales, parameters both.

    With `experts`, one such matrix for each of them, `[experts, rows, columns]`, or
    `[experts, columns, rows]` in checkpoints where `transposed`; packed they are one by one.
    """

    rows: int
    columns: int
    weight_format: WeightFormat
    packed: nn.Parameter = field(repr=False)
    scales: nn.Parameter = field(repr=False)
    experts: int | None = None
    transposed: bool = False

    @property
    def count(self) -> int:
        """The number of weights."""
        return (self.experts or 1) * self.rows * self.columns


class _Quantized(nn.Module):
    """A module whose parameter `weight` is packed.

    Modelling code that reads `module.weight.dtype`, to convert activations to it, is shown what
    the weight stands for: converted to the packed integers' type they would be lost.
    """

    def __init__(self, matrix: QuantizedMatrix) -> None:
        super().__init__()
        self._parameters["weight"] = matrix.packed
        self._shown = torch.empty(matrix.rows, matrix.columns, dtype=torch.float32, device="meta")
        self.weight_scales = matrix.scales

    @property
    def packed(self) -> nn.Parameter:
        """The packed integers."""
        weight = self._parameters["weight"]
        assert weight is not None
        return weight

    @property
    def weight(self) -> torch.Tensor:
        """A tensor without data, of the matrix's own shape and type."""
        return self._shown


class QuantizedLinear(_Quantized):
    """`nn.Linear` over a quantised matrix."""

    def __init__(self, matrix: QuantizedMatrix, bias: nn.Parameter | None) -> None:
        super().__init__(matrix)
        self.bias = bias
        self.features = matrix.rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = quantized_linear(
            x, self.packed, self.weight_scales, self.bias, self.features
        )
        return y


class QuantizedEmbedding(_Quantized):
    """`nn.Embedding` over a quantised table, with its `padding_idx`."""

    def __init__(self, matrix: QuantizedMatrix, padding_idx: int | None) -> None:
        super().__init__(matrix)
        self.padding_idx = padding_idx
        self.width = matrix.columns

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = quantized_embedding(ids, self.packed, self.weight_scales, self.width)
        return rows


def narrow_weights(
    model: nn.Module,
    dtype: torch.dtype,
    weight_format: WeightFormat | None = None,
    own: Mapping[str, WeightFormat | None] | None = None,
) -> dict[str, QuantizedMatrix]:
    """Replaces the linear layers and embeddings of a model on the meta device, in place.

    Subclasses are left as they are: what they add (a scale, a position offset) would be lost.
    A parameter that two modules share stays shared.

    Args:
        model: With float parameters.
        dtype: What matrices are stored in that have no format.
        weight_format: The format of matrices; None: `dtype`.
        own: Parameters that have another format, or none, by name.

    Returns:
        The quantised matrices by the name of the (first) parameter they replace.

    Raises:
        InputError: the group size does not divide a matrix.
    """
    narrowed: dict[int, nn.Parameter] = {}
    quantized: dict[int, tuple[str, QuantizedMatrix]] = {}

    def narrow(weight: torch.Tensor) -> nn.Parameter:
        if id(weight) not in narrowed:
            empty = torch.empty(weight.shape, dtype=dtype, device=weight.device)
            narrowed[id(weight)] = nn.Parameter(empty, requires_grad=False)
        return narrowed[id(weight)]

    def quantize(name: str, weight: nn.Parameter, weight_format: WeightFormat) -> QuantizedMatrix:
        if id(weight) not in quantized:
            rows, columns = weight.shape
            packed = torch.empty(
                weight_format.packed_shape(rows, columns), dtype=torch.int8, device=weight.device
            )
            scales = torch.empty(
                weight_format.scales_shape(name, rows, columns),
                dtype=torch.float16,
                device=weight.device,
            )
            first, second = (nn.Parameter(t, requires_grad=False) for t in (packed, scales))
            quantized[id(weight)] = (
                name,
                QuantizedMatrix(rows, columns, weight_format, first, second),
            )
        return quantized[id(weight)][1]

    # A table that a subclass of nn.Embedding holds keeps its type, and so does a tied lm_head.
    kept = {
        id(p)
        for m in model.modules()
        if type(m) not in (nn.Linear, nn.Embedding)
        for p in m.parameters(recurse=False)
    }
    alive = []  # an id is a name only as long as its object lives
    for name, module in list(model.named_modules()):
        if type(module) not in (nn.Linear, nn.Embedding):
            continue
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        alive.append(weight)
        replacement: nn.Module
        if id(weight) in kept:
            if isinstance(module, nn.Embedding):
                continue
            replacement = NarrowLinear(weight, module.bias)
        elif chosen := (own or {}).get(f"{name}.weight", weight_format):
            matrix = quantize(f"{name}.weight", weight, chosen)
            replacement = (
                QuantizedEmbedding(matrix, module.padding_idx)
                if isinstance(module, nn.Embedding)
                else QuantizedLinear(matrix, module.bias)
            )
        else:
            narrow_weight = narrow(weight)
            replacement = (
                NarrowEmbedding(narrow_weight, module.padding_idx)
                if isinstance(module, nn.Embedding)
                else NarrowLinear(narrow_weight, module.bias)
            )
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, replacement)
    return dict(quantized.values())
