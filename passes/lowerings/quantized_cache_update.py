"""`lower-quantized-cache-update`: rows rounded to int8, and two slices written into the buffers."""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.emit import Function, Tensor, Value
from edgec.passes.lowerings.cache_update import first_row, write_rows
from edgec.passes.rewriting import (
    call_template,
    constant_bool,
    custom_ops,
    insert_function,
    parse_torch_tensor,
    symbol_name,
)

__all__ = ["LowerQuantizedCacheUpdate"]

_STEPS = 127.0
"""The largest integer of a row."""


@dataclass(frozen=True)
class LowerQuantizedCacheUpdate:
    """Instantiates one function for each form of the operator in the module."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "quantized_cache_update"):
            cache, scales, new = (parse_torch_tensor(op.operands[i].type) for i in range(3))
            if cache.shape[0] is None or (new.shape[0] or 0) > cache.shape[0]:
                raise ValueError(
                    f"quantized_cache_update: {new.builtin} does not fit in {cache.builtin}"
                )
            *operands, last = op.operands
            ring = constant_bool(last)
            symbol = symbol_name("quantized_cache_update", cache, new, "ring" if ring else "")
            insert_function(module, symbol, _template(symbol, cache, scales, new, ring))
            call_template(op, symbol, operands, cache, scales)


def _template(symbol: str, cache: Tensor, scales: Tensor, new: Tensor, ring: bool) -> str:
    f = Function(symbol, cache=cache, scales=scales, new=new, start=Tensor((), "i64"))
    first = first_row(f, cache, ring)

    def rounded(x: Value, most: Value) -> Value:
        inverse = most.is_("ogt", 1e-30).choose(_STEPS / most, 0.0)
        return (x * inverse).math("roundeven").to("i8")

    most = f.generic(
        "t h d -> t h", [f["new"]], lambda x, most: x.math("absf").arith("maximumf", most), init=0.0
    )
    rows = f.generic("t h d, t h -> t h d", [f["new"], most], rounded, dtype="i8")
    factors = f.generic("t h -> t h", [most], lambda most: most / _STEPS)
    return f.returns(
        write_rows(f, rows, f["cache"], first, ring),
        write_rows(f, factors, f["scales"], first, ring),
    )
