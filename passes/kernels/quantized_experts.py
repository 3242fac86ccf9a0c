"""Dispatches of the CPU kernels in compiler/ukernels/quantized_grouped.h.

The grid has a dimension of experts or of rows beside that of panels. How many rows an expert has
is read within the kernel.
"""

from __future__ import annotations

from edgec.passes.emit import Function, Size, Value
from edgec.passes.kernels.calls import dispatch, executable
from edgec.passes.kernels.quantized import QuantizedShape, kernel_fits, rounded
from edgec.passes.kernels.table import quantized, quantized_experts_library

__all__ = ["grouped_executable", "grouped_kernel", "grouped_kernel_fits"]

_WORKGROUP_BYTES = 65536  # of weights, so that quantising a row does not weigh


def grouped_kernel_fits(shape: QuantizedShape, in_order: bool) -> bool:
    """Whether the kernels take the matrices."""
    return kernel_fits(shape) and (in_order or shape.k <= quantized.MAX_FUSED_K)


def grouped_executable(shape: QuantizedShape, level: str) -> str:
    """The executable that exports the kernels of a feature level for the matrices' format."""
    return executable(quantized_experts_library(shape.weight_format), level)


def grouped_kernel(f: Function, shape: QuantizedShape, experts: int, in_order: bool) -> Value:
    """The product of the rows with their experts' matrices.

    Args:
        f: A function of `x`, `weight`, `scales` and `index`.
        shape: Sizes of the rows and of one expert's matrix.
        experts: How many there are.
        in_order: Whether `index` has the offsets that divide the rows among the experts, and
            `counts` how many of them each has, or `index` has each row's own expert.
    """
    library, ending = quantized_experts_library(shape.weight_format), shape.weight_format.name
    rows = f["x"].size(0)
    values = {"x": f["x"], "w": f["weight"], "ws": f["scales"]}
    numbers: dict[str, Size | float] = {
        "n": shape.n, "k": shape.k, "group": shape.group, "panels": shape.panels, "m": rows,
        "each": max(1, _WORKGROUP_BYTES * 8 // (16 * shape.k * shape.bits)),
        "experts": experts, "groups": experts if in_order else rows,
    }  # fmt: skip
    if in_order:
        values |= {"offsets": f["index"], "counts": f["counts"]}
        integers = rounded(f["x"], shape.weight_format)
        made = dispatch(f, library, f"quantize_groups_{ending}", values, integers, numbers)
        values |= dict(zip("qsc", made, strict=True))
        name = f"grouped_matmul_{ending}"
    else:
        values["experts"] = f["index"]
        name = f"grouped_matvec_{ending}"
    result = ("f32", (rows, shape.n))
    return dispatch(f, library, name, values, [result], numbers)[0]
