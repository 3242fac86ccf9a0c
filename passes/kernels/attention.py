"""Dispatches of the CPU kernels in compiler/ukernels/attention.h, as MLIR text."""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.kernels.calls import Operand, dispatch, executable
from edgec.passes.kernels.table import ATTENTION, CACHE_ELEMENTS, attention
from edgec.passes.limits import LONGEST
from edgec.passes.rewriting import (
    TorchTensor,
    constant_float,
    constant_int,
    is_none,
    parse_torch_tensor,
)

__all__ = ["AttentionShape", "attention_fits", "attention_template", "parse_attention", "tiling"]

_BUSY = 4
"""Workgroups that a single token should have, where its heads allow."""


@dataclass(frozen=True)
class AttentionShape:
    """A form of `edgec::attention`."""

    query: TorchTensor
    key: TorchTensor
    value: TorchTensor
    result: TorchTensor
    sinks: bool
    scale: float
    window: int
    softcap: float
    scaled: bool = False
    """Whether the cache is i8, with a scale for each row of a head."""


def parse_attention(op: ir.Operation) -> AttentionShape:
    """The form of an `edgec::attention`."""
    query, key, value, _, sinks, scale, window, softcap, *_ = op.operands
    cache = parse_torch_tensor(key.type)
    return AttentionShape(
        query=parse_torch_tensor(query.type),
        key=cache,
        value=parse_torch_tensor(value.type),
        result=parse_torch_tensor(op.results[0].type),
        sinks=not is_none(sinks),
        scale=constant_float(scale),
        window=constant_int(window),
        softcap=constant_float(softcap),
        scaled=cache.dtype == "i8",
    )


def attention_fits(shape: AttentionShape) -> bool:
    """Whether the kernels take it: whole vectors, small enough for their scratch memory."""
    widths = (shape.key.shape[2] or 0, shape.value.shape[2] or 0)
    return shape.key.dtype == shape.value.dtype in CACHE_ELEMENTS and all(
        0 < width <= attention.MAX_WIDTH and width % attention.LANES == 0 for width in widths
    )


def tiling(heads: int, kv_heads: int, width: int, tokens: int | None) -> tuple[int, int]:
    """The query heads and the tokens of a workgroup.

    Args:
        tokens: Of a call; None when dynamic.
    """
    rows = min(
        attention.MAX_ROWS, attention.MAX_QUERY // width // attention.LANES * attention.LANES
    )
    group = heads // kv_heads
    # Heads that share a head of the cache share its reading, unless cores would go without work.
    apart = _BUSY if tokens == 1 else 1
    fitting = [d for d in range(min(group, rows), 0, -1) if group % d == 0]
    per = next((d for d in fitting if heads // d >= apart), 1)
    return per, rows // per


def attention_template(symbol: str, shape: AttentionShape, level: str) -> str:
    """The executable and the function `symbol` that calls it."""
    _, heads, tokens, width = shape.query.shape
    capacity, kv_heads, value_width = shape.key.shape[0], shape.key.shape[1], shape.value.shape[2]
    assert heads and kv_heads and width and value_width and capacity is not None
    per, span = tiling(heads, kv_heads, width, tokens)
    dynamic = "{%tokens}" if tokens is None else ""
    query, key, value, out = (
        t.builtin for t in (shape.query, shape.key, shape.value, shape.result)
    )
    sinks = f"tensor<{heads}xf32>"
    constants = {
        "heads": heads, "kv_heads": kv_heads, "width": width, "value_width": value_width,
        "window": shape.window, "has_sinks": int(shape.sinks), "per": per, "span": span,
        "capacity": capacity, "parts": heads // per,
    }  # fmt: skip
    longest = LONGEST if shape.window else capacity
    lines = "\n".join(f"  %{k} = arith.constant {v} : index" for k, v in constants.items())
    # The kernel does not read what this form does not have.
    unread: Operand = ("%query", f"{query}{dynamic}")
    values = {
        "query": unread, "key": ("%key", key), "value": ("%value", value),
        "sinks": ("%sinks", sinks) if shape.sinks else unread,
        "key_scales": unread, "value_scales": unread,
    }  # fmt: skip
    arguments = ""
    if shape.scaled:
        factor = f"tensor<{capacity}x{kv_heads}xf32>"
        for name in ("key_scales", "value_scales"):
            values[name] = (f"%{name}", factor)
            arguments += f", %{name}: {factor}"
    compute = dispatch(
        "%result", ATTENTION, f"attention_{shape.key.dtype}", values, [f"{out}{dynamic}"]
    )
    return f"""
{executable(ATTENTION, level)}
util.func private @"{symbol}"(%query: {query}, %key: {key}, %value: {value},
    %position: tensor<i64>{f", %sinks: {sinks}" if shape.sinks else ""}{arguments}) -> {out} {{
  %c2 = arith.constant 2 : index
{lines}
  %scale = arith.constant {shape.scale:e} : f32
  %softcap = arith.constant {shape.softcap:e} : f32
  %tokens = tensor.dim %query, %c2 : {query}
  %start_i64 = tensor.extract %position[] : tensor<i64>
  %start_any = arith.index_cast %start_i64 : i64 to index
  %start = util.assume.int %start_any<umin = 0, umax = {longest}> : index{compute}
  util.return %result : {out}
}}"""
