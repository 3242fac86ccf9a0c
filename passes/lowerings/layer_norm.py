"""`lower-layer-norm`: `aten.layer_norm` as two reductions and one scaling, sharing nothing.

The usual form computes `x - mean` once and uses it twice, around the reduction that finds the
variance. IREE fuses all of it into one dispatch and keeps a tile of differences on the stack, where
rows of a few hundred elements no longer fit, and compilation fails. Here the reduction and the
scaling each take the subtraction into their bodies, which costs less than the trip to memory; and a
barrier keeps the residual sum before the norm, which has other users, out of the dispatch.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.emit import Function, Tensor, Value
from edgec.passes.rewriting import (
    call_template,
    constant_float,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
    walk,
)

__all__ = ["LowerLayerNorm"]


@dataclass(frozen=True)
class LowerLayerNorm:
    """Rewrites norms of f32 over the last dimension; any other is left as it is."""

    def run(self, module: ir.Module) -> None:
        for op in walk(module.operation):
            if op.name != "torch.aten.layer_norm":
                continue
            x, _, weight, bias, epsilon, _ = op.operands
            type_ = parse_torch_tensor(x.type)
            sizes = op.operands[1].owner.operation.operands
            if len(sizes) != 1 or type_.dtype != "f32":
                continue
            scaled = [not is_none(value) for value in (weight, bias)]
            eps = constant_float(epsilon)
            symbol = symbol_name(
                "layer_norm", type_, f"eps{eps!r}", *("w" * scaled[0], "b" * scaled[1])
            )
            insert_function(module, symbol, _template(symbol, type_, eps, *scaled))
            operands = [x, *(v for v in (weight, bias) if not is_none(v))]
            call_template(op, symbol, operands, type_)


def _template(symbol: str, x: Tensor, epsilon: float, weighted: bool, biased: bool) -> str:
    width = x.shape[-1]
    assert width is not None
    column = Tensor((width,), "f32")
    f = Function(symbol, x=x, weight=column if weighted else None, bias=column if biased else None)
    count = float(width)
    barrier = f"iree_tensor_ext.compute_barrier.start {f['x']} : {f['x'].sized} -> {x.builtin}"
    own = f.op(barrier, x, f["x"].sizes)
    row = " ".join(f"d{i}" for i in range(len(x.shape) - 1))

    def square(a: Value, sum_: Value, total: Value) -> Value:
        difference = a - sum_ / count
        return total + difference * difference

    def scale(a: Value, sum_: Value, squares: Value, *column: Value) -> Value:
        factors = list(column)
        result = (a - sum_ / count) * (squares / count + epsilon).math("rsqrt")
        if weighted:
            result = result * factors.pop(0)
        return result + factors.pop() if biased else result

    sums = f.generic(f"{row} k -> {row}", [own], lambda a, total: total + a, init=0.0)
    squares = f.generic(f"{row} k, {row} -> {row}", [own, sums], square, init=0.0)
    columns = [f[name] for name in ("weight", "bias") if name in f]
    axes = ", ".join([f"{row} k, {row}, {row}", *["k"] * len(columns)])
    result = f.generic(f"{axes} -> {row} k", [own, sums, squares, *columns], scale)
    return f.returns(result)
