"""Dispatches of the CPU kernels in compiler/ukernels/quantized_linear.h.

One dispatch computes a layer, two or three of one row, or a gate's two, with what
`edgec.passes.patterns.folds` finds beside them. A decode step's products are short: fewer
dispatches halve the time lost at barriers, and share the cost of rounding a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from edgec.passes.emit import Tensor, Value
from edgec.passes.kernels.calls import Made, dispatch, executable, workgroup_share
from edgec.passes.kernels.folds import Folds
from edgec.passes.kernels.product import Product, ProductCall, product_function
from edgec.passes.kernels.table import quantized, quantized_library
from edgec.weight_formats import WeightFormat

__all__ = ["Layer", "QuantizedShape", "kernel_fits", "one_row", "quantized_template", "rounded"]

_WORKGROUP_BYTES = 32768  # of weights: some microseconds of work


@dataclass(frozen=True)
class QuantizedShape:
    """Sizes of a layer: `m` rows (None: dynamic), `n` features, `k` columns."""

    m: int | None
    n: int
    k: int
    group: int
    bits: int
    zero_points: bool = False

    @property
    def panels(self) -> int:
        return -(-self.n // 16)

    @property
    def columns(self) -> int:
        """Columns of a block: four bytes, of one weight each or of two."""
        return 32 // self.bits

    @property
    def blocks(self) -> tuple[int, ...]:
        """The columns as groups, blocks of a group, the nibbles of 4 bits, and bytes."""
        nibbles = (2,) if self.bits == 4 else ()
        return (self.k // self.group, self.group // self.columns, *nibbles, 4)

    @property
    def weight_format(self) -> WeightFormat:
        """The weight format of its kernels."""
        return WeightFormat(self.bits, offset="zero_point" if self.zero_points else "")

    @staticmethod
    def of(m: int | None, n: int, x: Tensor, weight: Tensor, scales: Tensor) -> QuantizedShape:
        """Raises ValueError when the tensors do not belong together."""
        k, groups = x.shape[-1], scales.shape[-2]
        if k is None or not groups or weight.shape[1] not in (k // 4, k // 8):
            raise ValueError(f"quantized_linear: x {x}, weight {weight}, scales {scales}")
        bits = 8 if weight.shape[1] == k // 4 else 4
        return QuantizedShape(m, n, k, k // groups, bits, len(scales.shape) == 4)


@dataclass(frozen=True)
class Layer:
    """One of the layers: its sizes, and the types as in `edgec::quantized_linear`."""

    shape: QuantizedShape
    weight: Tensor
    scales: Tensor
    result: Tensor
    biased: bool


def kernel_fits(shape: QuantizedShape) -> bool:
    """Whether the kernels take the layer: whole blocks of columns within each group."""
    zero_points = shape.bits == 4 or not shape.zero_points
    return shape.k % quantized.BLOCK == 0 and shape.group % quantized.BLOCK == 0 and zero_points


def quantized_template(
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
        layers: Which read it; several only of one row, or if a gate is folded in.
        results: Their types: of each layer, or one of a gate.
        folds: What is folded in.
        level: The kernels' feature level.
    """
    shape = layers[0].shape
    product = Product(
        x,
        features=tuple(layer.shape.n for layer in layers),
        weights=tuple((layer.weight, layer.scales) for layer in layers),
        biased=tuple(layer.biased for layer in layers),
        results=results,
        folds=folds,
    )
    compute = partial(_matvec if one_row(shape) else _matmul, product, shape)
    kernels = executable(quantized_library(shape.weight_format), level)
    return kernels + product_function(symbol, product, compute)


def one_row(shape: QuantizedShape) -> bool:
    """Whether a workgroup quantises the row itself."""
    return shape.m == 1 and shape.k <= quantized.MAX_FUSED_K


def _matvec(product: Product, shape: QuantizedShape, call: ProductCall) -> Sequence[Value]:
    panels, panel = _panels(product), _panel_bytes(product, shape)
    name = "gated_matvec" if product.gated else f"matvec{len(product.features)}"
    library = quantized_library(shape.weight_format)
    more = {"group": shape.group, "panels": panels, "each": workgroup_share(panels, panel)}
    return dispatch(
        call.f, library, f"quantized_{name}_{shape.weight_format.name}", call.values, call.results,
        call.numbers | more,
    )  # fmt: skip


def _matmul(product: Product, shape: QuantizedShape, call: ProductCall) -> Sequence[Value]:
    each = max(1, _WORKGROUP_BYTES // _panel_bytes(product, shape))
    numbers = call.numbers | {"group": shape.group, "panels": _panels(product), "each": each}
    library, ending = quantized_library(shape.weight_format), shape.weight_format.name
    integers = rounded(call.values["x"], shape.weight_format)
    made = dispatch(call.f, library, f"quantize_rows_{ending}", call.values, integers, numbers)
    values = call.values | dict(zip("qsc", made, strict=True))
    name = f"quantized_{'gated_' * product.gated}matmul_{ending}"
    return dispatch(call.f, library, name, values, call.results, numbers)


def rounded(x: Value, weight_format: WeightFormat) -> list[Made]:
    """Rows as integers, with a scale for each block and a sum for each span of columns."""
    m, k = x.size(0), x.tensor.shape[1]
    assert k is not None
    spans = k // weight_format.span
    return [("i8", (m, k)), ("f32", (m, k // quantized.BLOCK)), ("i32", (m, spans))]


def _panels(product: Product) -> int:
    """How many the layers have; of a gate, each of them."""
    features = product.features[:1] if product.gated else product.features
    return sum(-(-n // 16) for n in features)


def _panel_bytes(product: Product, shape: QuantizedShape) -> int:
    return 16 * shape.k * shape.bits // 8 * (2 if product.gated else 1)
