"""The CPU kernels, and the constants that their C sources and their callers share.

The C sources say what each computes; `k`, `n` and `m` are columns, features and rows there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from edgec.passes.kernels.kernel import Axis, Buffer, Kernel, Library
from edgec.weight_formats import FORMATS, WeightFormat

__all__ = [
    "ACTIVATIONS",
    "ARGMAX",
    "ATTENTION",
    "CACHE_ELEMENTS",
    "CONSTANTS",
    "EXPERTS",
    "FLOATS",
    "FOLDS",
    "LIBRARIES",
    "LINEAR",
    "PARTS",
    "argmax",
    "attention",
    "linear",
    "objects",
    "quantized",
    "quantized_experts_library",
    "quantized_library",
]

ACTIVATIONS = ("silu", "gelu_tanh")
"""A gate's activations; the kernels are told the place in this list."""
FLOATS = ("f32", "f16", "bf16")
"""Types of weights that are not quantised."""
CACHE_ELEMENTS = ("f32", "f16", "bf16", "i8")
"""Types of a KV cache's rows."""
PARTS = (1, 2, 3)
"""How many layers that read the same rows a kernel takes."""


@dataclass(frozen=True)
class FoldBits:
    """Operations that a product folds in, as bits of `folds`."""

    NORM: int = 1  # x / sqrt(mean of its squares + eps)
    NORM_WEIGHT: int = 2  # and that times a weight for each column
    ADDED: int = 4  # added + alpha * product
    BIAS: int = 8  # to the first layer; the next two bits: to the second and the third


@dataclass(frozen=True)
class LinearSizes:
    """Sizes of linear.h."""

    STEP: int = 32  # columns: a divisor of k
    FEW: int = 8  # rows of activations that are read as they are, at most
    FEW_ROWS: int = 4  # rows of weights of a tile with few rows
    PANEL: int = 16  # rows of activations that are turned together
    MOST_ROWS: int = 256  # rows of activations of a workgroup
    MOST_WEIGHTS: int = 48  # rows of weights of a workgroup with many rows: whole tiles
    MOST_NORMED: int = 8192  # numbers of few rows that are normed
    MOST_COLUMNS: int = 512  # columns of rows that are turned into panels by a workgroup
    PACKED_ROWS: int = 32  # rows of them: whole panels


@dataclass(frozen=True)
class QuantizedSizes:
    """Sizes of quantized_linear.h."""

    BLOCK: int = 32  # columns that share a scale of the activations
    PANEL: int = 16  # output channels of a panel of weights
    MAX_FUSED_K: int = 16384  # columns of a row that a workgroup quantises for itself
    MOST_ROWS: int = 256  # rows of activations of a workgroup: they stay in the second-level cache
    QUANTIZED_ROWS: int = 8  # rows that a workgroup quantises


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes of attention.h."""

    LANES: int = 16  # a divisor of the widths
    MAX_WIDTH: int = 256
    MAX_ROWS: int = 64  # query rows of a workgroup: tokens times heads
    MAX_QUERY: int = 8192  # query rows times width


@dataclass(frozen=True)
class ArgmaxSizes:
    """Sizes of argmax.h."""

    BLOCK: int = 512


FOLDS = FoldBits()
linear = LinearSizes()
quantized = QuantizedSizes()
attention = AttentionSizes()
argmax = ArgmaxSizes()

CONSTANTS: dict[str, tuple[object, ...]] = {
    "linear": (FOLDS, linear),
    "quantized_linear": (FOLDS, quantized),
    "attention": (attention,),
    "argmax": (argmax,),
}
"""The constants of each C source."""


def _several(name: str, element: str, count: int, access: str = "read") -> list[Buffer]:
    return [Buffer(f"{name}{i}", element, access) for i in range(count)]


_X, _NORM, _ADDED = Buffer("x", "f32"), Buffer("norm", "f32"), Buffer("added", "f32")
_STRIPS = Axis("total", "first", "each", "count")  # rows of weights, of all layers
_ROW_BLOCKS = Axis("m", "row", linear.MOST_ROWS, "rows")


def _linear() -> Iterator[Kernel]:
    yield Kernel(
        "linear_pack", (_X, _NORM, Buffer("to", "f32", "write")), ("m", "k", "folds"), ("eps",),
        (
            Axis("m", "row", linear.PACKED_ROWS, "rows"),
            Axis("k", "column", linear.MOST_COLUMNS, "columns"),
        ),
    )  # fmt: skip
    for element in FLOATS:
        for parts in PARTS:
            buffers = [*_several("w", element, parts), *_several("b", "f32", parts), _ADDED]
            buffers += _several("o", "f32", parts, "write")
            sizes = ("m", *(f"n{i}" for i in range(parts)), "k", "folds")
            yield Kernel(
                f"linear{parts}_few_{element}", (_X, _NORM, *buffers), sizes, ("eps", "alpha"),
                (_STRIPS,),
            )  # fmt: skip
            yield Kernel(
                f"linear{parts}_many_{element}", (_X, *buffers), sizes, ("alpha",),
                (_STRIPS, _ROW_BLOCKS),
            )  # fmt: skip
        gate = (*_several("w", element, 2), Buffer("o0", "f32", "write"))
        yield Kernel(
            f"linear_gated_few_{element}", (_X, _NORM, *gate),
            ("m", "n0", "k", "folds", "activation"), ("eps",), (_STRIPS,),
        )  # fmt: skip
        yield Kernel(
            f"linear_gated_many_{element}", (_X, *gate), ("m", "n0", "k", "activation"), (),
            (_STRIPS, _ROW_BLOCKS),
        )  # fmt: skip


_OUT = Buffer("out", "f32", "write")


def _experts() -> Iterator[Kernel]:
    yield Kernel(
        "grouped_pack", (_X, Buffer("offsets", "i32"), Buffer("to", "f32", "write")),
        ("experts", "k"), (),
        (
            Axis("rows", "row", linear.PACKED_ROWS, "count"),
            Axis("k", "column", linear.MOST_COLUMNS, "columns"),
        ),
    )  # fmt: skip
    strips = Axis("n", "first", "each", "count")
    for element in FLOATS:
        weights = Buffer("w", element)
        yield Kernel(
            f"grouped_many_{element}", (_X, weights, Buffer("offsets", "i32"), _OUT), ("n", "k"),
            (), (strips, Axis("groups", "expert")),
        )  # fmt: skip
        yield Kernel(
            f"grouped_few_{element}", (_X, weights, Buffer("experts", "i32"), _OUT), ("n", "k"),
            (), (strips, Axis("groups", "row")),
        )  # fmt: skip


_INTEGERS = (Buffer("q", "i8"), Buffer("s", "f32"), Buffer("c", "i32"))
_INTEGERS_OUT = tuple(Buffer(b.name, b.element, "write") for b in _INTEGERS)
_PANELS = Axis("panels", "first", "each", "count")
_QUANTIZED_ROWS = Axis("m", "row", quantized.QUANTIZED_ROWS, "count")
_QUANTIZED_BLOCKS = Axis("m", "row", quantized.MOST_ROWS, "rows")


def _weights(count: int, scale: str) -> list[Buffer]:
    """Packed codes and scales of several layers."""
    return [
        buffer for i in range(count) for buffer in (Buffer(f"w{i}", "u8"), Buffer(f"s{i}", scale))
    ]


def _scale_element(form: WeightFormat) -> str:
    return "u8" if form.scale_element == "i8" else form.scale_element


def _quantized(form: WeightFormat) -> Iterator[Kernel]:
    scale = _scale_element(form)
    yield Kernel(
        "quantize_rows", (_X, _NORM, *_INTEGERS_OUT), ("m", "k", "folds"), ("eps",),
        (_QUANTIZED_ROWS,),
    )  # fmt: skip
    one_out = _several("o", "f32", 1, "write")
    for parts in PARTS:
        yield Kernel(
            f"quantized_matvec{parts}",
            (
                _X, _NORM, *_weights(parts, scale), *_several("b", "f32", parts), _ADDED,
                *_several("o", "f32", parts, "write"),
            ),
            (*(f"n{i}" for i in range(parts)), "k", "group", "folds"), ("eps", "alpha"),
            (_PANELS,),
        )  # fmt: skip
    yield Kernel(
        "quantized_gated_matvec", (_X, _NORM, *_weights(2, scale), *one_out),
        ("n0", "k", "group", "folds", "activation"), ("eps",), (_PANELS,),
    )  # fmt: skip
    yield Kernel(
        "quantized_matmul",
        (*_INTEGERS, *_weights(1, scale), *_several("b", "f32", 1), _ADDED, *one_out),
        ("m", "n0", "k", "group", "folds"), ("alpha",), (_PANELS, _QUANTIZED_BLOCKS),
    )  # fmt: skip
    yield Kernel(
        "quantized_gated_matmul", (*_INTEGERS, *_weights(2, scale), *one_out),
        ("m", "n0", "k", "group", "activation"), (), (_PANELS, _QUANTIZED_BLOCKS),
    )  # fmt: skip


def _quantized_experts(form: WeightFormat) -> Iterator[Kernel]:
    offsets = Buffer("offsets", "i32")
    packed = (Buffer("w", "u8"), Buffer("ws", _scale_element(form)))
    yield Kernel(
        "quantize_groups", (_X, offsets, *_INTEGERS_OUT), ("experts", "k"), (), (_QUANTIZED_ROWS,)
    )
    yield Kernel(
        "grouped_matmul", (*_INTEGERS, *packed, offsets, Buffer("counts", "i32"), _OUT),
        ("n", "k", "group"), (), (_PANELS, Axis("groups", "expert")),
    )  # fmt: skip
    yield Kernel(
        "grouped_matvec", (_X, *packed, Buffer("experts", "i32"), _OUT), ("n", "k", "group"), (),
        (_PANELS, Axis("groups", "row")),
    )  # fmt: skip


_HEADS = Axis("parts", "part")
_TOKENS = Axis("tokens", "block", "span")
_CACHE_SIZES = ("heads", "kv_heads", "width", "value_width", "capacity")
_PROJECTIONS = tuple(
    Buffer(name, "f32")
    for name in ("query", "key", "value", "cos", "sin", "query_norm", "key_norm")
)
_PLACES = (
    "query_first", "query_token", "query_head", "key_first", "key_token", "key_head",
    "value_first", "value_token", "value_head", "turn", "query_rotated", "key_rotated",
    "query_normed", "key_normed",
)  # fmt: skip


def _attention() -> Iterator[Kernel]:
    sinks = Buffer("sinks", "f32")
    for element in CACHE_ELEMENTS:
        scales = (Buffer("key_scales", "f32"), Buffer("value_scales", "f32"))
        cache = (
            Buffer("keys", element, "update"), Buffer("values", element, "update"),
            Buffer("key_scales", "f32", "update"), Buffer("value_scales", "f32", "update"),
        )  # fmt: skip
        yield Kernel(
            f"attention_{element}",
            (
                Buffer("query", "f32"), Buffer("key", element), Buffer("value", element), sinks,
                *scales, _OUT,
            ),
            (
                "start", "tokens", "heads", "kv_heads", "width", "value_width", "window",
                "has_sinks", "per", "span", "capacity",
            ),
            ("scale", "softcap"), (_HEADS, _TOKENS),
        )  # fmt: skip
        yield Kernel(
            f"attention_step_{element}", (*_PROJECTIONS, *cache, sinks, _OUT),
            ("start", *_CACHE_SIZES, *_PLACES, "window", "has_sinks", "per"),
            ("scale", "softcap", "query_epsilon", "key_epsilon"), (_HEADS,),
        )  # fmt: skip
        yield Kernel(
            f"rotate_{element}", (*_PROJECTIONS, *cache, _OUT),
            ("start", "tokens", *_CACHE_SIZES, *_PLACES, "span"),
            ("query_epsilon", "key_epsilon"), (_TOKENS,),
        )  # fmt: skip


_PLACE = Buffer("place", "i32", "write")

LINEAR = Library("edgec_linear", "linear", _linear())
EXPERTS = Library("edgec_grouped", "linear", _experts())
ATTENTION = Library("edgec_attention", "attention", _attention())
ARGMAX = Library(
    "edgec_argmax", "argmax",
    [
        Kernel(
            "argmax", (_X, Buffer("largest", "f32", "write"), _PLACE), ("n", "per", "parts"), (),
            (_HEADS, Axis("rows", "row")),
        )
    ],
)  # fmt: skip


def _for_form(form: WeightFormat, kernels: Iterable[Kernel]) -> Iterator[Kernel]:
    """The kernels with names of their own in a program that has several forms."""
    for kernel in kernels:
        yield replace(kernel, name=f"{kernel.name}_{form.name}", form=form.name)


@cache
def quantized_library(form: WeightFormat) -> Library:
    """The kernels of linear layers for a weight format."""
    name = f"edgec_quantized_linear_{form.name}"
    return Library(name, "quantized_linear", _for_form(form, _quantized(form)), form)


@cache
def quantized_experts_library(form: WeightFormat) -> Library:
    """The kernels of experts for a weight format."""
    name = f"edgec_quantized_grouped_{form.name}"
    return Library(name, "quantized_linear", _for_form(form, _quantized_experts(form)), form)


LIBRARIES = (
    LINEAR, EXPERTS, ATTENTION, ARGMAX,
    *map(quantized_library, FORMATS.values()),
    *map(quantized_experts_library, FORMATS.values()),
)  # fmt: skip


def objects() -> dict[str, list[Library]]:
    """The libraries of each object file."""
    found: dict[str, list[Library]] = {}
    for library in LIBRARIES:
        found.setdefault(library.object, []).append(library)
    return found
