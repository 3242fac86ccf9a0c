"""Dispatches of the CPU kernels in compiler/ukernels/linear.h, as MLIR text.

One dispatch computes one, two or three layers that read the same rows: QKV, gate and up; with what
`edgec.passes.patterns.folds` finds beside them. A few rows, a decode step, are read as they are;
more are turned into panels by a dispatch before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from edgec.passes.kernels.calls import dispatch, executable, workgroup_share
from edgec.passes.kernels.folds import Folds
from edgec.passes.kernels.product import Product, product_function
from edgec.passes.kernels.table import FLOATS, LINEAR, linear
from edgec.passes.rewriting import TorchTensor, tensor_type

__all__ = ["Layer", "linear_fits", "linear_norms", "linear_template"]

_MANY_WEIGHTS = (24, linear.MOST_WEIGHTS)
"""Rows of weights of a workgroup with many rows: whole tiles of every level. The smaller where the
larger would leave fewer than `_BUSY` workgroups, and of a gate, which has them of two layers."""
_BUSY = 32


@dataclass(frozen=True)
class Layer:
    """One of the layers, with the types as in `edgec::linear`."""

    weight: TorchTensor
    result: TorchTensor
    biased: bool


def linear_fits(x: TorchTensor, weight: TorchTensor) -> bool:
    """Whether the kernels take a layer: whole steps of columns, f32 activations."""
    k = weight.shape[-1]
    return x.dtype == "f32" and weight.dtype in FLOATS and k is not None and k % linear.STEP == 0


def linear_norms(x: TorchTensor) -> bool:
    """Whether the kernels take the norm of the rows: few are kept in scratch memory."""
    m, k = _rows(x), x.shape[-1]
    assert k is not None
    return m is None or m > linear.FEW or m * k <= linear.MOST_NORMED


def linear_template(
    symbol: str,
    x: TorchTensor,
    layers: list[Layer],
    result: list[TorchTensor],
    folds: Folds,
    level: str,
) -> str:
    """The executable and the function `symbol` of what `product_function` says.

    Args:
        x: What is read.
        layers: Which read it.
        result: The types of the results: of each layer, or one of a gate.
        folds: What is folded in.
        level: The kernels' feature level.
    """
    k = x.shape[-1]
    assert k is not None
    product = Product(
        m=_rows(x),
        k=k,
        features=tuple(layer.weight.shape[0] or 0 for layer in layers),
        weights=tuple((layer.weight.builtin,) for layer in layers),
        biased=tuple(layer.biased for layer in layers),
        folds=folds,
    )
    dtype = layers[0].weight.dtype
    few = product.m is not None and product.m <= linear.FEW
    compute = _few(product, dtype) if few else _many(product, dtype)
    return executable(LINEAR, level) + product_function(symbol, x, product, result, compute)


def _rows(x: TorchTensor) -> int | None:
    leading = x.shape[:-1]
    return None if None in leading else prod(d for d in leading if d is not None)


def _few(product: Product, dtype: str) -> str:
    each = _few_weights(product.features, product.k, dtype, product.gated)
    return _constants(product, each) + dispatch(
        "%product", LINEAR, f"linear{_form(product)}_few_{dtype}", product.operands, product.results
    )


def _many(product: Product, dtype: str) -> str:
    m, k, features = product.m, product.k, product.features
    each = _MANY_WEIGHTS[0] if product.gated else _many_weights(sum(features))
    panels = tensor_type((None if m is None else -(-m // linear.PANEL) * linear.PANEL, k), "f32")
    panels += "{%padded}" if m is None else ""
    packed = dispatch("%panels", LINEAR, "linear_pack", product.operands, [panels])
    multiplied = dispatch(
        "%product", LINEAR, f"linear{_form(product)}_many_{dtype}",
        product.operands | {"x": ("%panels", panels)}, product.results,
    )  # fmt: skip
    return f"""{_constants(product, each)}
  %panel = arith.constant {linear.PANEL} : index
  %count = arith.ceildivui %m, %panel : index
  %padded = arith.muli %count, %panel : index{packed}{multiplied}"""


def _form(product: Product) -> str:
    return "_gated" if product.gated else str(len(product.features))


def _constants(product: Product, each: int) -> str:
    total = product.features[0] if product.gated else sum(product.features)
    values = {f"n{i}": n for i, n in enumerate(product.features)}
    values |= {"k": product.k, "total": total, "each": each}
    lines = "".join(f"\n  %{name} = arith.constant {v} : index" for name, v in values.items())
    return lines + product.constants


def _few_weights(features: tuple[int, ...], k: int, dtype: str, gated: bool) -> int:
    """Rows of weights of a workgroup with few rows, of a gate of each layer: whole tiles."""
    rows, tile = sum(features), linear.FEW_ROWS * k * (4 if dtype == "f32" else 2)
    if gated:
        rows, tile = features[0], 2 * tile
    return workgroup_share(-(-rows // linear.FEW_ROWS), tile) * linear.FEW_ROWS


def _many_weights(rows: int) -> int:
    small, large = _MANY_WEIGHTS
    return large if rows >= large * _BUSY else small
