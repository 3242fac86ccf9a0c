"""Dispatches of the CPU kernels in compiler/ukernels/linear.h.

One dispatch computes one, two or three layers that read the same rows: QKV, gate and up; with what
`edgec.passes.patterns.folds` finds beside them. A few rows, a decode step, are read as they are;
more are turned into panels by a dispatch before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from edgec.passes.emit import Size, Tensor, Value
from edgec.passes.kernels.calls import dispatch, executable, workgroup_share
from edgec.passes.kernels.folds import Folds
from edgec.passes.kernels.product import Product, ProductCall, product_function
from edgec.passes.kernels.table import FLOATS, LINEAR, linear

__all__ = ["Layer", "linear_fits", "linear_norms", "linear_template"]

_MANY_WEIGHTS = (24, linear.MOST_WEIGHTS)
"""Rows of weights of a workgroup with many rows: whole tiles of every level. The smaller where the
larger would leave fewer than `_BUSY` workgroups, and of a gate, which has them of two layers."""
_BUSY = 32


@dataclass(frozen=True)
class Layer:
    """One of the layers, with the types as in `edgec::linear`."""

    weight: Tensor
    result: Tensor
    biased: bool


def linear_fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take a layer: whole steps of columns, f32 activations."""
    k = weight.shape[-1]
    return x.dtype == "f32" and weight.dtype in FLOATS and k is not None and k % linear.STEP == 0


def linear_norms(x: Tensor) -> bool:
    """Whether the kernels take the norm of the rows: few are kept in scratch memory."""
    m, k = x.rows, x.shape[-1]
    assert k is not None
    return m is None or m > linear.FEW or m * k <= linear.MOST_NORMED


def linear_template(
    symbol: str,
    x: Tensor,
    layers: list[Layer],
    results: list[Tensor],
    folds: Folds,
    level: str,
) -> str:
    """The executable and the function `symbol` of what `product_function` says.

    Args:
        x: What is read.
        layers: Which read it.
        results: Their types: of each layer, or one of a gate.
        folds: What is folded in.
        level: The kernels' feature level.
    """
    product = Product(
        x,
        features=tuple(layer.weight.shape[0] or 0 for layer in layers),
        weights=tuple((layer.weight,) for layer in layers),
        biased=tuple(layer.biased for layer in layers),
        results=results,
        folds=folds,
    )
    m, dtype = x.rows, layers[0].weight.dtype
    form = _few if m is not None and m <= linear.FEW else _many
    compute = partial(form, product, dtype)
    return executable(LINEAR, level) + product_function(symbol, product, compute)


def _few(product: Product, dtype: str, call: ProductCall) -> Sequence[Value]:
    each = _few_weights(product.features, product.k, dtype, product.gated)
    return dispatch(
        call.f, LINEAR, f"linear{_form(product)}_few_{dtype}", call.values, call.results,
        call.numbers | {"total": _total(product), "each": each},
    )  # fmt: skip


def _many(product: Product, dtype: str, call: ProductCall) -> Sequence[Value]:
    f, m = call.f, call.values["x"].size(0)
    each = _MANY_WEIGHTS[0] if product.gated else _many_weights(sum(product.features))
    padded: Size
    if isinstance(m, int):
        padded = -(-m // linear.PANEL) * linear.PANEL
    else:
        padded = m.arith("ceildivui", linear.PANEL) * linear.PANEL
    panels = [("f32", (padded, product.k))]
    (packed,) = dispatch(f, LINEAR, "linear_pack", call.values, panels, call.numbers)
    return dispatch(
        f, LINEAR, f"linear{_form(product)}_many_{dtype}", call.values | {"x": packed},
        call.results, call.numbers | {"total": _total(product), "each": each},
    )  # fmt: skip


def _total(product: Product) -> int:
    """Rows of weights, of a gate those of one layer."""
    return product.features[0] if product.gated else sum(product.features)


def _form(product: Product) -> str:
    return "_gated" if product.gated else str(len(product.features))


def _few_weights(features: tuple[int, ...], k: int, dtype: str, gated: bool) -> int:
    """Rows of weights of a workgroup with few rows, of a gate of each layer: whole tiles."""
    rows, tile = sum(features), linear.FEW_ROWS * k * (4 if dtype == "f32" else 2)
    if gated:
        rows, tile = features[0], 2 * tile
    return workgroup_share(-(-rows // linear.FEW_ROWS), tile) * linear.FEW_ROWS


def _many_weights(rows: int) -> int:
    small, large = _MANY_WEIGHTS
    return large if rows >= large * _BUSY else small
