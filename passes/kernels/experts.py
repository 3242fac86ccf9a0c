"""Dispatches of the CPU kernels in compiler/ukernels/linear_grouped.h, as MLIR text.

The grid has a dimension of experts or of rows beside that of strips of weights. Which rows an
expert has is read within the kernel.
"""

from __future__ import annotations

from edgec.passes.kernels.calls import Operand, dispatch, executable
from edgec.passes.kernels.experts_shape import GroupedMatmul
from edgec.passes.kernels.linear import linear_fits
from edgec.passes.kernels.table import EXPERTS, linear
from edgec.passes.rewriting import tensor_type

__all__ = ["grouped_fits", "grouped_template"]

_FEW_BYTES = 65536  # of weights, of a workgroup with one row


def grouped_fits(case: GroupedMatmul) -> bool:
    """Whether the kernels take the experts: rows of weights in whole steps, and no biases."""
    return linear_fits(case.x, case.weight) and not case.transposed and not case.biased


def grouped_template(symbol: str, case: GroupedMatmul, level: str) -> str:
    """The executable and the function `symbol` of %x, %weight and %index."""
    x, weight, result, groups = (
        case.x.builtin, case.weight.builtin, case.result.builtin, case.groups,
    )  # fmt: skip
    dynamic = "{%rows}" if case.rows is None else ""
    each = linear.MOST_WEIGHTS if case.sorted else _few_weights(case)
    dtype = case.weight.dtype
    constants = {"experts": case.experts, "n": case.n, "k": case.k, "each": each}
    lines = "\n".join(f"  %{name} = arith.constant {v} : index" for name, v in constants.items())
    index: Operand = ("%index", groups if case.sorted else groups + dynamic)
    values: dict[str, Operand] = {"x": ("%x", x + dynamic), "w": ("%weight", weight)}
    if case.sorted:
        panels = tensor_type((case.rows, case.k), "f32") + dynamic
        values["offsets"] = index
        compute = dispatch("%panels", EXPERTS, "grouped_pack", values, [panels])
        values["x"] = ("%panels", panels)
        form, count = "many", "%experts"
    else:
        values["experts"] = index
        compute, form, count = "", "few", "%rows"
    compute += dispatch(
        "%result", EXPERTS, f"grouped_{form}_{dtype}", values, [result + dynamic], {"groups": count}
    )
    return f"""
{executable(EXPERTS, level)}
util.func private @"{symbol}"(%x: {x}, %weight: {weight}, %index: {groups}) -> {result} {{
  %c0 = arith.constant 0 : index
  %rows = tensor.dim %x, %c0 : {x}
{lines}{compute}
  util.return %result : {result}
}}"""


def _few_weights(case: GroupedMatmul) -> int:
    return max(4, _FEW_BYTES // (case.k * (4 if case.weight.dtype == "f32" else 2)) // 4 * 4)
