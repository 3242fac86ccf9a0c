"""Dispatches of the CPU kernels in compiler/ukernels/attention_step.h, as MLIR text."""

from __future__ import annotations

from dataclasses import dataclass

from edgec.passes.kernels.attention import AttentionShape, tiling
from edgec.passes.kernels.calls import dispatch, executable
from edgec.passes.kernels.table import ATTENTION
from edgec.passes.limits import LONGEST
from edgec.passes.rewriting import TorchTensor, symbol_name

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

    type: TorchTensor
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
    table: TorchTensor | None
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


def _types(shape: StepShape) -> dict[str, str]:
    """The kernel's buffers that the form has, in order; the results after them are left out."""
    a, query, key = shape.attention, shape.query, shape.key
    capacity, kv_heads, width = a.key.shape
    types = {"query": query.type.builtin} if query else {}
    types |= {"key": key.type.builtin, "value": shape.value.type.builtin}
    if shape.table is not None:
        types |= {"cos": shape.table.builtin, "sin": shape.table.builtin}
    for name, rows in (("query_norm", query), ("key_norm", key)):
        if rows is not None and rows.norm == 2:
            types[name] = f"tensor<{width}xf32>"
    types |= {"keys": a.key.builtin, "values": a.value.builtin}
    if a.scaled:
        factor = f"tensor<{capacity}x{kv_heads}xf32>"
        types |= {"key_scales": factor, "value_scales": factor}
    if shape.attends and a.sinks:
        types["sinks"] = f"tensor<{a.query.shape[1]}xf32>"
    return types


def step_operands(shape: StepShape) -> list[str]:
    """The names of what the function takes; `start` is the position of the first token."""
    return [*_types(shape), "start"]


def step_template(symbol: str, shape: StepShape, level: str) -> str:
    """The executable and the function `symbol`: its result, if any, and the cache's buffers."""
    a, rows, types = shape.attention, (shape.query, shape.key, shape.value), _types(shape)
    _, heads, _, width = a.query.shape
    capacity, kv_heads, value_width = a.key.shape[0], a.key.shape[1], a.value.shape[2]
    assert heads and kv_heads and width and value_width and capacity is not None
    per, _ = tiling(heads, kv_heads, width, 1)
    constants = {
        "heads": heads if shape.query else 0, "kv_heads": kv_heads, "width": width,
        "value_width": value_width, "capacity": capacity, "turn": shape.turn, "per": per,
        "parts": heads // per, "window": a.window, "has_sinks": int(a.sinks), "span": _SPAN,
    }  # fmt: skip
    for name, row in zip(("query", "key", "value"), rows, strict=True):
        first, token, head = row.place if row else (0, 0, 0)
        constants |= {f"{name}_first": first, f"{name}_token": token, f"{name}_head": head}
        constants |= {f"{name}_normed": row.norm if row else 0}
        constants |= {f"{name}_rotated": row.rotated if row else 0}
    lines = [f"  %{k} = arith.constant {v} : index" for k, v in constants.items()]
    floats = {"query_epsilon": shape.query.epsilon if shape.query else 0.0}
    floats["key_epsilon"] = shape.key.epsilon
    if shape.attends:
        floats = {"scale": a.scale, "softcap": a.softcap, **floats}
    lines += [f"  %{k} = arith.constant {v:e} : f32" for k, v in floats.items()]
    # Only a dimension of tokens is dynamic, and all such have as many.
    if shape.key.tokens is None:
        lines.append(f"  %tokens = arith.constant {shape.tokens} : index")
    else:
        lines.append(f"""  %dim = arith.constant {shape.key.tokens} : index
  %tokens = tensor.dim %key, %dim : {shape.key.type.builtin}""")
    result = a.result.builtin if shape.attends else a.query.builtin if shape.query else ""
    sized = {name: type_ + ("{%tokens}" if "?" in type_ else "") for name, type_ in types.items()}
    state = ["keys", "values", *(["key_scales", "value_scales"] if a.scaled else [])]
    results, returned = [f"%{name}" for name in state], [types[name] for name in state]
    if result:
        results.insert(0, result + ("{%tokens}" if "?" in result else ""))
        returned.insert(0, result)
    kernel = f"{'attention_step' if shape.attends else 'rotate'}_{a.key.dtype}"
    # The kernel does not read what this form does not have.
    buffers = ATTENTION.kernels[kernel].buffers
    values = {b.name: b.name if b.name in types else "key" for b in buffers}
    operands = {name: (f"%{given}", sized[given]) for name, given in values.items()}
    done = dispatch(
        "%done", ATTENTION, kernel, operands, results,
        unwritten=None if result else ("%key", sized["key"]),
    )  # fmt: skip
    made = ", ".join(f"%done#{i}" for i in range(len(results)))
    arguments = ", ".join(f"%{name}: {type_}" for name, type_ in types.items())
    newline = "\n"
    return f"""
{executable(ATTENTION, level)}
util.func private @"{symbol}"({arguments}, %position: tensor<i64>) -> ({", ".join(returned)}) {{
{newline.join(lines)}
  %start_i64 = tensor.extract %position[] : tensor<i64>
  %start_any = arith.index_cast %start_i64 : i64 to index
  %start = util.assume.int %start_any<umin = 0, umax = {LONGEST if shape.ring else capacity}>
      : index{done}
  util.return {made} : {", ".join(returned)}
}}"""
