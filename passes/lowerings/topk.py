"""`lower-topk`: `edgec::topk` by counting, in plain contractions that every target compiles.

An element's rank is the number of elements that come before it: the larger ones, and the equal
ones with a smaller index. Rank r goes to place r. That is n² comparisons, all independent, and
for a router's few experts nothing beats it.

A vocabulary is cut into blocks first. The k largest elements lie in the k blocks whose maxima
come first: any other block has k blocks before it, each with an element that comes before all of
its own. So the blocks are chosen by their maxima, in the same way, and only their elements are
ranked. For 151,936 logits and k = 50 that is two million comparisons in all.

The comparisons are reductions with `form=cpu`, which vectorise there. Elsewhere they are loops in
an element-wise operation, one thread for an element: code generation for Vulkan fails on some
sizes of such reductions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

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

__all__ = ["LowerTopk"]

DIRECT = 1024
"""Up to this many elements are ranked without cutting them into blocks."""


@dataclass(frozen=True)
class LowerTopk:
    """The pass; `form` is cpu or loop."""

    form: str = "loop"

    def run(self, module: ir.Module) -> None:
        if self.form not in ("cpu", "loop"):
            raise ValueError(f"form '{self.form}': must be cpu or loop")
        for op in custom_ops(module, "topk"):
            x = parse_torch_tensor(op.operands[0].type)
            k = constant_int(op.operands[1])
            n = x.shape[-1]
            if n is None or not 0 < k <= n or x.dtype != "f32":
                raise ValueError(f"edgec::topk: {k} of {x.builtin}")
            symbol = symbol_name("topk", x, f"k{k}")
            insert_function(module, symbol, _template(symbol, x, k, self.form))
            values = x.with_dim(-1, k)
            call_template(op, symbol, [op.operands[0]], values, values.of("i64"))


def _template(symbol: str, x: Tensor, k: int, form: str) -> str:
    f = Function(symbol, x=x)
    values, indices = _Ranking(f, form).topk(f.rows(f["x"]), k)
    wide = f.generic("m r -> m r", [indices], lambda i: i.to("i64", signed=False), dtype="i64")
    return f.returns(f.unrows(values, f["x"]), f.unrows(wide, f["x"]))


@dataclass(frozen=True)
class _Ranking:
    """The operations on rows, f32 or i32 `[rows, n]`."""

    f: Function
    form: str

    def topk(self, x: Value, k: int) -> tuple[Value, Value]:
        """Values f32 `[rows, k]` and indices i32 `[rows, k]` of `x`, f32 `[rows, n]`."""
        n = _width(x)
        block = _block(n, k)
        if block == 1:
            return self._direct(x, k)
        _, chosen = self.topk(self._maxima(x, block), k)
        # In order of index, so that equal elements keep their order.
        chosen = self._ascending(chosen)
        values, places = self.topk(self._candidates(x, chosen, block), k)
        return values, self._original(chosen, places, block)

    def _direct(self, x: Value, k: int) -> tuple[Value, Value]:
        def before(i: Value, j: Value, a: Value, b: Value) -> Value:
            tied = b.is_("oeq", a) & j.is_("slt", i)
            return b.is_("ogt", a) | tied

        ranks = self._reduce(
            _width(x), [x], [x], 0,
            lambda total, i, j, a, b: total + before(i, j, a, b).to("i32"),
        )  # fmt: skip
        indices = self._reduce(
            k, [], [ranks], 0,
            lambda total, i, j, rank: total + rank.is_("eq", i).choose(j, 0),
        )  # fmt: skip
        values = self._reduce(
            k, [], [ranks, x], -inf,
            lambda most, i, j, rank, a: most.arith(
                "maximumf", rank.is_("eq", i).choose(a, -inf)
            ),
        )  # fmt: skip
        return values, indices

    def _maxima(self, x: Value, block: int) -> Value:
        """The largest element of each block, f32 `[rows, blocks]`."""
        f, n, rows = self.f, _width(x), x.size(0)
        blocks = -(-n // block)
        if padding := blocks * block - n:
            padded = Tensor((x.tensor.shape[0], blocks * block), "f32")
            (x,) = f.region(
                f"tensor.pad {x} low[0, 0] high[0, {padding}]",
                ["index", "index"],
                lambda row, column: f.const(-inf, "f32"),
                "tensor.yield",
                f" : {x.type} to {padded.builtin}",
                [Value(f, "", padded, [rows, blocks * block])],
            )
        return f.generic(
            "m b c -> m b",
            [f.expand(x, rows, (blocks, block))],
            lambda a, most: a.arith("maximumf", most),
            init=-inf,
        )

    def _ascending(self, indices: Value) -> Value:
        """The chosen blocks, i32 `[rows, k]`, in order of their index."""
        k = _width(indices)
        places = self._reduce(
            k, [indices], [indices], 0,
            lambda total, i, j, a, b: total + b.is_("slt", a).to("i32"),
        )  # fmt: skip
        return self._reduce(
            k, [], [places, indices], 0,
            lambda total, i, j, place, index: total + place.is_("eq", i).choose(index, 0),
        )  # fmt: skip

    def _candidates(self, x: Value, chosen: Value, block: int) -> Value:
        """The elements of the chosen blocks, f32 `[rows, k * block]`."""
        f, last = self.f, _width(x) - 1

        def element(chosen: Value) -> Value:
            at = chosen.to("index") * block + f.index("c")
            return at.is_("ule", last).choose(x[f.index("m"), at.arith("minui", last)], -inf)

        gathered = f.generic("m r -> m r c", [chosen], element, sizes={"c": block})
        return f.collapse(gathered, 1, 2)

    def _original(self, chosen: Value, places: Value, block: int) -> Value:
        """The index in the whole of an element of the candidates, i32 `[rows, k]`."""
        f = self.f

        def index(place: Value) -> Value:
            which = (place // block).to("index")
            return chosen[f.index("m"), which] * block + place % block

        return f.generic("m r -> m r", [places], index, dtype="i32")

    def _reduce(
        self,
        outer: int,
        at_outer: list[Value],
        at_inner: list[Value],
        initial: float,
        body: Callable[..., Value],
    ) -> Value:
        """`result[m, i] = reduce over j`, a reduction or a loop.

        Args:
            outer: How many `i` there are.
            at_outer: Tensors that are read at [m, i].
            at_inner: Those that are read at [m, j].
            initial: A float or an int, as the result is f32 or i32.
            body: Computes the next value from that before, i32 numbers of i and j, and elements.
        """
        f, n = self.f, _width(at_inner[0])
        dtype = "f32" if isinstance(initial, float) else "i32"
        if self.form == "cpu":

            def step(*elements: Value) -> Value:
                *read, total = elements
                return body(total, f.index("i").to("i32"), f.index("j").to("i32"), *read)

            axes = ["m i"] * len(at_outer) + ["m j"] * len(at_inner)
            return f.generic(
                f"{', '.join(axes)} -> m i", [*at_outer, *at_inner], step,
                init=initial, dtype=dtype, sizes={"i": outer},
            )  # fmt: skip

        def search(*read: Value) -> Value:
            row, i = f.index("m"), f.index("i").to("i32")

            def step(j: Value, total: Value) -> tuple[Value]:
                return (body(total, i, j.to("i32"), *read, *(x[row, j] for x in at_inner)),)

            return f.loop(n, [f.const(initial, dtype)], step)[0]

        return f.generic(
            f"{', '.join(['m i'] * len(at_outer))} -> m i", at_outer, search,
            dtype=dtype, sizes={"m": at_inner[0].size(0), "i": outer},
        )  # fmt: skip


def _width(x: Value) -> int:
    n = x.tensor.shape[-1]
    assert n is not None
    return n


def _block(n: int, k: int) -> int:
    """Elements in a block, or 1 where blocks do not pay: their candidates must be fewer than n."""
    if n <= DIRECT:
        return 1
    block = 1
    while n // block > DIRECT and k * block * 4 <= n // 2:
        block *= 2
    return block
