"""`lower-argmax`: the greedy token as two reductions: the maximum, then the first place it stands.

IREE has an operation for both at once, which its CUDA code generation fails to distribute over
threads and its Vulkan code generation gives to a single one. Plain reductions it does well.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import insert_function, symbol_name, walk

__all__ = ["LowerArgmax"]


@dataclass(frozen=True)
class LowerArgmax:
    def run(self, module: ir.Module) -> None:
        for op in walk(module.operation):
            if op.name == "iree_linalg_ext.arg_compare":
                _rewrite(module, op)


def _rewrite(module: ir.Module, op: ir.Operation) -> None:
    source = ir.RankedTensorType(op.operands[0].type)
    if (
        source.rank != 2
        or not source.has_static_shape
        or ir.IntegerAttr(op.attributes["dimension"]).value != 1
        or str(op.results[1].type) != f"tensor<{source.shape[0]}xi32>"
        or not isinstance(source.element_type, ir.F32Type)
        or not _takes_larger(op)
    ):
        raise ValueError(f"an arg_compare that is no argmax of f32 logits: {source}")
    rows, width = source.shape
    symbol = symbol_name("argmax", f"{rows}x{width}xf32")
    insert_function(module, symbol, _template(symbol, rows, width))
    with ir.InsertionPoint(op), op.location:
        call = ir.Operation.create(
            "util.call",
            results=[result.type for result in op.results],
            operands=[op.operands[0]],
            attributes={"callee": ir.FlatSymbolRefAttr.get(symbol, op.context)},
        )
    for old, new in zip(op.results, call.results, strict=True):
        old.replace_all_uses_with(new)
    op.erase()


def _takes_larger(op: ir.Operation) -> bool:
    block = op.regions[0].blocks[0]
    compare = block.operations[0].operation
    return (
        compare.name == "arith.cmpf"
        and ir.IntegerAttr(compare.attributes["predicate"]).value == 2  # ogt
        and list(compare.operands) == list(block.arguments)
    )


def _template(symbol: str, rows: int, width: int) -> str:
    x, value, index = f"tensor<{rows}x{width}xf32>", f"tensor<{rows}xf32>", f"tensor<{rows}xi32>"
    return f"""
#all = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>
util.func private @"{symbol}"(%x: {x}) -> ({value}, {index}) {{
  %low = arith.constant 0xFF800000 : f32
  %last = arith.constant {width - 1} : i32
  %value_empty = tensor.empty() : {value}
  %value_start = linalg.fill ins(%low : f32) outs(%value_empty : {value}) -> {value}
  %value = linalg.generic {{
      indexing_maps = [#all, #row], iterator_types = ["parallel", "reduction"]
    }} ins(%x : {x}) outs(%value_start : {value}) {{
  ^bb0(%a: f32, %b: f32):
    %larger = arith.maximumf %a, %b : f32
    linalg.yield %larger : f32
  }} -> {value}
  %index_empty = tensor.empty() : {index}
  // Where nothing is equal to the maximum, which is then no number, the last index stands.
  %index_start = linalg.fill ins(%last : i32) outs(%index_empty : {index}) -> {index}
  %index = linalg.generic {{
      indexing_maps = [#all, #row, #row], iterator_types = ["parallel", "reduction"]
    }} ins(%x, %value : {x}, {value}) outs(%index_start : {index}) {{
  ^bb0(%a: f32, %max: f32, %b: i32):
    %place = linalg.index 1 : index
    %here = arith.index_cast %place : index to i32
    %equal = arith.cmpf oeq, %a, %max : f32
    %candidate = arith.select %equal, %here, %last : i32
    %first = arith.minsi %candidate, %b : i32
    linalg.yield %first : i32
  }} -> {index}
  util.return %value, %index : {value}, {index}
}}"""
