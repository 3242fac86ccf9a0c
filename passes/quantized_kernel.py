"""Dispatches of the CPU kernels in compiler/ukernels/quantized_linear.h, as MLIR text.

The kernels' objects are named here and found by iree-compile on its object search path; what they
expect of their arguments is written beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.passes.kernel_call import executable, workgroup_share, wrap_kernel
from edgec.passes.rewriting import TorchTensor, tensor_type

__all__ = [
    "BLOCK",
    "KERNELS",
    "MAX_FUSED_K",
    "QUANTIZED_ROWS",
    "QuantizedShape",
    "kernel_fits",
    "kernel_template",
    "workgroup_panels",
]

KERNELS = "quantized_linear"
"""The kernels' source, of which there is one for each feature level."""

_KINDS = ("i8", "i4", "i4z")
BLOCK = 32  # columns that share a scale of the activations
MAX_FUSED_K = 16384
_ROWS = 256  # of a workgroup: its activations stay in the second-level cache
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


def kernel_fits(shape: QuantizedShape) -> bool:
    """Whether the kernels take the layer: whole blocks of columns within each group."""
    zero_points = shape.bits == 4 or not shape.zero_points
    return shape.k % BLOCK == 0 and shape.group % BLOCK == 0 and zero_points


def kernel_template(shape: QuantizedShape, kernel: str) -> tuple[str, str]:
    """The executable that wraps the kernels, and text that computes %product from %rows."""
    exports = "".join([*map(_quantize_export, (8, 4)), *map(_exports, _KINDS)])
    functions = "".join([*map(_quantize_function, (8, 4)), *map(_functions, _KINDS)])
    name = "edgec_quantized_linear"
    return executable(name, KERNELS, kernel, exports, functions), _dispatch(shape)


def workgroup_panels(panels: int, shape: QuantizedShape) -> int:
    """How many of a row's product's panels a workgroup takes."""
    return workgroup_share(panels, 16 * shape.k * shape.bits // 8)


def _dispatch(shape: QuantizedShape) -> str:
    m, n, k = shape.m, shape.n, shape.k
    bits, panels = shape.bits, shape.panels
    fused = m == 1 and k <= MAX_FUSED_K
    each = max(1, _WORKGROUP_BYTES * 8 // (16 * k * bits))
    if fused:
        each = workgroup_panels(panels, shape)
    dynamic = "{%m}" if m is None else ""
    rows, out = tensor_type((m, k), "f32"), tensor_type((m, n), "f32")
    weight = tensor_type((panels, k * bits // 32, 16, 4), "i8")
    parts = (2,) if shape.zero_points else ()
    scales = tensor_type((*parts, panels, k // shape.group, 16), "f16")
    constants = f"""
  %n = arith.constant {n} : index
  %k = arith.constant {k} : index
  %group = arith.constant {shape.group} : index
  %panels = arith.constant {panels} : index
  %each = arith.constant {each} : index"""
    if fused:
        return f"""{constants}
  %product = flow.dispatch @edgec_quantized_linear::@matvec_{shape.kind}[%panels, %each](
      %rows, %weight, %scales, %n, %k, %group, %each)
      : ({rows}, {weight}, {scales}, index, index, index, index) -> {out}"""
    q, s = tensor_type((m, k), "i8"), tensor_type((m, k // BLOCK), "f32")
    c = tensor_type((m, k // BLOCK), "i32")
    return f"""{constants}
  %q:3 = flow.dispatch @edgec_quantized_linear::@quantize_i{bits}[%m](%rows, %m, %k)
      : ({rows}{dynamic}, index, index) -> ({q}{dynamic}, {s}{dynamic}, {c}{dynamic})
  %product = flow.dispatch @edgec_quantized_linear::@matmul_{shape.kind}[%panels, %each, %m](
      %q#0, %q#1, %q#2, %weight, %scales, %m, %n, %k, %group, %each)
      : ({q}{dynamic}, {s}{dynamic}, {c}{dynamic}, {weight}, {scales},
         index, index, index, index, index) -> {out}{dynamic}"""


def _quantize_export(bits: int) -> str:
    return f"""
  stream.executable.export public @quantize_i{bits} workgroups(%m: index)
      -> (index, index, index) {{
    %c1 = arith.constant 1 : index
    %rows = arith.constant {QUANTIZED_ROWS} : index
    %x = arith.ceildivui %m, %rows : index
    stream.return %x, %c1, %c1 : index, index, index
  }}"""


def _exports(kind: str) -> str:
    return f"""
  stream.executable.export public @matmul_{kind} workgroups(
      %panels: index, %each: index, %m: index) -> (index, index, index) {{
    %c1 = arith.constant 1 : index
    %rows = arith.constant {_ROWS} : index
    %x = arith.ceildivui %panels, %each : index
    %y = arith.ceildivui %m, %rows : index
    stream.return %x, %y, %c1 : index, index, index
  }}
  stream.executable.export public @matvec_{kind} workgroups(%panels: index, %each: index)
      -> (index, index, index) {{
    %c1 = arith.constant 1 : index
    %x = arith.ceildivui %panels, %each : index
    stream.return %x, %c1, %c1 : index, index, index
  }}"""


def _quantize_function(bits: int) -> str:
    return wrap_kernel(
        f"quantize_i{bits}",
        f"edgec_quantize_rows_i{bits}",
        ["f32", "i8", "f32", "i32"],
        indices=["m", "k"],
        body=f"""
      %x = stream.dispatch.workgroup.id[0] : index
      %count = arith.constant {QUANTIZED_ROWS} : index
      %first = arith.muli %x, %count : index""",
        extra=["first", "count"],
    )


def _functions(kind: str) -> str:
    """The exported functions: they unwrap the bindings and call the kernel's C function."""
    first = """
      %x = stream.dispatch.workgroup.id[0] : index
      %first = arith.muli %x, %each : index"""
    return wrap_kernel(
        f"matmul_{kind}",
        f"edgec_quantized_matmul_{kind}",
        ["i8", "f32", "i32", "i8", "f16", "f32"],
        indices=["m", "n", "k", "group", "each"],
        body=f"""{first}
      %y = stream.dispatch.workgroup.id[1] : index
      %count = arith.constant {_ROWS} : index
      %row = arith.muli %y, %count : index""",
        extra=["first", "each", "row", "count"],
        hidden=("each",),
    ) + wrap_kernel(
        f"matvec_{kind}",
        f"edgec_quantized_matvec_{kind}",
        ["f32", "i8", "f16", "f32"],
        indices=["n", "k", "group", "each"],
        body=first,
        extra=["first", "each"],
        hidden=("each",),
    )
