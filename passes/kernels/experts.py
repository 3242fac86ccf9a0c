"""Dispatches of the CPU kernels in compiler/ukernels/linear_grouped.h.

The grid has a dimension of experts or of rows beside that of strips of weights. Which rows an
expert has is read within the kernel.
"""

from __future__ import annotations

from edgec.passes.emit import Function, Size
from edgec.passes.kernels.calls import dispatch, executable
from edgec.passes.kernels.experts_shape import GroupedMatmul
from edgec.passes.kernels.linear import linear_fits
from edgec.passes.kernels.table import EXPERTS, linear

__all__ = ["grouped_fits", "grouped_template"]

_FEW_BYTES = 65536  # of weights, of a workgroup with one row


def grouped_fits(case: GroupedMatmul) -> bool:
    """Whether the kernels take the experts: rows of weights in whole steps, and no biases."""
    return linear_fits(case.x, case.weight) and not case.transposed and not case.biased


def grouped_template(symbol: str, case: GroupedMatmul, level: str) -> str:
    """The executable and the function `symbol` that calls it."""
    f = Function(symbol, x=case.x, weight=case.weight, index=case.groups)
    x, rows = f["x"], f["x"].size(0)
    numbers: dict[str, Size | float] = {
        "experts": case.experts, "n": case.n, "k": case.k, "rows": rows,
        "each": linear.MOST_WEIGHTS if case.sorted else _few_weights(case),
        "groups": case.experts if case.sorted else rows,
    }  # fmt: skip
    values = {"x": x, "w": f["weight"], ("offsets" if case.sorted else "experts"): f["index"]}
    if case.sorted:
        panels = [("f32", x.sizes)]
        (values["x"],) = dispatch(f, EXPERTS, "grouped_pack", values, panels, numbers)
    kernel = f"grouped_{'many' if case.sorted else 'few'}_{case.weight.dtype}"
    result = [("f32", (rows, case.n))]
    made = dispatch(f, EXPERTS, kernel, values, result, numbers)
    return executable(EXPERTS, level) + f.returns(*made)


def _few_weights(case: GroupedMatmul) -> int:
    return max(4, _FEW_BYTES // (case.k * (4 if case.weight.dtype == "f32" else 2)) // 4 * 4)
