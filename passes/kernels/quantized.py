"""Dispatches of the CPU kernels in compiler/ukernels/quantized_linear.h, as MLIR text.

One dispatch computes a layer, two or three of one row, or a gate's two, with what
`edgec.passes.patterns.folds` finds beside them. A decode step's products are short: fewer
dispatches halve the time lost at barriers, and share the cost of rounding a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.passes.kernels.calls import Operand, dispatch, executable, workgroup_share
from edgec.passes.kernels.folds import Folds
from edgec.passes.kernels.product import Product, product_function
from edgec.passes.kernels.table import quantized, quantized_library
from edgec.passes.rewriting import TorchTensor, tensor_type
from edgec.weight_formats import WeightFormat

__all__ = ["Layer", "QuantizedShape", "kernel_fits", "one_row", "quantized_template"]

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
    def form(self) -> WeightFormat:
        """The weight format of its kernels."""
        return WeightFormat(self.bits, offset="zero_point" if self.zero_points else "")

    @staticmethod
    def of(
        m: int | None, n: int, x: TorchTensor, weight: TorchTensor, scales: TorchTensor
    ) -> QuantizedShape:
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
    weight: TorchTensor
    scales: TorchTensor
    result: TorchTensor
    biased: bool


def kernel_fits(shape: QuantizedShape) -> bool:
    """Whether the kernels take the layer: whole blocks of columns within each group."""
    zero_points = shape.bits == 4 or not shape.zero_points
    return shape.k % quantized.BLOCK == 0 and shape.group % quantized.BLOCK == 0 and zero_points


def quantized_template(
    symbol: str,
    x: TorchTensor,
    layers: list[Layer],
    results: list[TorchTensor],
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
    first = layers[0].shape
    product = Product(
        m=first.m,
        k=first.k,
        features=tuple(layer.shape.n for layer in layers),
        weights=tuple((layer.weight.builtin, layer.scales.builtin) for layer in layers),
        biased=tuple(layer.biased for layer in layers),
        folds=folds,
    )
    compute = (_matvec if one_row(first) else _matmul)(product, first)
    return executable(quantized_library(first.form), level) + product_function(
        symbol, x, product, results, compute
    )


def one_row(shape: QuantizedShape) -> bool:
    """Whether a workgroup quantises the row itself."""
    return shape.m == 1 and shape.k <= quantized.MAX_FUSED_K


def _matvec(product: Product, shape: QuantizedShape) -> str:
    panels, panel = _panels(product), _panel_bytes(product, shape)
    name = "gated_matvec" if product.gated else f"matvec{len(product.features)}"
    return _constants(product, shape, workgroup_share(panels, panel)) + dispatch(
        "%product", quantized_library(shape.form), f"quantized_{name}_{shape.form.name}",
        product.operands, product.results,
    )  # fmt: skip


def _matmul(product: Product, shape: QuantizedShape) -> str:
    m, k = shape.m, shape.k
    rounded = [
        tensor_type(sizes, dtype) + product.sizes
        for sizes, dtype in [
            ((m, k), "i8"),
            ((m, k // quantized.BLOCK), "f32"),
            ((m, k // shape.form.span), "i32"),
        ]
    ]  # fmt: skip
    rows: dict[str, Operand] = {
        name: (f"%q#{i}", type_) for i, (name, type_) in enumerate(zip("qsc", rounded, strict=True))
    }
    name, library = "gated_matmul" if product.gated else "matmul", quantized_library(shape.form)
    each = max(1, _WORKGROUP_BYTES // _panel_bytes(product, shape))
    return (
        _constants(product, shape, each)
        + dispatch(
            "%q", library, f"quantize_rows_{shape.form.name}", product.operands, rounded
        )
        + dispatch(
            "%product", library, f"quantized_{name}_{shape.form.name}", product.operands | rows,
            product.results,
        )
    )  # fmt: skip


def _panels(product: Product) -> int:
    """How many the layers have; of a gate, each of them."""
    features = product.features[:1] if product.gated else product.features
    return sum(-(-n // 16) for n in features)


def _panel_bytes(product: Product, shape: QuantizedShape) -> int:
    return 16 * shape.k * shape.bits // 8 * (2 if product.gated else 1)


def _constants(product: Product, shape: QuantizedShape, each: int) -> str:
    values = {f"n{i}": n for i, n in enumerate(product.features)}
    values |= {"k": shape.k, "group": shape.group, "panels": _panels(product), "each": each}
    lines = "".join(f"\n  %{name} = arith.constant {v} : index" for name, v in values.items())
    return lines + product.constants
