"""`lower-cache-update`: `edgec::cache_update` as one contiguous slice written into the buffer.

In a ring a block may go past the last row: then it is two slices, the second at row 0. Its size is
0 where the block fits.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.emit import Function, Size, Tensor, Value
from edgec.passes.limits import LONGEST
from edgec.passes.rewriting import (
    call_template,
    constant_bool,
    custom_ops,
    insert_function,
    parse_torch_tensor,
    symbol_name,
)

__all__ = ["LowerCacheUpdate", "first_row", "write_rows"]


@dataclass(frozen=True)
class LowerCacheUpdate:
    """Instantiates one function for each form of the operator in the module."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "cache_update"):
            *operands, ring = op.operands
            cache, new, _ = (parse_torch_tensor(v.type) for v in operands)
            if cache.shape[0] is None or (new.shape[0] or 0) > cache.shape[0]:
                raise ValueError(f"cache_update: {new.builtin} does not fit in {cache.builtin}")
            wraps = constant_bool(ring)
            symbol = symbol_name("cache_update", cache, new, "ring" if wraps else "")
            insert_function(module, symbol, _template(symbol, cache, new, wraps))
            call_template(op, symbol, operands, cache)


def _template(symbol: str, cache: Tensor, new: Tensor, ring: bool) -> str:
    f = Function(symbol, cache=cache, new=new, start=Tensor((), "i64"))
    first = first_row(f, cache, ring)
    rows = f.convert(f["new"], cache.dtype)
    return f.returns(write_rows(f, rows, f["cache"], first, ring))


def first_row(f: Function, cache: Tensor, ring: bool) -> Value:
    """The row of the position `start`, an argument."""
    capacity = cache.shape[0]
    assert capacity is not None
    position = f.position(f["start"], LONGEST if ring else capacity)
    return position % capacity if ring else position


def write_rows(f: Function, rows: Value, cache: Value, first: Value, ring: bool) -> Value:
    """`cache` with `rows` from row `first` on; in a ring those past its end at row 0."""
    tokens, *inner = rows.sizes
    zeros = [0] * len(inner)

    def part(at: Size, count: Value) -> Value:
        return f.slice(rows, [at, *zeros], [count, *inner])

    if not ring or rows.tensor.shape[0] == 1:
        return f.insert(rows, cache, [first, *zeros])
    count = f.const(tokens, "index")
    fitting = (f.const(cache.size(0), "index") - first).arith("minui", count)
    before = f.insert(part(0, fitting), cache, [first, *zeros])
    return f.insert(part(fitting, count - fitting), before, [0, *zeros])
