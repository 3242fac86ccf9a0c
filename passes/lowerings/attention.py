"""`lower-attention`: `edgec::attention` as two contractions around a softmax.

Only the rows that the block can see are read, rounded up to a multiple of 32: the work follows the
depth of the sequence, not the capacity of its cache, and the length keeps the divisibility that
code generation wants. Grouped query heads read each key and value once; nothing is repeated. The
sum of the softmax divides the product, not the weights, which is `value_width` divisions for each
query instead of one for each row.

With a window the cache may be a ring, position p in row `p % capacity`. Where the rows that the
block can see go past its end and on at row 0, all of it is read, in the order in which it lies: a
softmax does not care, and whether a query sees a row follows from the position that the row holds.

With `kernel=<level>` the forms that the level's kernel takes become dispatches of it (see
`edgec.passes.kernels.attention`); the others stay contractions.

With `compute=cache` both contractions of a block of tokens multiply in the cache's type, into f32
sums: over a 16-bit cache that is what tensor cores do. The softmax and its sum stay f32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from iree.compiler import ir

from edgec.passes.emit import Function, Tensor, Value
from edgec.passes.kernels.attention import (
    AttentionShape,
    attention_fits,
    attention_template,
    parse_attention,
)
from edgec.passes.limits import CACHE_BLOCK, LONGEST
from edgec.passes.rewriting import (
    call_template,
    custom_ops,
    insert_function,
    is_none,
    symbol_name,
)

__all__ = ["LowerAttention"]


@dataclass(frozen=True)
class _Case(AttentionShape):
    """One form of the operator, and the type of the contractions' factors."""

    factor: str = "f32"


@dataclass(frozen=True)
class LowerAttention:
    """Instantiates one function for each form of the operator in the module.

    Attributes:
        compute: The type of the contractions' factors: `activations` or `cache`.
        kernel: `generic`, or the feature level whose kernels are linked in.
    """

    compute: str = "activations"
    kernel: str = "generic"

    def __post_init__(self) -> None:
        if self.compute not in ("activations", "cache"):
            raise ValueError(f"compute={self.compute}: must be activations or cache")

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "attention"):
            query, key, value, start, sinks, _, _, _, *scales = op.operands
            shape = parse_attention(op)
            narrow = self.compute == "cache" and shape.query.shape[2] != 1 and not shape.scaled
            case = _Case(**vars(shape), factor=shape.key.dtype if narrow else "f32")
            if case.window and (case.key.shape[0] or 0) % CACHE_BLOCK:
                rows = case.key.builtin
                raise ValueError(f"attention: a ring not in blocks of {CACHE_BLOCK} rows: {rows}")
            fused = self.kernel != "generic" and attention_fits(case)
            symbol = symbol_name(
                f"attention.{self.kernel}" if fused else "attention",
                *(case.query, case.key, case.value),
                f"scale{case.scale!r}_window{case.window}_softcap{case.softcap!r}",
                "sinks" if case.sinks else "",
                "" if case.factor == "f32" else case.factor,
            )
            if fused:
                text = attention_template(symbol, case, self.kernel)
            else:
                text = _template(symbol, case)
            insert_function(module, symbol, text)
            operands = [v for v in (query, key, value, start, sinks, *scales) if not is_none(v)]
            call_template(op, symbol, operands, case.result)


def _template(symbol: str, case: _Case) -> str:
    _, query_heads, _, width = case.query.shape
    capacity, heads, value_width = case.key.shape[0], case.key.shape[1], case.value.shape[2]
    if query_heads is None or heads is None or capacity is None:
        raise ValueError(f"attention: heads and capacity must be static, got {case.key.builtin}")
    assert width is not None and value_width is not None
    group = query_heads // heads
    scales = Tensor((capacity, heads), "f32") if case.scaled else None
    f = Function(
        symbol,
        query=case.query,
        key=case.key,
        value=case.value,
        start=Tensor((), "i64"),
        sinks=Tensor((query_heads,), "f32") if case.sinks else None,
        key_scales=scales,
        value_scales=scales,
    )
    first = f.position(f["start"], LONGEST if case.window else capacity)
    tokens = f["query"].size(2)
    low, span, position = _span(f, first, first + tokens, case.window, capacity)
    blocks = (span + (CACHE_BLOCK - 1)) // CACHE_BLOCK
    depth = blocks * CACHE_BLOCK

    def rows(name: str) -> Value:
        """The visible rows of the cache; those of an i8 one as f32."""
        cache = f[name]
        taken = f.slice(cache, (low, 0, 0), (depth, *cache.sizes[1:]))
        if not case.scaled:
            return taken
        factors = f.slice(f[f"{name}_scales"], (low, 0), (depth, heads))
        return f.generic(
            "m h d, m h -> m h d", [taken, factors], lambda q, scale: q.to("f32") * scale
        )

    def visible(dot: Value, row: Value) -> Value:
        """The score, or minus infinity where it is hidden.

        Each use computes it anew from the product: as an operation of its own it would be fused
        with the reduction after it, which then keeps a whole row of scores on the stack.
        """
        score = dot * case.scale
        if case.softcap:
            score = (score / case.softcap).math("tanh") * case.softcap
        query, key = f.index("l") + first, position(row)
        seen = key.is_("ule", query)
        if case.window:
            seen = seen & (key + case.window).is_("ugt", query)
        return seen.choose(score, -inf)

    def exponential(dot: Value, maximum: Value, row: Value) -> Value:
        return (visible(dot, row) - maximum).math("exp")

    def multiply(a: Value, b: Value, total: Value) -> Value:
        return total + a.to("f32") * b.to("f32")

    keys, values = rows("key"), rows("value")
    queries = f.expand(f.collapse(f["query"], 2, 1, 1), (heads, group), tokens, width)
    rounded = f.convert(queries, case.factor)
    dot = f.generic("h g l d, m h d -> h g l m", [rounded, keys], multiply, init=0.0)
    lowest: Value | float = -inf
    if case.sinks:
        sinks = f.expand(f["sinks"], (heads, group))
        lowest = f.broadcast(sinks, [2], (heads, group, tokens))
    maximum = f.generic(
        "h g l m -> h g l",
        [dot],
        lambda a, most: visible(a, f.index("m")).arith("maximumf", most),
        init=lowest,
    )
    if case.factor == "f32":
        weights = f.generic(
            "h g l m, h g l -> h g l m",
            [dot, maximum],
            lambda a, most: exponential(a, most, f.index("m")),
        )
        weighted = f.generic("h g l m, m h d -> h g l d", [weights, values], multiply, init=0.0)
    else:
        # Tensor cores need to know the size of what they sum over: in blocks it is `CACHE_BLOCK`,
        # and the blocks are a dimension of their own. They stand before the tokens, or IREE would
        # fuse the two into the one of unknown size again.
        weights = f.generic(
            "h g l b m, h g l -> h g b l m",
            [f.expand(dot, heads, group, tokens, (blocks, CACHE_BLOCK)), maximum],
            lambda a, most: exponential(a, most, f.index("b") * CACHE_BLOCK + f.index("m")).to(
                case.factor
            ),
            dtype=case.factor,
        )
        split = f.expand(values, (blocks, CACHE_BLOCK), heads, value_width)
        weighted = f.generic("h g b l m, b m h d -> h g l d", [weights, split], multiply, init=0.0)
    total = f.generic(
        "h g l m, h g l -> h g l",
        [dot, maximum],
        lambda a, most, sum_: sum_ + exponential(a, most, f.index("m")),
        init=0.0,
    )
    if case.sinks:
        out = f.generic(
            "h g l d, h g l, h g l, h g -> l h g d",
            [weighted, total, maximum, sinks],
            lambda a, sum_, most, sink: a / (sum_ + (sink - most).math("exp")),
        )
    else:
        out = f.generic("h g l d, h g l -> l h g d", [weighted, total], lambda a, sum_: a / sum_)
    merged = f.collapse(out, 1, 2, 1)
    return f.returns(f.expand(merged, (1, tokens), query_heads, value_width))


def _span(
    f: Function, first: Value, end: Value, window: int, capacity: int
) -> tuple[Value, Value, Callable[[Value], Value]]:
    """The first row that is read, how many are, and which position is in each of these.

    A row up to that of the last token holds a position of the ring's present lap, the others one
    of the lap before, or in the first lap none.
    """
    if not window:
        return f.const(0, "index"), end, lambda row: row
    last = end - 1
    last_row = last % capacity
    lap = last - last_row
    lap_before = lap.is_("eq", 0).choose(2 * LONGEST, lap - capacity)
    oldest_row = (first.arith("maxui", window - 1) - (window - 1)) % capacity
    oldest_block = oldest_row // CACHE_BLOCK * CACHE_BLOCK
    wraps = oldest_row.is_("ugt", last_row)
    low = wraps.choose(0, oldest_block)

    def position(row: Value) -> Value:
        place = row + low
        return place + place.is_("ugt", last_row).choose(lap_before, lap)

    return low, wraps.choose(capacity, last_row + 1 - oldest_block), position
