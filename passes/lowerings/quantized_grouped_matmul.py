"""`lower-quantized-grouped-matmul`: experts whose matrices are packed integers.

Without a kernel each block of rows gathers its expert's packed integers and scales, and one
contraction unpacks, scales and multiplies. With `kernel=<level>` the matrices that the level's
kernels can take are read where they lie (see `edgec.passes.kernels.quantized`): sorted rows by a
workgroup for each expert and strip, rows that name their experts by one for each row and strip.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.emit import Function, Size, Tensor, Value
from edgec.passes.kernels.experts_shape import ROW_BLOCK
from edgec.passes.kernels.quantized import QuantizedShape
from edgec.passes.kernels.quantized_experts import (
    grouped_executable,
    grouped_kernel,
    grouped_kernel_fits,
)
from edgec.passes.lowerings.grouped_matmul_gather import expert_of_block
from edgec.passes.lowerings.quantized_linear import halves, multiply
from edgec.passes.rewriting import (
    call_template,
    constant_int,
    custom_ops,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
)

__all__ = ["LowerQuantizedGroupedMatmul"]


@dataclass(frozen=True)
class _Case:
    """One form of the operator: everything that its text depends on."""

    x: Tensor
    weight: Tensor
    scales: Tensor
    shape: QuantizedShape
    experts: int
    biased: bool
    sorted: bool

    @property
    def groups(self) -> Tensor:
        """The type of the offsets or of the rows' experts."""
        return Tensor((self.experts + 1 if self.sorted else self.shape.m,), "i32")


@dataclass(frozen=True)
class LowerQuantizedGroupedMatmul:
    """Attributes: kernel: `generic`, or the feature level whose kernels are linked in."""

    kernel: str = "generic"

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "quantized_grouped_matmul"):
            operands = list(op.operands)
            case = _case(operands)
            fits = self.kernel != "generic" and grouped_kernel_fits(case.shape, case.sorted)
            kind = "quantized_grouped_matmul"
            symbol = symbol_name(
                f"{kind}.{self.kernel}" if fits else kind,
                *(case.x, case.weight, case.scales, str(case.shape.n)),
                "bias" if case.biased else "",
                "sorted" if case.sorted else "",
            )
            result = Tensor((case.shape.m, case.shape.n), "f32")
            text = grouped_executable(case.shape, self.kernel) if fits else ""
            insert_function(module, symbol, text + _function(symbol, case, fits))
            call_template(op, symbol, [v for v in operands[:7] if not is_none(v)], result)


def _case(operands: list[ir.Value]) -> _Case:
    """Raises ValueError when the tensors do not belong together."""
    x, weight, scales = (parse_torch_tensor(value.type) for value in operands[:3])
    if len(x.shape) != 2 or len(weight.shape) != 5 or len(scales.shape) != 4:
        raise ValueError(f"quantized_grouped_matmul: x {x}, weight {weight}, scales {scales}")
    experts = weight.shape[0]
    matrix, factors = Tensor(weight.shape[1:], "i8"), Tensor(scales.shape[1:], "f16")
    shape = QuantizedShape.of(x.shape[0], constant_int(operands[7]), x, matrix, factors)
    if experts is None or scales.shape[0] != experts or matrix.shape[0] != shape.panels:
        raise ValueError(
            f"quantized_grouped_matmul: weight {weight}, scales {scales}, {shape.n} features"
        )
    biased, in_order = not is_none(operands[3]), is_none(operands[6])
    return _Case(x, weight, scales, shape, experts, biased, in_order)


def _function(symbol: str, case: _Case, kernel: bool) -> str:
    shape, experts = case.shape, case.experts
    f = Function(
        symbol,
        x=case.x,
        weight=case.weight,
        scales=case.scales,
        bias=Tensor((experts, shape.n), "f32") if case.biased else None,
        index=case.groups,
        counts=Tensor((experts,), "i32") if case.sorted else None,
    )
    # The rows as blocks of one expert each.
    block = ROW_BLOCK if case.sorted else 1
    blocks = f["x"].size(0) // block
    ids = expert_of_block(f, experts, block, blocks) if case.sorted else f["index"]
    if kernel:
        product = grouped_kernel(f, shape, experts, case.sorted)
    else:
        product = _contraction(f, shape, (blocks, block), ids)
    if case.biased:
        biases, split = f.gather(f["bias"], ids), f.expand(product, (blocks, block), shape.n)
        biased = f.generic("g m n, g n -> g m n", [split, biases], lambda a, b: a + b)
        product = f.collapse(biased, 2, 1)
    return f.returns(product)


def _contraction(f: Function, shape: QuantizedShape, rows: tuple[Size, int], ids: Value) -> Value:
    """One `linalg.generic` over blocks of rows and panels, see `lower-quantized-linear`."""
    activations = halves(f, f.expand(f["x"], rows, shape.blocks), shape.bits)
    experts, panels, _, *inner = f["weight"].sizes
    grouped = f.expand(f["weight"], experts, panels, shape.blocks[:2], *inner)
    weights = [f.gather(grouped, ids), f.gather(f["scales"], ids)]

    def add(*elements: Value) -> Value:
        *read, byte, scale, total = elements
        return total + multiply(read, byte, scale)

    axes = ["e m g b j"] * len(activations) + ["e p g b n j", "e p g n"]
    wide = f.generic(f"{', '.join(axes)} -> e m p n", [*activations, *weights], add, init=0.0)
    return f.slice(f.collapse(wide, 2, 2), (0, 0), (f["x"].size(0), shape.n))
