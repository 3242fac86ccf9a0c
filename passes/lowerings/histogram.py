"""`lower-histogram`: `edgec::histogram` as one reduction that compares each row with each bin.

Every bin counts for itself: no two of them write to one place, so that no target needs atomics
and the counts are exact. The rows are those of a block of tokens, and few.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import (
    TorchTensor,
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
            call_template(op, symbol, [ids, length], TorchTensor((count,), "i32"))


def _template(symbol: str, ids: TorchTensor, bins: int) -> str:
    n, k = ("?" if d is None else str(d) for d in ids.shape)
    size = "%rows" if n == "?" else ""
    narrow = f"tensor<{n}x{k}xi32>"
    counts = f"tensor<{bins}xi32>"
    return f"""
util.func private @"{symbol}"(%ids: {ids.builtin}, %length: tensor<i64>) -> {counts} {{
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0 : i32
  %rows = tensor.dim %ids, %c0 : {ids.builtin}
  %length_i64 = tensor.extract %length[] : tensor<i64>
  %true_rows = arith.index_cast %length_i64 : i64 to index
  %narrow_empty = tensor.empty({size}) : {narrow}
  %narrow = linalg.generic {{
      indexing_maps = [affine_map<(t, j) -> (t, j)>, affine_map<(t, j) -> (t, j)>],
      iterator_types = ["parallel", "parallel"]
    }} ins(%ids : {ids.builtin}) outs(%narrow_empty : {narrow}) {{
  ^bb0(%id: i64, %unused: i32):
    %t = linalg.index 0 : index
    %true = arith.cmpi ult, %t, %true_rows : index
    %none = arith.constant -1 : i32
    %small = arith.trunci %id : i64 to i32
    %kept = arith.select %true, %small, %none : i32
    linalg.yield %kept : i32
  }} -> {narrow}
  %counts_empty = tensor.empty() : {counts}
  %counts_zero = linalg.fill ins(%zero : i32) outs(%counts_empty : {counts}) -> {counts}
  %counts = linalg.generic {{
      indexing_maps = [affine_map<(e, t, j) -> (t, j)>, affine_map<(e, t, j) -> (e)>],
      iterator_types = ["parallel", "reduction", "reduction"]
    }} ins(%narrow : {narrow}) outs(%counts_zero : {counts}) {{
  ^bb0(%id: i32, %sum: i32):
    %e = linalg.index 0 : index
    %bin = arith.index_cast %e : index to i32
    %same = arith.cmpi eq, %id, %bin : i32
    %one = arith.extui %same : i1 to i32
    %s = arith.addi %sum, %one : i32
    linalg.yield %s : i32
  }} -> {counts}
  util.return %counts : {counts}
}}"""
