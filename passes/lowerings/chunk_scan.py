"""`lower-chunk-scan`: `edgec::chunk_scan` as a loop over chunks, of matrix products.

Chunks come first in every operand, so that an iteration's part of it is one contiguous slice.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.emit import Function, Tensor, Value
from edgec.passes.rewriting import (
    call_template,
    custom_ops,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
)

__all__ = ["LowerChunkScan"]


@dataclass(frozen=True)
class LowerChunkScan:
    """Instantiates one function for each form of the operator in the module."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "chunk_scan"):
            query, value = (parse_torch_tensor(op.operands[i].type) for i in (0, 2))
            state = parse_torch_tensor(op.operands[6].type)
            erases = not is_none(op.operands[3])
            if any(d is None for d in query.shape[1:]):
                raise ValueError(f"chunk_scan: only chunks may be many: {query.builtin}")
            symbol = symbol_name("chunk_scan", query, value, "delta" if erases else "")
            insert_function(module, symbol, _template(symbol, query, value, state, erases))
            operands = [v for v in op.operands if not is_none(v)]
            call_template(op, symbol, operands, value, state)


def _template(symbol: str, query: Tensor, value: Tensor, state: Tensor, erases: bool) -> str:
    chunks, heads, tokens, k = query.shape
    f = Function(
        symbol,
        query=query,
        key=query,
        value=value,
        erase=query if erases else None,
        attention=Tensor((chunks, heads, tokens, tokens), "f32"),
        decay=Tensor((chunks, heads, k), "f32"),
        state=state,
    )
    count = f["query"].size(0)
    sizes = f["value"].known(count).sizes
    zeros = f.fill(0.0, "f32", sizes[1:])

    def chunk(i: Value, out: Value, state: Value) -> tuple[Value, Value]:
        def part(name: str) -> Value:
            whole = f[name]
            zeros = [0] * (len(whole.sizes) - 1)
            return f.slice(whole, [i, *zeros], [1, *whole.sizes[1:]], drop=0)

        def multiply(axes: str, a: Value, b: Value, to: Value) -> Value:
            return f.generic(f"{axes} -> h m n", [a, b], lambda a, b, sum_: sum_ + a * b, init=to)

        new = part("value")
        if erases:
            erased = multiply("h m k, h k n", part("erase"), state, zeros)
            new = f.generic("h t v, h t v -> h t v", [new, erased], lambda a, b: a - b)
        read = multiply("h m k, h k n", part("query"), state, zeros)
        seen = multiply("h m k, h k n", part("attention"), new, read)
        decayed = f.generic("h k, h k v -> h k v", [part("decay"), state], lambda d, x: d * x)
        after = multiply("h k m, h k n", part("key"), new, decayed)
        return f.insert(seen, out, (i, 0, 0, 0)), after

    return f.returns(*f.loop(count, [f.empty("f32", sizes), f["state"]], chunk))
