"""Dispatches of the CPU kernels in compiler/ukernels/linear_grouped.h, as MLIR text.

The grid has a dimension of experts or of rows beside that of strips of weights. Which rows an
expert has is read within the kernel.
"""

from __future__ import annotations

from edgec.passes.grouped_matmul_shape import GroupedMatmul
from edgec.passes.kernel_call import executable, export, wrap_kernel
from edgec.passes.linear_kernel import PACKED, linear_fits
from edgec.passes.rewriting import tensor_type

__all__ = ["executables", "grouped_fits", "grouped_template"]

_NAME = "edgec_grouped"
_DTYPES = ("f32", "f16", "bf16")
_MANY_WEIGHTS = 48  # rows of weights of a workgroup: whole tiles, as in linear.h
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
    each = _MANY_WEIGHTS if case.sorted else _few_weights(case)
    dtype = case.weight.dtype
    constants = {"experts": case.experts, "n": case.n, "k": case.k, "each": each}
    lines = "\n".join(f"  %{name} = arith.constant {v} : index" for name, v in constants.items())
    if case.sorted:
        panels = tensor_type((case.rows, case.k), "f32")
        compute = f"""
  %panels = flow.dispatch @{_NAME}::@grouped_pack[%rows, %k](%x, %index, %experts, %k)
      : ({x}{dynamic}, {groups}, index, index) -> {panels}{dynamic}
  %result = flow.dispatch @{_NAME}::@grouped_many_{dtype}[%n, %each, %experts](
      %panels, %weight, %index, %n, %k, %each)
      : ({panels}{dynamic}, {weight}, {groups}, index, index, index) -> {result}{dynamic}"""
    else:
        compute = f"""
  %result = flow.dispatch @{_NAME}::@grouped_few_{dtype}[%n, %each, %rows](
      %x, %weight, %index, %n, %k, %each)
      : ({x}{dynamic}, {weight}, {groups}{dynamic}, index, index, index) -> {result}{dynamic}"""
    return f"""
{executables(level)}
util.func private @"{symbol}"(%x: {x}, %weight: {weight}, %index: {groups}) -> {result} {{
  %c0 = arith.constant 0 : index
  %rows = tensor.dim %x, %c0 : {x}
{lines}{compute}
  util.return %result : {result}
}}"""


def _few_weights(case: GroupedMatmul) -> int:
    return max(4, _FEW_BYTES // (case.k * (4 if case.weight.dtype == "f32" else 2)) // 4 * 4)


def executables(level: str) -> str:
    """The kernels as executables of a feature level."""
    exports = [export("grouped_pack", "rows k", f"rows / {PACKED[0]}", f"k / {PACKED[1]}")]
    functions = [
        wrap_kernel(
            "grouped_pack",
            "edgec_grouped_pack",
            ["f32", "i32", "f32"],
            indices=["experts", "k"],
            body=f"""
      %x = stream.dispatch.workgroup.id[0] : index
      %rows = arith.constant {PACKED[0]} : index
      %row = arith.muli %x, %rows : index
      %y = stream.dispatch.workgroup.id[1] : index
      %columns = arith.constant {PACKED[1]} : index
      %column = arith.muli %y, %columns : index""",
            extra=["row", "rows", "column", "columns"],
        )
    ]
    for form in ("many", "few"):
        for dtype in _DTYPES:
            name = f"grouped_{form}_{dtype}"
            exports.append(export(name, "n each groups", "n / each", "groups"))
            functions.append(
                wrap_kernel(
                    name,
                    f"edgec_grouped_{form}_{dtype}",
                    ["f32", dtype, "i32", "f32"],
                    indices=["n", "k", "each"],
                    body="""
      %x = stream.dispatch.workgroup.id[0] : index
      %first = arith.muli %x, %each : index
      %y = stream.dispatch.workgroup.id[1] : index""",
                    extra=["first", "each", "y"],
                    hidden=("each",),
                )
            )
    return executable(_NAME, "linear", level, "".join(exports), "".join(functions))
