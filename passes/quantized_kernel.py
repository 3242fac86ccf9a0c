"""Dispatches of the CPU kernels in compiler/ukernels/quantized_linear.h, as MLIR text.

One dispatch computes a layer, two or three of one row, or a gate's two, with what
`edgec.passes.folds` finds beside them. A decode step's products are short: fewer dispatches halve
the waiting for each other that workers do between them, and share the cost of rounding a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.passes.folds import Folds
from edgec.passes.kernel_call import executable, export, workgroup_share, wrap_kernel
from edgec.passes.product_template import Operand, Product, dispatch, product_function
from edgec.passes.rewriting import TorchTensor, tensor_type

__all__ = [
    "BLOCK",
    "KERNELS",
    "MAX_FUSED_K",
    "QUANTIZED_ROWS",
    "Layer",
    "QuantizedShape",
    "executables",
    "kernel_fits",
    "one_row",
    "quantized_template",
]

KERNELS = "quantized_linear"
"""The kernels' source, of which there is one for each feature level."""

_NAME = "edgec_quantized_linear"
_KINDS = ("i8", "i4", "i4z")
_PARTS = (1, 2, 3)  # layers of one row that a kernel takes
BLOCK = 32  # columns that share a scale of the activations
MAX_FUSED_K = 16384
_ROWS = 256  # of a workgroup, as in the header: they stay in the second-level cache
QUANTIZED_ROWS = 8
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
    def kind(self) -> str:
        """The ending of the kernels' names: i8, i4, or i4z with zero points."""
        return f"i{self.bits}{'z' if self.zero_points else ''}"

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
    return shape.k % BLOCK == 0 and shape.group % BLOCK == 0 and zero_points


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
    return executables(level) + product_function(symbol, x, product, results, compute)


def one_row(shape: QuantizedShape) -> bool:
    """Whether a workgroup quantises the row itself."""
    return shape.m == 1 and shape.k <= MAX_FUSED_K


def _matvec(product: Product, shape: QuantizedShape) -> str:
    panels, panel = _panels(product), _panel_bytes(product, shape)
    operands, names, activation = [product.rows, product.norm, *product.matrices], ["%n0"], []
    floats: list[Operand] = [("%eps", "f32")]
    if product.gated:
        form, activation = "gated_matvec", ["%activation"]
    else:
        form, names = f"matvec{len(product.features)}", _names(product)
        operands += [*product.biases, product.added]
        floats.append(("%alpha", "f32"))
    indices = [*names, "%k", "%group", "%folds", *activation, "%each"]
    return _constants(product, shape, workgroup_share(panels, panel)) + dispatch(
        "%product", f"@{_NAME}::@{form}_{shape.kind}", ["%panels", "%each"],
        [*operands, *((i, "index") for i in indices), *floats], product.results,
    )  # fmt: skip


def _matmul(product: Product, shape: QuantizedShape) -> str:
    m, k = shape.m, shape.k
    rounded = [
        tensor_type(sizes, dtype) + product.sizes
        for sizes, dtype in [((m, k), "i8"), ((m, k // BLOCK), "f32"), ((m, k // BLOCK), "i32")]
    ]
    q = [(f"%q#{i}", type_) for i, type_ in enumerate(rounded)]
    quantize = [product.rows, product.norm, ("%m", "index"), ("%k", "index"), ("%folds", "index")]
    operands, form, told = [*q, *product.matrices], "gated_matmul", "%activation"
    floats: list[Operand] = []
    if not product.gated:
        operands += [*product.biases, product.added]
        form, told, floats = "matmul", "%folds", [("%alpha", "f32")]
    each = max(1, _WORKGROUP_BYTES // _panel_bytes(product, shape))
    indices = ["%m", "%n0", "%k", "%group", told, "%each"]
    return (
        _constants(product, shape, each)
        + dispatch(
            "%q", f"@{_NAME}::@quantize_i{shape.bits}", ["%m"], [*quantize, ("%eps", "f32")],
            rounded,
        )
        + dispatch(
            "%product", f"@{_NAME}::@{form}_{shape.kind}", ["%panels", "%each", "%m"],
            [*operands, *((i, "index") for i in indices), *floats], product.results,
        )
    )  # fmt: skip


def _panels(product: Product) -> int:
    """How many the layers have; of a gate, each of them."""
    features = product.features[:1] if product.gated else product.features
    return sum(-(-n // 16) for n in features)


def _panel_bytes(product: Product, shape: QuantizedShape) -> int:
    return 16 * shape.k * shape.bits // 8 * (2 if product.gated else 1)


def _names(product: Product) -> list[str]:
    return [f"%n{i}" for i in range(len(product.features))]


def _constants(product: Product, shape: QuantizedShape, each: int) -> str:
    values = {f"n{i}": n for i, n in enumerate(product.features)}
    values |= {"k": shape.k, "group": shape.group, "panels": _panels(product), "each": each}
    lines = "".join(f"\n  %{name} = arith.constant {v} : index" for name, v in values.items())
    return lines + product.constants


def executables(level: str) -> str:
    """The kernels as executables of a feature level."""
    exports, functions = "", ""
    for bits in (8, 4):
        exports += export(f"quantize_i{bits}", "m", f"m / {QUANTIZED_ROWS}")
        functions += _quantize_function(bits)
    for kind in _KINDS:
        for form in ("gated_matvec", *(f"matvec{parts}" for parts in _PARTS)):
            exports += export(f"{form}_{kind}", "panels each", "panels / each")
        for form in ("matmul", "gated_matmul"):
            exports += export(f"{form}_{kind}", "panels each m", "panels / each", f"m / {_ROWS}")
        functions += "".join(_matvec_function(parts, kind) for parts in _PARTS)
        functions += _gated_matvec_function(kind) + _matmul_function(kind)
        functions += _gated_matmul_function(kind)
    return executable(_NAME, KERNELS, level, exports, functions)


_FIRST = """
      %x = stream.dispatch.workgroup.id[0] : index
      %first = arith.muli %x, %each : index"""

_ROW = f"""{_FIRST}
      %y = stream.dispatch.workgroup.id[1] : index
      %count = arith.constant {_ROWS} : index
      %row = arith.muli %y, %count : index"""

_QUANTIZED = ["i8", "f32", "i32"]  # activations: integers, scales, corrections


def _quantize_function(bits: int) -> str:
    return wrap_kernel(
        f"quantize_i{bits}",
        f"edgec_quantize_rows_i{bits}",
        ["f32", "f32", *_QUANTIZED],
        indices=["m", "k", "folds"],
        body=f"""
      %x = stream.dispatch.workgroup.id[0] : index
      %count = arith.constant {QUANTIZED_ROWS} : index
      %first = arith.muli %x, %count : index""",
        extra=["first", "count"],
        floats=("eps",),
    )


def _matmul_function(kind: str) -> str:
    return wrap_kernel(
        f"matmul_{kind}",
        f"edgec_quantized_matmul_{kind}",
        [*_QUANTIZED, "i8", "f16", "f32", "f32", "f32"],
        indices=["m", "n0", "k", "group", "folds", "each"],
        body=_ROW,
        extra=["first", "each", "row", "count"],
        hidden=("each",),
        floats=("alpha",),
    )


def _gated_matmul_function(kind: str) -> str:
    return wrap_kernel(
        f"gated_matmul_{kind}",
        f"edgec_quantized_gated_matmul_{kind}",
        [*_QUANTIZED, "i8", "f16", "i8", "f16", "f32"],
        indices=["m", "n0", "k", "group", "activation", "each"],
        body=_ROW,
        extra=["first", "each", "row", "count"],
        hidden=("each",),
    )


def _matvec_function(parts: int, kind: str) -> str:
    return wrap_kernel(
        f"matvec{parts}_{kind}",
        f"edgec_quantized_matvec{parts}_{kind}",
        ["f32", "f32", *["i8", "f16"] * parts, *["f32"] * parts, "f32", *["f32"] * parts],
        indices=[*(f"n{i}" for i in range(parts)), "k", "group", "folds", "each"],
        body=_FIRST,
        extra=["first", "each"],
        hidden=("each",),
        floats=("eps", "alpha"),
    )


def _gated_matvec_function(kind: str) -> str:
    return wrap_kernel(
        f"gated_matvec_{kind}",
        f"edgec_quantized_gated_matvec_{kind}",
        ["f32", "f32", "i8", "f16", "i8", "f16", "f32"],
        indices=["n0", "k", "group", "folds", "activation", "each"],
        body=_FIRST,
        extra=["first", "each"],
        hidden=("each",),
        floats=("eps",),
    )
