"""`lower-histogram`: `edgec::histogram` as one reduction that compares each row with each bin.

Every bin counts for itself: no two of them write to one place, so that no target needs atomics
and the counts are exact. The rows are those of a block of tokens, and few.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.emit import Function, Tensor, Value
from edgec.passes.rewriting import (
    call_template,
    constant_int,
    custom_ops,
    insert_function,
    parse_torch_tensor,
    symbol_name,
)

__all__ = ["LowerHistogram"]


@dataclass(frozen=True)
class LowerHistogram:
    """The pass."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "histogram"):
            ids, length, bins = op.operands
            case, count = parse_torch_tensor(ids.type), constant_int(bins)
            if len(case.shape) != 2 or count < 1:
                raise ValueError(f"edgec::histogram: {count} bins of {case.builtin}")
            symbol = symbol_name("histogram", case, f"bins{count}")
            insert_function(module, symbol, _template(symbol, case, count))
            call_template(op, symbol, [ids, length], Tensor((count,), "i32"))


def _template(symbol: str, ids: Tensor, bins: int) -> str:
    f = Function(symbol, ids=ids, length=Tensor((), "i64"))
    true_rows = f["length"][()].to("index")
    narrow = f.generic(
        "t j -> t j",
        [f["ids"]],
        lambda id_: f.index("t").is_("ult", true_rows).choose(id_.to("i32"), f.const(-1, "i32")),
        dtype="i32",
    )

    def count(id_: Value, total: Value) -> Value:
        return total + id_.is_("eq", f.index("e").to("i32")).to("i32")

    counts = f.generic("t j -> e", [narrow], count, init=0, dtype="i32", sizes={"e": bins})
    return f.returns(counts)
