"""Dispatches of the CPU kernels in compiler/ukernels/attention.h."""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.emit import Function, Size, Tensor
from edgec.passes.kernels.calls import dispatch, executable
from edgec.passes.kernels.table import ATTENTION, CACHE_ELEMENTS, attention
from edgec.passes.limits import LONGEST
from edgec.passes.rewriting import (
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

    query: Tensor
    key: Tensor
    value: Tensor
    result: Tensor
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
    scales = Tensor((capacity, kv_heads), "f32") if shape.scaled else None
    f = Function(
        symbol,
        query=shape.query,
        key=shape.key,
        value=shape.value,
        position=Tensor((), "i64"),
        sinks=Tensor((heads,), "f32") if shape.sinks else None,
        key_scales=scales,
        value_scales=scales,
    )
    count = f["query"].size(2)
    numbers: dict[str, Size | float] = {
        "start": f.position(f["position"], LONGEST if shape.window else capacity),
        "tokens": count, "heads": heads, "kv_heads": kv_heads, "width": width,
        "value_width": value_width, "window": shape.window, "has_sinks": int(shape.sinks),
        "per": per, "span": span, "capacity": capacity, "parts": heads // per,
        "scale": shape.scale, "softcap": shape.softcap,
    }  # fmt: skip
    kernel = f"attention_{shape.key.dtype}"
    # The kernel does not read what this form does not have.
    values = {
        name: f[name if name in f else "query"]
        for name in (buffer.name for buffer in ATTENTION.kernels[kernel].buffers)
    }
    result = [("f32", (1, count, heads, value_width))]
    made = dispatch(f, ATTENTION, kernel, values, result, numbers)
    return executable(ATTENTION, level) + f.returns(*made)
