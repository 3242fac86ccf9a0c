"""Dispatches of the CPU kernels in compiler/ukernels/quantized_grouped.h, as MLIR text.

The grid has a dimension of experts or of rows beside that of panels. How many rows an expert has
is read within the kernel.
"""

from __future__ import annotations

from edgec.passes.kernels.calls import Operand, dispatch, executable
from edgec.passes.kernels.quantized import QuantizedShape, kernel_fits
from edgec.passes.kernels.table import quantized, quantized_experts_library
from edgec.passes.rewriting import tensor_type

__all__ = ["grouped_kernel_fits", "grouped_kernel_template"]

_WORKGROUP_BYTES = 65536  # of weights, so that quantising a row does not weigh


def grouped_kernel_fits(shape: QuantizedShape, in_order: bool) -> bool:
    """Whether the kernels take the matrices."""
    return kernel_fits(shape) and (in_order or shape.k <= quantized.MAX_FUSED_K)


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
    compute = _sorted(shape, experts) if in_order else _few(shape, experts)
    return executable(quantized_experts_library(shape.form), kernel), _constants(shape) + compute


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
    values: dict[str, Operand] = {
        "x": ("%x", rows + dynamic), "w": ("%weight", weight), "ws": ("%scales", scales),
        "experts": ("%index", tensor_type((shape.m,), "i32") + dynamic),
    }  # fmt: skip
    return dispatch(
        "%product", quantized_experts_library(shape.form), f"grouped_matvec_{shape.form.name}",
        values, [out + dynamic], {"groups": "%all"},
    )  # fmt: skip


def _sorted(shape: QuantizedShape, experts: int) -> str:
    weight, scales, rows, out = _types(shape, experts)
    dynamic = "{%all}" if shape.m is None else ""
    sizes = (shape.m, shape.k), (shape.m, shape.k // quantized.BLOCK)
    integers = [
        tensor_type(sizes[0], "i8") + dynamic,
        tensor_type(sizes[1], "f32") + dynamic,
        tensor_type(sizes[1], "i32") + dynamic,
    ]
    values: dict[str, Operand] = {
        "x": ("%x", rows + dynamic), "w": ("%weight", weight), "ws": ("%scales", scales),
        "offsets": ("%index", tensor_type((experts + 1,), "i32")),
        "counts": ("%counts", tensor_type((experts,), "i32")),
    }  # fmt: skip
    library, form = quantized_experts_library(shape.form), shape.form.name
    quantize = dispatch("%q", library, f"quantize_groups_{form}", values, integers, {"m": "%all"})
    values |= {
        name: (f"%q#{i}", type_)
        for i, (name, type_) in enumerate(zip("qsc", integers, strict=True))
    }
    return f"""
  %experts = arith.constant {experts} : index{quantize}""" + dispatch(
        "%product", library, f"grouped_matmul_{form}", values, [out + dynamic],
        {"groups": "%experts"},
    )  # fmt: skip
