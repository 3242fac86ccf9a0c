"""Dispatches of the CPU kernels in compiler/ukernels/quantized_grouped.h, as MLIR text.

The grid has a dimension of experts or of rows beside that of panels. How many rows an expert has
is read within the kernel.
"""

from __future__ import annotations

from edgec.passes.kernel_call import executable, export, wrap_kernel
from edgec.passes.quantized_kernel import (
    BLOCK,
    KERNELS,
    MAX_FUSED_K,
    QUANTIZED_ROWS,
    QuantizedShape,
    kernel_fits,
)
from edgec.passes.rewriting import tensor_type

__all__ = ["executables", "grouped_kernel_fits", "grouped_kernel_template"]

_NAME = "edgec_quantized_grouped"
_WORKGROUP_BYTES = 65536  # of weights, so that quantising a row does not weigh


def grouped_kernel_fits(shape: QuantizedShape, in_order: bool) -> bool:
    """Whether the kernels take the matrices."""
    return kernel_fits(shape) and (in_order or shape.k <= MAX_FUSED_K)


def grouped_kernel_template(
    shape: QuantizedShape, experts: int, in_order: bool, kernel: str
) -> tuple[str, str]:
    """The executable that wraps the kernels, and text that computes %product from %x.

    Args:
        shape: Of the rows, %all as a value, and of one expert's matrix.
        experts: How many there are.
        in_order: Whether %index has the offsets that divide the rows among the experts, and
            %counts how many of them each has, or %index has each row's own expert.
        kernel: The feature level.
    """
    dispatch = _sorted(shape, experts) if in_order else _few(shape, experts)
    return executables(kernel), _constants(shape) + dispatch


def executables(level: str) -> str:
    """The kernels as executables of a feature level."""
    exports = "".join(_exports(bits) for bits in (8, 4))
    functions = "".join(_functions(bits) for bits in (8, 4))
    return executable(_NAME, KERNELS, level, exports, functions)


def _constants(shape: QuantizedShape) -> str:
    each = max(1, _WORKGROUP_BYTES * 8 // (16 * shape.k * shape.bits))
    return f"""  %n = arith.constant {shape.n} : index
  %k = arith.constant {shape.k} : index
  %group = arith.constant {shape.group} : index
  %panels = arith.constant {shape.panels} : index
  %each = arith.constant {each} : index"""


def _types(shape: QuantizedShape, experts: int) -> tuple[str, str, str, str]:
    """Of the weights, the scales, the rows and the result."""
    return (
        tensor_type((experts, shape.panels, shape.k * shape.bits // 32, 16, 4), "i8"),
        tensor_type((experts, shape.panels, shape.k // shape.group, 16), "f16"),
        tensor_type((shape.m, shape.k), "f32"),
        tensor_type((shape.m, shape.n), "f32"),
    )


def _few(shape: QuantizedShape, experts: int) -> str:
    weight, scales, rows, out = _types(shape, experts)
    dynamic = "{%all}" if shape.m is None else ""
    own = tensor_type((shape.m,), "i32")
    return f"""
  %product = flow.dispatch @{_NAME}::@grouped_matvec_i{shape.bits}[%panels, %each, %all](
      %x, %weight, %scales, %index, %n, %k, %group, %each)
      : ({rows}{dynamic}, {weight}, {scales}, {own}{dynamic}, index, index, index, index)
      -> {out}{dynamic}"""


def _sorted(shape: QuantizedShape, experts: int) -> str:
    weight, scales, rows, out = _types(shape, experts)
    dynamic = "{%all}" if shape.m is None else ""
    m, k = shape.m, shape.k
    offsets = tensor_type((experts + 1,), "i32")
    q, s = tensor_type((m, k), "i8"), tensor_type((m, k // BLOCK), "f32")
    c = tensor_type((m, k // BLOCK), "i32")
    return f"""
  %experts = arith.constant {experts} : index
  %q:3 = flow.dispatch @{_NAME}::@quantize_groups_i{shape.bits}[%all](
      %x, %index, %experts, %k)
      : ({rows}{dynamic}, {offsets}, index, index) -> ({q}{dynamic}, {s}{dynamic}, {c}{dynamic})
  %product = flow.dispatch @{_NAME}::@grouped_matmul_i{shape.bits}[%panels, %each, %experts](
      %q#0, %q#1, %q#2, %weight, %scales, %index, %counts, %n, %k, %group, %each)
      : ({q}{dynamic}, {s}{dynamic}, {c}{dynamic}, {weight}, {scales}, {offsets},
         tensor<{experts}xi32>, index, index, index, index) -> {out}{dynamic}"""


def _exports(bits: int) -> str:
    grid = ("panels each groups", "panels / each", "groups")
    return "".join(
        [
            export(f"quantize_groups_i{bits}", "m", f"m / {QUANTIZED_ROWS}"),
            export(f"grouped_matmul_i{bits}", *grid),
            export(f"grouped_matvec_i{bits}", *grid),
        ]
    )


def _functions(bits: int) -> str:
    """The exported functions: they unwrap the bindings and call the kernel's C function."""
    panels = """
      %x = stream.dispatch.workgroup.id[0] : index
      %first = arith.muli %x, %each : index
      %y = stream.dispatch.workgroup.id[1] : index"""
    return (
        wrap_kernel(
            f"quantize_groups_i{bits}",
            f"edgec_quantize_groups_i{bits}",
            ["f32", "i32", "i8", "f32", "i32"],
            indices=["experts", "k"],
            body=f"""
      %x = stream.dispatch.workgroup.id[0] : index
      %count = arith.constant {QUANTIZED_ROWS} : index
      %first = arith.muli %x, %count : index""",
            extra=["first", "count"],
        )
        + wrap_kernel(
            f"grouped_matmul_i{bits}",
            f"edgec_grouped_matmul_i{bits}",
            ["i8", "f32", "i32", "i8", "f16", "i32", "i32", "f32"],
            indices=["n", "k", "group", "each"],
            body=panels,
            extra=["first", "each", "y"],
            hidden=("each",),
        )
        + wrap_kernel(
            f"grouped_matvec_i{bits}",
            f"edgec_grouped_matvec_i{bits}",
            ["f32", "i8", "f16", "i32", "f32"],
            indices=["n", "k", "group", "each"],
            body=panels,
            extra=["first", "each", "y"],
            hidden=("each",),
        )
    )
