"""`lower-quantized-grouped-matmul`: experts whose matrices are packed integers.

Without a kernel each block of rows gathers its expert's packed integers and scales, and one
contraction unpacks, scales and multiplies. With `kernel=<level>` the matrices that the level's
kernels can take are read where they lie (see `edgec.passes.kernels.quantized`): sorted rows by a
workgroup for each expert and strip, rows that name their experts by one for each row and strip.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.kernels.experts_shape import ROW_BLOCK
from edgec.passes.kernels.quantized import QuantizedShape
from edgec.passes.kernels.quantized_experts import grouped_kernel_fits, grouped_kernel_template
from edgec.passes.lowerings.grouped_matmul_gather import expert_of_block
from edgec.passes.lowerings.quantized_linear import Halves
from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    constant_int,
    custom_ops,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
    tensor_type,
)

__all__ = ["LowerQuantizedGroupedMatmul"]


@dataclass(frozen=True)
class _Case:
    """One form of the operator: everything that its text depends on."""

    x: TorchTensor
    weight: TorchTensor
    scales: TorchTensor
    shape: QuantizedShape
    experts: int
    biased: bool
    sorted: bool

    @property
    def groups(self) -> str:
        """The type, builtin, of the offsets or of the rows' experts."""
        return tensor_type((self.experts + 1 if self.sorted else self.shape.m,), "i32")


@dataclass(frozen=True)
class LowerQuantizedGroupedMatmul:
    """Attributes: kernel: `generic`, or the feature level whose kernels are linked in."""

    kernel: str = "generic"

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "quantized_grouped_matmul"):
            operands = list(op.operands)
            case = _case(operands)
            extra, compute = "", _contraction(case)
            kind = "quantized_grouped_matmul"
            if self.kernel != "generic" and grouped_kernel_fits(case.shape, case.sorted):
                extra, compute = grouped_kernel_template(
                    case.shape, case.experts, case.sorted, self.kernel
                )
                kind = f"{kind}.{self.kernel}"
            symbol = symbol_name(
                kind,
                *(case.x, case.weight, case.scales, str(case.shape.n)),
                "bias" if case.biased else "",
                "sorted" if case.sorted else "",
            )
            result = TorchTensor((case.shape.m, case.shape.n), "f32")
            insert_function(module, symbol, extra + _function(symbol, case, compute))
            call_template(op, symbol, [v for v in operands[:7] if not is_none(v)], result)


def _case(operands: list[ir.Value]) -> _Case:
    """Raises ValueError when the tensors do not belong together."""
    x, weight, scales = (parse_torch_tensor(value.type) for value in operands[:3])
    if len(x.shape) != 2 or len(weight.shape) != 5 or len(scales.shape) != 4:
        raise ValueError(f"quantized_grouped_matmul: x {x}, weight {weight}, scales {scales}")
    experts = weight.shape[0]
    matrix, factors = TorchTensor(weight.shape[1:], "i8"), TorchTensor(scales.shape[1:], "f16")
    shape = QuantizedShape.of(x.shape[0], constant_int(operands[7]), x, matrix, factors)
    if experts is None or scales.shape[0] != experts or matrix.shape[0] != shape.panels:
        raise ValueError(
            f"quantized_grouped_matmul: weight {weight}, scales {scales}, {shape.n} features"
        )
    biased, in_order = not is_none(operands[3]), is_none(operands[6])
    return _Case(x, weight, scales, shape, experts, biased, in_order)


def _function(symbol: str, case: _Case, compute: str) -> str:
    """A function around `compute`, which turns %x into %product, both of %all rows.

    What `compute` does not use of the blocks and their experts is dead code and goes away.
    """
    rows = _Rows.of(case)
    x, y = case.x.builtin, tensor_type((case.shape.m, case.shape.n), "f32")
    argument = f"\n    %bias: tensor<{case.experts}x{case.shape.n}xf32>," if case.biased else ""
    counts = f", %counts: tensor<{case.experts}xi32>" if case.sorted else ""
    if case.sorted:
        ids = expert_of_block(case.experts, rows.ids, rows.size)
    else:
        ids = f"  %ids = tensor.cast %index : {case.groups} to {rows.ids}"
    return f"""
util.func private @"{symbol}"(%x: {x}, %weight: {case.weight.builtin},
    %scales: {case.scales.builtin},{argument} %index: {case.groups}{counts}) -> {y} {{
  %c0 = arith.constant 0 : index
  %all = tensor.dim %x, %c0 : {x}
  %block = arith.constant {rows.block} : index
  %blocks = arith.divui %all, %block : index
{ids}
{compute}
{_bias(case, rows, y) if case.biased else ""}
  util.return {"%biased" if case.biased else "%product"} : {y}
}}"""


@dataclass(frozen=True)
class _Rows:
    """The rows as blocks of one expert each: `count` blocks (None: dynamic) of `block` rows."""

    count: int | None
    block: int

    @staticmethod
    def of(case: _Case) -> _Rows:
        block = ROW_BLOCK if case.sorted else 1
        return _Rows(None if case.shape.m is None else case.shape.m // block, block)

    @property
    def ids(self) -> str:
        """The type of %ids, the experts of the blocks."""
        return tensor_type((self.count,), "i32")

    @property
    def size(self) -> str:
        """The dynamic size of a tensor of one thing for each block, if any."""
        return "%blocks" if self.count is None else ""

    @property
    def first(self) -> str:
        """The same as a part of an `output_shape`."""
        return self.size or str(self.count)


def _bias(case: _Case, rows: _Rows, y: str) -> str:
    """Adds to each row the bias of its expert."""
    n = case.shape.n
    bias, biases = f"tensor<{case.experts}x{n}xf32>", tensor_type((rows.count, n), "f32")
    blocked = tensor_type((rows.count, rows.block, n), "f32")
    return f"""  %biases_empty = tensor.empty({rows.size}) : {biases}
  %biases = iree_linalg_ext.gather dimension_map = [0] ins(%bias, %ids : {bias}, {rows.ids})
      outs(%biases_empty : {biases}) -> {biases}
  %unbiased = tensor.expand_shape %product [[0, 1], [2]]
      output_shape [{rows.first}, {rows.block}, {n}] : {y} into {blocked}
  %sum_empty = tensor.empty({rows.size}) : {blocked}
  %sum = linalg.generic {{
      indexing_maps = [affine_map<(g, m, n) -> (g, m, n)>, affine_map<(g, m, n) -> (g, n)>,
                       affine_map<(g, m, n) -> (g, m, n)>],
      iterator_types = ["parallel", "parallel", "parallel"]
    }} ins(%unbiased, %biases : {blocked}, {biases}) outs(%sum_empty : {blocked}) {{
  ^bb0(%a: f32, %b: f32, %unused: f32):
    %c = arith.addf %a, %b : f32
    linalg.yield %c : f32
  }} -> {blocked}
  %biased = tensor.collapse_shape %sum [[0, 1], [2]] : {blocked} into {y}"""


_DIMS = "e, m, p, n, g, b, j"


def _contraction(case: _Case) -> str:
    """One `linalg.generic` over blocks of rows and panels, see `lower-quantized-linear`."""
    shape, rows = case.shape, _Rows.of(case)
    m, n, k, group, panels = shape.m, shape.n, shape.k, shape.group, shape.panels
    columns = 4 if shape.bits == 8 else 8
    groups, steps = k // group, group // columns
    inner = (4,) if shape.bits == 8 else (2, 4)
    split = tensor_type((rows.count, rows.block, groups, steps, *inner), "f32")
    packed = tensor_type((case.experts, panels, groups, steps, 16, 4), "i8")
    own_packed = tensor_type((rows.count, panels, groups, steps, 16, 4), "i8")
    own_scales = tensor_type((rows.count, panels, groups, 16), "f16")
    wide = tensor_type((rows.count, rows.block, panels, 16), "f32")
    flat, out = tensor_type((m, panels * 16), "f32"), tensor_type((m, n), "f32")
    sizes = (rows.count, rows.block, groups, steps)
    halves = Halves.of(shape.bits, "%split", sizes, rows.first, (_DIMS, "e, m, g, b, j"))
    axes = ", ".join(str(i) for i in range(2, 4 + len(inner)))
    return f"""  %zero = arith.constant 0.0 : f32
  %split = tensor.expand_shape %x [[0, 1], [{axes}]]
      output_shape [{rows.first}, {rows.block}, {groups}, {steps}, {", ".join(map(str, inner))}]
      : {case.x.builtin} into {split}{halves.define}
  %grouped = tensor.expand_shape %weight [[0], [1], [2, 3], [4], [5]]
      output_shape [{case.experts}, {panels}, {groups}, {steps}, 16, 4]
      : {case.weight.builtin} into {packed}
  %packed_empty = tensor.empty({rows.size}) : {own_packed}
  %own_packed = iree_linalg_ext.gather dimension_map = [0]
      ins(%grouped, %ids : {packed}, {rows.ids}) outs(%packed_empty : {own_packed}) -> {own_packed}
  %scales_empty = tensor.empty({rows.size}) : {own_scales}
  %own_scales = iree_linalg_ext.gather dimension_map = [0]
      ins(%scales, %ids : {case.scales.builtin}, {rows.ids})
      outs(%scales_empty : {own_scales}) -> {own_scales}
  %wide_empty = tensor.empty({rows.size}) : {wide}
  %wide_zero = linalg.fill ins(%zero : f32) outs(%wide_empty : {wide}) -> {wide}
  %wide = linalg.generic {{
      indexing_maps = [{halves.maps}
                       affine_map<({_DIMS}) -> (e, p, g, b, n, j)>,
                       affine_map<({_DIMS}) -> (e, p, g, n)>,
                       affine_map<({_DIMS}) -> (e, m, p, n)>],
      iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction",
                        "reduction"]
    }} ins({halves.operands}, %own_packed, %own_scales
           : {halves.types}, {own_packed}, {own_scales})
      outs(%wide_zero : {wide}) {{
  ^bb0({halves.arguments}, %w: i8, %scale: f16, %sum: f32):
{halves.product}
    %s = arith.addf %sum, %p : f32
    linalg.yield %s : f32
  }} -> {wide}
  %flat = tensor.collapse_shape %wide [[0, 1], [2, 3]] : {wide} into {flat}
  %product = tensor.extract_slice %flat[0, 0] [{"%all" if m is None else m}, {n}] [1, 1]
      : {flat} to {out}"""
