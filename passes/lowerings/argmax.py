"""`lower-argmax`: the greedy token in a form that many threads can share.

IREE has one operation for it, which its CUDA code generation fails to distribute and its Vulkan
code generation and that of CPUs give to a single thread. For CUDA it becomes two plain reductions
(the maximum, then the first place where it stands). Vulkan's reductions cannot hold positions, so
there it is searched in rows, a thread for each, and then among the rows. On a CPU with
`kernel=<level>` a kernel searches parts of long rows (see `edgec.passes.kernels.argmax`);
elsewhere IREE's own operation stays, as the form `whole`.

Of equal numbers the first is found. IREE passes over a NaN, and where there is nothing else gives
some token. Here a NaN counts as infinity, as it is found in torch: so what stands at the place that
is found says whether the logits are numbers at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.kernels.argmax import argmax_fits, argmax_template
from edgec.passes.rewriting import insert_function, symbol_name, walk

__all__ = ["LowerArgmax"]


_MOST_ROWS = 1024


@dataclass(frozen=True)
class LowerArgmax:
    """Rewrites every argmax.

    Attributes:
        form: `reductions`, `rows` for the search in rows, or `whole` for one search. With `whole`
            an argmax of something else than static f32 rows is left as it is.
        kernel: `generic`, or the feature level whose kernel is linked in for long rows; those that
            are shorter are searched as a `whole`.
    """

    form: str = "reductions"
    kernel: str = "generic"

    def __post_init__(self) -> None:
        if self.form not in ("reductions", "rows", "whole"):
            raise ValueError(f"form={self.form}: must be reductions, rows or whole")

    def run(self, module: ir.Module) -> None:
        found = [op for op in walk(module.operation) if op.name == "iree_linalg_ext.arg_compare"]
        for op in found:
            shape, form = _logits(op), "whole" if self.kernel != "generic" else self.form
            if shape is None:
                if form == "whole":
                    continue
                source = op.operands[0].type
                raise ValueError(f"an arg_compare that is no argmax of f32 logits: {source}")
            if self.kernel != "generic" and argmax_fits(shape[1]):
                symbol = _symbol(self.kernel, *shape)
                _replace(module, op, symbol, argmax_template(symbol, *shape, self.kernel))
                continue
            symbol = _symbol(form, *shape)
            _replace(module, op, symbol, _TEMPLATES[form](symbol, *shape))


def _logits(op: ir.Operation) -> tuple[int, int] | None:
    """Height and width, if the operation is the argmax of each row of static f32 logits."""
    source = ir.RankedTensorType(op.operands[0].type)
    if (
        source.rank != 2
        or not source.has_static_shape
        or ir.IntegerAttr(op.attributes["dimension"]).value != 1
        or str(op.results[1].type) != f"tensor<{source.shape[0]}xi32>"
        or not isinstance(source.element_type, ir.F32Type)
        or not _takes_larger(op)
    ):
        return None
    return source.shape[0], source.shape[1]


def _symbol(form: str, height: int, width: int) -> str:
    return symbol_name("argmax", form, f"{height}x{width}xf32")


def _replace(module: ir.Module, op: ir.Operation, symbol: str, text: str) -> None:
    insert_function(module, symbol, text)
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


def _reductions(symbol: str, rows: int, width: int) -> str:
    x, value, index = f"tensor<{rows}x{width}xf32>", f"tensor<{rows}xf32>", f"tensor<{rows}xi32>"
    return f"""
#all = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>
util.func private @"{symbol}"(%x: {x}) -> ({value}, {index}) {{
{_CONSTANTS}
  %low = arith.constant 0xFF800000 : f32
  %last = arith.constant {width - 1} : i32
  %value_empty = tensor.empty() : {value}
  %value_start = linalg.fill ins(%low : f32) outs(%value_empty : {value}) -> {value}
  %value = linalg.generic {{
      indexing_maps = [#all, #row], iterator_types = ["parallel", "reduction"]
    }} ins(%x : {x}) outs(%value_start : {value}) {{
  ^bb0(%a: f32, %b: f32):
    {_number("a")}
    %larger = arith.maximumf %a_number, %b : f32
    linalg.yield %larger : f32
  }} -> {value}
  %index_empty = tensor.empty() : {index}
  %index_start = linalg.fill ins(%last : i32) outs(%index_empty : {index}) -> {index}
  %index = linalg.generic {{
      indexing_maps = [#all, #row, #row], iterator_types = ["parallel", "reduction"]
    }} ins(%x, %value : {x}, {value}) outs(%index_start : {index}) {{
  ^bb0(%a: f32, %max: f32, %b: i32):
    %place = linalg.index 1 : index
    %here = arith.index_cast %place : index to i32
    {_number("a")}
    %equal = arith.cmpf oeq, %a_number, %max : f32
    %candidate = arith.select %equal, %here, %last : i32
    %first = arith.minsi %candidate, %b : i32
    linalg.yield %first : i32
  }} -> {index}
  util.return %value, %index : {value}, {index}
}}"""


def _whole(symbol: str, height: int, width: int) -> str:
    x, value, index = (
        f"tensor<{height}x{width}xf32>", f"tensor<{height}xf32>", f"tensor<{height}xi32>"
    )  # fmt: skip
    return f"""
util.func private @"{symbol}"(%x: {x}) -> ({value}, {index}) {{
  %low = arith.constant 0xFF800000 : f32
  %zero = arith.constant 0 : i32
{_CONSTANTS}
{_search("all", "%x", x, value, index, 1)}
  util.return %all#0, %all#1 : {value}, {index}
}}"""


def _in_rows(symbol: str, height: int, length: int) -> str:
    rows = max(d for d in range(1, _MOST_ROWS + 1) if length % d == 0)
    width = length // rows
    x, value, index = (
        f"tensor<{height}x{length}xf32>", f"tensor<{height}xf32>", f"tensor<{height}xi32>"
    )  # fmt: skip
    grid, row_value, row_index = (
        f"tensor<{height}x{rows}x{width}xf32>",
        f"tensor<{height}x{rows}xf32>",
        f"tensor<{height}x{rows}xi32>",
    )
    return f"""
util.func private @"{symbol}"(%x: {x}) -> ({value}, {index}) {{
  %low = arith.constant 0xFF800000 : f32
  %zero = arith.constant 0 : i32
{_CONSTANTS}
  %width = arith.constant {width} : i32
  %grid = tensor.expand_shape %x [[0], [1, 2]] output_shape [{height}, {rows}, {width}]
      : {x} into {grid}
{_search("in_row", "%grid", grid, row_value, row_index, 2)}
{_search("of_row", "%in_row#0", row_value, value, index, 1)}
  %index_empty = tensor.empty() : {index}
  %index = linalg.generic {{
      indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
      iterator_types = ["parallel"]
    }} ins(%of_row#1 : {index}) outs(%index_empty : {index}) {{
  ^bb0(%row: i32, %unused: i32):
    %h = linalg.index 0 : index
    %r = arith.index_cast %row : i32 to index
    %in = tensor.extract %in_row#1[%h, %r] : {row_index}
    %first = arith.muli %row, %width : i32
    %place = arith.addi %first, %in : i32
    linalg.yield %place : i32
  }} -> {index}
  util.return %of_row#0, %index : {value}, {index}
}}"""


def _search(name: str, source: str, type_: str, value: str, index: str, axis: int) -> str:
    """IREE's own operation along one axis; of equal values it takes the first."""
    return f"""  %{name}_v = tensor.empty() : {value}
  %{name}_i = tensor.empty() : {index}
  %{name}_low = linalg.fill ins(%low : f32) outs(%{name}_v : {value}) -> {value}
  %{name}_zero = linalg.fill ins(%zero : i32) outs(%{name}_i : {index}) -> {index}
  %{name}:2 = iree_linalg_ext.arg_compare dimension({axis}) ins({source} : {type_})
      outs(%{name}_low, %{name}_zero : {value}, {index}) {{
  ^bb0(%a: f32, %b: f32):
    {_number("a")}
    {_number("b")}
    %larger = arith.cmpf ogt, %a_number, %b_number : f32
    iree_linalg_ext.yield %larger : i1
  }} -> {value}, {index}"""


def _number(name: str) -> str:
    """`%<name>_number`: a value, or infinity for a NaN, which its bits tell on every target."""
    return f"""%{name}_bits = arith.bitcast %{name} : f32 to i32
    %{name}_size = arith.andi %{name}_bits, %sign_apart : i32
    %{name}_is_nan = arith.cmpi sgt, %{name}_size, %infinity_bits : i32
    %{name}_number = arith.select %{name}_is_nan, %infinity, %{name} : f32"""


_CONSTANTS = """  %infinity = arith.constant 0x7F800000 : f32
  %infinity_bits = arith.constant 0x7F800000 : i32
  %sign_apart = arith.constant 0x7FFFFFFF : i32"""

_TEMPLATES = {"reductions": _reductions, "rows": _in_rows, "whole": _whole}
