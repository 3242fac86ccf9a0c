"""Dispatches of the CPU kernels in compiler/ukernels/linear.h, as MLIR text.

One dispatch computes one, two or three layers that read the same rows: QKV, gate and up; with what
`edgec.passes.folds` finds beside them. A few rows, a decode step, are read as they are; more are
turned into panels by a dispatch before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from edgec.passes.folds import Folds
from edgec.passes.kernel_call import executable, export, workgroup_share, wrap_kernel
from edgec.passes.product_template import Product, dispatch, product_function
from edgec.passes.rewriting import TorchTensor, tensor_type

__all__ = ["PACKED", "Layer", "executables", "linear_fits", "linear_norms", "linear_template"]

_DTYPES = ("f32", "f16", "bf16")
_PARTS = (1, 2, 3)  # layers that a kernel takes
PACKED = (32, 512)
"""Rows, whole panels, and columns that a workgroup turns into panels."""

_STEP, _FEW, _PANEL, _MOST_ROWS, _MOST_NORMED = 32, 8, 16, 256, 8192  # as in linear.h
_MANY_WEIGHTS = (24, 48)
"""Rows of weights of a workgroup with many rows: whole tiles of every level. The smaller where the
larger would leave fewer than `_BUSY` workgroups, and of a gate, which has them of two layers."""
_BUSY = 32
_FEW_WEIGHTS = 4  # rows of weights of a tile with few rows


@dataclass(frozen=True)
class Layer:
    """One of the layers, with the types as in `edgec::linear`."""

    weight: TorchTensor
    result: TorchTensor
    biased: bool


def linear_fits(x: TorchTensor, weight: TorchTensor) -> bool:
    """Whether the kernels take a layer: whole steps of columns, f32 activations."""
    k = weight.shape[-1]
    return x.dtype == "f32" and weight.dtype in _DTYPES and k is not None and k % _STEP == 0


def linear_norms(x: TorchTensor) -> bool:
    """Whether the kernels take the norm of the rows: few are kept in scratch memory."""
    m, k = _rows(x), x.shape[-1]
    assert k is not None
    return m is None or m > _FEW or m * k <= _MOST_NORMED


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
    few = product.m is not None and product.m <= _FEW
    compute = _few(product, dtype) if few else _many(product, dtype)
    return executables(level) + product_function(symbol, x, product, result, compute)


def _rows(x: TorchTensor) -> int | None:
    leading = x.shape[:-1]
    return None if None in leading else prod(d for d in leading if d is not None)


def _few(product: Product, dtype: str) -> str:
    features = product.features
    each = _few_weights(features, product.k, dtype, product.gated)
    entry = f"@edgec_linear::@few{_form(product)}_{dtype}"
    operands = [product.rows, product.norm, *product.matrices]
    names = ["%n0"]
    if not product.gated:
        operands += [*product.biases, product.added]
        names = [f"%n{i}" for i in range(len(features))]
    activation = ["%activation"] if product.gated else []
    alpha = [] if product.gated else [("%alpha", "f32")]
    indices = ["%m", *names, "%k", "%folds", *activation, "%each"]
    return _constants(product, each) + dispatch(
        "%product", entry, ["%total", "%each"],
        [*operands, *((i, "index") for i in indices), ("%eps", "f32"), *alpha], product.results,
    )  # fmt: skip


def _many(product: Product, dtype: str) -> str:
    m, k, features = product.m, product.k, product.features
    each = _MANY_WEIGHTS[0] if product.gated else _many_weights(sum(features))
    entry = f"@edgec_linear::@many{_form(product)}_{dtype}"
    panels = tensor_type((None if m is None else -(-m // _PANEL) * _PANEL, k), "f32")
    panels += "{%padded}" if m is None else ""
    pack = [product.rows, product.norm, ("%m", "index"), ("%k", "index"), ("%folds", "index")]
    operands = [("%panels", panels), *product.matrices]
    names = ["%n0"]
    if not product.gated:
        operands += [*product.biases, product.added]
        names = [f"%n{i}" for i in range(len(features))]
    indices = ["%m", *names, "%k", "%activation" if product.gated else "%folds", "%each"]
    operands += [(i, "index") for i in indices]
    operands += [] if product.gated else [("%alpha", "f32")]
    return f"""{_constants(product, each)}
  %panel = arith.constant {_PANEL} : index
  %count = arith.ceildivui %m, %panel : index
  %padded = arith.muli %count, %panel : index{
        dispatch(
            "%panels", "@edgec_linear::@pack", ["%m", "%k"], [*pack, ("%eps", "f32")], [panels]
        )
    }{dispatch("%product", entry, ["%total", "%each", "%m"], operands, product.results)}"""


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
    rows, tile = sum(features), _FEW_WEIGHTS * k * (4 if dtype == "f32" else 2)
    if gated:
        rows, tile = features[0], 2 * tile
    return workgroup_share(-(-rows // _FEW_WEIGHTS), tile) * _FEW_WEIGHTS


def _many_weights(rows: int) -> int:
    small, large = _MANY_WEIGHTS
    return large if rows >= large * _BUSY else small


def executables(level: str) -> str:
    """The kernels as executables of a feature level."""
    exports = [export("pack", "m k", f"m / {PACKED[0]}", f"k / {PACKED[1]}")]
    functions = [
        wrap_kernel(
            "pack",
            "edgec_linear_pack",
            ["f32", "f32", "f32"],
            indices=["m", "k", "folds"],
            body=f"""
      %x = stream.dispatch.workgroup.id[0] : index
      %rows = arith.constant {PACKED[0]} : index
      %row = arith.muli %x, %rows : index
      %y = stream.dispatch.workgroup.id[1] : index
      %columns = arith.constant {PACKED[1]} : index
      %column = arith.muli %y, %columns : index""",
            extra=["row", "rows", "column", "columns"],
            floats=("eps",),
        )
    ]
    for dtype in _DTYPES:
        for form in ("_gated", *map(str, _PARTS)):
            exports += [
                export(f"few{form}_{dtype}", "total each", "total / each"),
                export(f"many{form}_{dtype}", "total each m", "total / each", f"m / {_MOST_ROWS}"),
            ]
        for parts in _PARTS:
            functions += [_few_function(parts, dtype), _many_function(parts, dtype)]
        functions += [_few_gated(dtype), _many_gated(dtype)]
    return executable("edgec_linear", "linear", level, "".join(exports), "".join(functions))


_FIRST = """
      %x = stream.dispatch.workgroup.id[0] : index
      %first = arith.muli %x, %each : index"""

_ROWS = f"""{_FIRST}
      %y = stream.dispatch.workgroup.id[1] : index
      %rows = arith.constant {_MOST_ROWS} : index
      %row = arith.muli %y, %rows : index"""


def _few_function(parts: int, dtype: str) -> str:
    return wrap_kernel(
        f"few{parts}_{dtype}",
        f"edgec_linear{parts}_few_{dtype}",
        ["f32", "f32", *[dtype] * parts, *["f32"] * parts, "f32", *["f32"] * parts],
        indices=["m", *(f"n{i}" for i in range(parts)), "k", "folds", "each"],
        body=_FIRST,
        extra=["first", "each"],
        hidden=("each",),
        floats=("eps", "alpha"),
    )


def _many_function(parts: int, dtype: str) -> str:
    return wrap_kernel(
        f"many{parts}_{dtype}",
        f"edgec_linear{parts}_many_{dtype}",
        ["f32", *[dtype] * parts, *["f32"] * parts, "f32", *["f32"] * parts],
        indices=["m", *(f"n{i}" for i in range(parts)), "k", "folds", "each"],
        body=_ROWS,
        extra=["first", "each", "row", "rows"],
        hidden=("each",),
        floats=("alpha",),
    )


def _few_gated(dtype: str) -> str:
    return wrap_kernel(
        f"few_gated_{dtype}",
        f"edgec_linear_gated_few_{dtype}",
        ["f32", "f32", dtype, dtype, "f32"],
        indices=["m", "n0", "k", "folds", "activation", "each"],
        body=_FIRST,
        extra=["first", "each"],
        hidden=("each",),
        floats=("eps",),
    )


def _many_gated(dtype: str) -> str:
    return wrap_kernel(
        f"many_gated_{dtype}",
        f"edgec_linear_gated_many_{dtype}",
        ["f32", dtype, dtype, "f32"],
        indices=["m", "n0", "k", "activation", "each"],
        body=_ROWS,
        extra=["first", "each", "row", "rows"],
        hidden=("each",),
    )
