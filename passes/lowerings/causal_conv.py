"""`lower-causal-conv`: `edgec::causal_conv` as one element-wise operation over shifted rows.

A product for each row of the kernel, which has three or four, over slices of the same rows: code
that every target turns into vectors. As a convolution it would be run element by element.

The state is a ring, so that a decode step writes one row of it in place and moves none.
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

__all__ = ["LowerCausalConv"]


@dataclass(frozen=True)
class LowerCausalConv:
    """Instantiates one function for each form of the operator in the module."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "causal_conv"):
            x, state, weight = (parse_torch_tensor(v.type) for v in op.operands[:3])
            bias, length = (not is_none(op.operands[i]) for i in (3, 5))
            columns, width = state.shape[0], weight.shape[1]
            if columns is None or width is None or not 1 < width <= columns:
                raise ValueError(f"causal_conv: {weight.builtin} with state {state.builtin}")
            form = "biased" if bias else ""
            symbol = symbol_name("causal_conv", x, state, weight, form, "" if length else "full")
            text = _template(symbol, x, state, weight, bias, length)
            insert_function(module, symbol, text)
            call_template(op, symbol, [v for v in op.operands if not is_none(v)], x, state)


def _template(
    symbol: str, x: Tensor, state: Tensor, weight: Tensor, bias: bool, length: bool
) -> str:
    scalar = Tensor((), "i64")
    f = Function(
        symbol,
        x=x,
        state=state,
        weight=weight,
        bias=Tensor((x.shape[1],), "f32") if bias else None,
        start=scalar,
        length=scalar if length else None,
    )
    first = f.position(f["start"])
    width, channels = weight.shape[1], x.shape[1]
    assert width is not None and channels is not None
    rows, new = (_one if x.shape[0] == 1 else _many)(f, first, width)
    columns = [f.slice(f["weight"], (0, j), (channels, 1), drop=1) for j in range(width)]
    biases = [f["bias"]] if bias else []

    def weighted(*elements: Value) -> Value:
        total = elements[-1] if bias else f.const(0.0, "f32")
        for row, column in zip(elements[:width], elements[width : 2 * width], strict=True):
            total = total + row * column
        return total

    axes = ["t c"] * width + ["c"] * (width + bias)
    result = f.generic(f"{', '.join(axes)} -> t c", [*rows, *columns, *biases], weighted)
    return f.returns(result, new)


def _one(f: Function, first: Value, width: int) -> tuple[list[Value], Value]:
    """One token: its row goes into the ring, and the rows are read from there.

    Returns:
        The shifted rows and the new state.
    """
    columns, channels = f["state"].sizes
    assert isinstance(columns, int)
    new = f.insert(f["x"], f["state"], (first % columns, 0))
    places = [(first + (columns + 1 + j - width)) % columns for j in range(width)]
    return [f.slice(new, (place, 0), (1, channels)) for place in places], new


def _many(f: Function, first: Value, width: int) -> tuple[list[Value], Value]:
    """A block: its rows after the last ones before it; of the true ones the last are kept.

    Returns:
        The shifted rows and the new state.
    """
    (tokens, channels), columns = f["x"].sizes, f["state"].size(0)
    assert isinstance(columns, int)
    true = f["length"][()].to("index") if "length" in f else f.const(tokens, "index")

    def past_row() -> Value:
        row = (first + f.index("i") + (columns + 1 - width)) % columns
        return f["state"][row, f.index("c")]

    def kept(old: Value) -> Value:
        age = (last + columns - f.index("r")) % columns
        token = last - age - first
        value = f["x"][token.arith("maxsi", 0), f.index("c")]
        return token.is_("sge", 0).choose(value, old)

    past = f.generic("-> i c", [], past_row, sizes={"i": width - 1, "c": channels})
    rows = f["x"].tensor.shape[0]
    joined = f["x"].tensor.with_dim(0, None if rows is None else rows + width - 1)
    every = f.op(
        f"tensor.concat dim(0) {past}, {f['x']} : ({past.type}, {f['x'].type}) -> {joined.builtin}",
        joined,
    )
    last = first + true - 1
    new = f.generic("-> r c", [], kept, init=f["state"])
    return [f.slice(every, (j, 0), (tokens, channels)) for j in range(width)], new
