"""`edgec::grouped_matmul` for any target: the weights of each block of rows gathered, one product.

The number of blocks is known beforehand (rounding every expert's rows up costs a bounded number),
so that nothing is read back to the host. Blocks past the last offset take the last expert; what
they compute is never read.
"""

from __future__ import annotations

from edgec.passes.emit import Function, Size, Value
from edgec.passes.kernels.experts_shape import ROW_BLOCK, GroupedMatmul

__all__ = ["expert_of_block", "gather_template"]


def gather_template(symbol: str, case: GroupedMatmul) -> str:
    """The function `symbol` that computes `case`, as text."""
    f = Function(symbol, x=case.x, weight=case.weight, bias=case.bias, index=case.groups)
    block = ROW_BLOCK if case.sorted else 1
    all_, k = f["x"].sizes
    blocks = all_ // block
    # Rows that name their experts are blocks of their own.
    ids = expert_of_block(f, case.experts, block, blocks) if case.sorted else f["index"]
    rows = f.expand(f["x"], (blocks, block), k)
    init: Value | float = 0.0
    if case.biased:
        init = f.broadcast(f.gather(f["bias"], ids), [1], (blocks, block, case.n))
    products = f.generic(
        f"g m k, {'g k n' if case.transposed else 'g n k'} -> g m n",
        [rows, f.gather(f["weight"], ids)],
        lambda a, b, total: total + a * b.to("f32"),
        init=init,
    )
    return f.returns(f.collapse(products, 2, 1))


def expert_of_block(f: Function, experts: int, block: int, blocks: Size) -> Value:
    """The expert of each block, i32 `[blocks]`, by the offsets `index`, an argument.

    It is the number of experts that end at or before the block's first row.
    """

    def count(end: Value, total: Value) -> Value:
        first = (f.index("g") * block).to("i32")
        return total + end.is_("sle", first).to("i32")

    ends = f.slice(f["index"], [1], [experts])
    ended = f.generic("e -> g", [ends], count, init=0, dtype="i32", sizes={"g": blocks})
    return f.generic("g -> g", [ended], lambda e: e.arith("minsi", experts - 1), dtype="i32")
