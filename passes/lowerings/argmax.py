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
from math import inf

from iree.compiler import ir

from edgec.passes.emit import Function, Tensor, Value
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
            f = Function(symbol, x=Tensor(shape, "f32"))
            _replace(module, op, symbol, f.returns(*_FORMS[form](f)))


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


def _reductions(f: Function) -> tuple[Value, Value]:
    x = f["x"]
    last = (x.tensor.shape[1] or 0) - 1

    def place(a: Value, most: Value, first: Value) -> Value:
        here = f.index("n").to("i32")
        return _number(a).is_("oeq", most).choose(here, last).arith("minsi", first)

    value = f.generic("m n -> m", [x], lambda a, b: _number(a).arith("maximumf", b), init=-inf)
    return value, f.generic("m n, m -> m", [x, value], place, init=last, dtype="i32")


def _whole(f: Function) -> tuple[Value, Value]:
    return _search(f, f["x"])


def _in_rows(f: Function) -> tuple[Value, Value]:
    height, length = f["x"].sizes
    assert isinstance(length, int)
    rows = max(d for d in range(1, _MOST_ROWS + 1) if length % d == 0)
    width = length // rows
    in_row, place_in_row = _search(f, f.expand(f["x"], height, (rows, width)))
    value, row = _search(f, in_row)

    def place(row: Value) -> Value:
        return row * width + place_in_row[f.index("h"), row.to("index")]

    return value, f.generic("h -> h", [row], place, dtype="i32")


def _search(f: Function, x: Value) -> tuple[Value, Value]:
    """IREE's own operation along the last axis; of equal values it takes the first."""
    *sizes, _ = x.sizes
    outs = [f.fill(-inf, "f32", sizes), f.fill(0, "i32", sizes)]
    types = ", ".join(out.type for out in outs)
    value, index = f.region(
        f"iree_linalg_ext.arg_compare dimension({len(sizes)}) ins({x} : {x.type}) "
        f"outs({outs[0]}, {outs[1]} : {types})",
        ["f32", "f32"],
        lambda a, b: _number(a).is_("ogt", _number(b)),
        "iree_linalg_ext.yield",
        f" -> {types}",
        outs,
    )
    return value, index


def _number(a: Value) -> Value:
    """A value, or infinity for a NaN, which its bits tell on every target."""
    bits = a.bits()
    return (bits & 0x7FFFFFFF).is_("sgt", 0x7F800000).choose(inf, a)


_FORMS = {"reductions": _reductions, "rows": _in_rows, "whole": _whole}
