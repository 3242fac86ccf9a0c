"""Dispatches of the CPU kernels in compiler/ukernels/attention_step.h."""

from __future__ import annotations

from dataclasses import dataclass

from edgec.passes.emit import Function, Size, Tensor, Value
from edgec.passes.kernels.attention import AttentionShape, tiling
from edgec.passes.kernels.calls import Made, dispatch, executable
from edgec.passes.kernels.table import ATTENTION
from edgec.passes.limits import LONGEST
from edgec.passes.rewriting import symbol_name

__all__ = ["HeadRows", "StepShape", "step_operands", "step_symbol", "step_template"]

_SPAN = 4
"""Tokens of a workgroup that prepares many: 32 of them are eight."""


@dataclass(frozen=True)
class HeadRows:
    """Rows of query, key or value: where they lie, and what becomes of them.

    Attributes:
        type: Of the tensor.
        place: The first element, the elements from token to token and from head to head.
        tokens: The tensor's dimension of tokens, if dynamic.
        norm: 0, 1 for an RMS norm, or 2 for one with weights.
        rotated: Columns.
    """

    type: Tensor
    place: tuple[int, int, int]
    tokens: int | None = None
    norm: int = 0
    epsilon: float = 0.0
    rotated: int = 0

    @property
    def label(self) -> str:
        numbers = "_".join(map(str, (*self.place, self.norm, repr(self.epsilon), self.rotated)))
        return f"{self.type.label}_{numbers}"


@dataclass(frozen=True)
class StepShape:
    """Attention with what leads to it, or without attention what leads to it, of many tokens.

    Attributes:
        attention: What attends to the cache.
        query: None where it is left as it is.
        tokens: None where dynamic.
        table: The type of the cosines and of the sines, if rows turn.
        turn: Columns of these.
        ring: Whether the cache is one.
        attends: Whether attention is part of it: with one token.
    """

    attention: AttentionShape
    query: HeadRows | None
    key: HeadRows
    value: HeadRows
    tokens: int | None
    table: Tensor | None
    turn: int
    ring: bool
    attends: bool


def step_symbol(shape: StepShape, level: str) -> str:
    """The name of its function, which says everything."""
    a = shape.attention
    rows = [r.label for r in (shape.query, shape.key, shape.value) if r is not None]
    form = f"scale{a.scale!r}_window{a.window}_softcap{a.softcap!r}" if shape.attends else ""
    kernel = "attention_step" if shape.attends else "rotate"
    return symbol_name(
        f"{kernel}.{level}",
        *(a.query, a.key, a.value),
        *rows,
        shape.table or "",
        f"turn{shape.turn}" if shape.table else "",
        form,
        "sinks" if a.sinks and shape.attends else "",
        "ring" if shape.ring else "",
    )


def _types(shape: StepShape) -> dict[str, Tensor]:
    """The kernel's buffers that the form has, in order; the results after them are left out."""
    a, query, key = shape.attention, shape.query, shape.key
    capacity, kv_heads, width = a.key.shape
    types = {"query": query.type} if query else {}
    types |= {"key": key.type, "value": shape.value.type}
    if shape.table is not None:
        types |= {"cos": shape.table, "sin": shape.table}
    for name, rows in (("query_norm", query), ("key_norm", key)):
        if rows is not None and rows.norm == 2:
            types[name] = Tensor((width,), "f32")
    types |= {"keys": a.key, "values": a.value}
    if a.scaled:
        factor = Tensor((capacity, kv_heads), "f32")
        types |= {"key_scales": factor, "value_scales": factor}
    if shape.attends and a.sinks:
        types["sinks"] = Tensor((a.query.shape[1],), "f32")
    return types


def step_operands(shape: StepShape) -> list[str]:
    """The names of what the function takes; `start` is the position of the first token."""
    return [*_types(shape), "start"]


def step_template(symbol: str, shape: StepShape, level: str) -> str:
    """The executable and the function `symbol`: its result, if any, and the cache's buffers."""
    a = shape.attention
    _, heads, _, width = a.query.shape
    capacity, kv_heads, value_width = a.key.shape[0], a.key.shape[1], a.value.shape[2]
    assert heads and kv_heads and width and value_width and capacity is not None
    per, _ = tiling(heads, kv_heads, width, 1)
    f = Function(symbol, **_types(shape), position=Tensor((), "i64"))
    # Only a dimension of tokens is dynamic, and all such have as many.
    tokens: Size = shape.tokens or 0
    if shape.key.tokens is not None:
        tokens = f["key"].size(shape.key.tokens)
    numbers: dict[str, Size | float] = {
        "start": f.position(f["position"], LONGEST if shape.ring else capacity),
        "tokens": tokens, "heads": heads if shape.query else 0, "kv_heads": kv_heads,
        "width": width, "value_width": value_width, "capacity": capacity, "turn": shape.turn,
        "per": per, "parts": heads // per, "window": a.window, "has_sinks": int(a.sinks),
        "span": _SPAN, "scale": a.scale, "softcap": a.softcap,
        "query_epsilon": shape.query.epsilon if shape.query else 0.0,
        "key_epsilon": shape.key.epsilon,
    }  # fmt: skip
    rows = {"query": shape.query, "key": shape.key, "value": shape.value}
    for name, row in rows.items():
        first, token, head = row.place if row else (0, 0, 0)
        numbers |= {f"{name}_first": first, f"{name}_token": token, f"{name}_head": head}
        numbers |= {f"{name}_normed": row.norm if row else 0}
        numbers |= {f"{name}_rotated": row.rotated if row else 0}
    state = [f[n] for n in ("keys", "values", "key_scales", "value_scales") if n in f]
    result: list[Made | Value] = []
    if shape.attends or shape.query:
        made = a.result if shape.attends else a.query
        result = [("f32", [tokens if size is None else size for size in made.shape])]
    kernel = f"{'attention_step' if shape.attends else 'rotate'}_{a.key.dtype}"
    # The kernel does not read what this form does not have.
    values = {
        name: f[name if name in f else "key"].known(tokens)
        for name in (buffer.name for buffer in ATTENTION.kernels[kernel].buffers)
    }
    unwritten = None if result else f["key"].known(tokens)
    done = dispatch(f, ATTENTION, kernel, values, [*result, *state], numbers, unwritten)
    return executable(ATTENTION, level) + f.returns(*done)
