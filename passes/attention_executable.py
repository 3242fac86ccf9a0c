"""The functions of the kernels in compiler/ukernels/attention*.h, as one executable of MLIR text.

One for all, so that a program links their object once.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.passes.kernel_call import executable, export, wrap_kernel

__all__ = [
    "ATTENTION_INDICES",
    "CACHE_DTYPES",
    "ROTATE_INDICES",
    "STEP_INDICES",
    "executables",
]

CACHE_DTYPES = ("f32", "f16", "bf16", "i8")

ATTENTION_INDICES = (
    "first", "tokens", "heads", "kv_heads", "width", "value_width", "window", "has_sinks", "per",
    "span", "capacity",
)  # fmt: skip

_SIZES = ("heads", "kv_heads", "width", "value_width", "capacity")
_ROWS = (
    "query_first", "query_token", "query_head", "key_first", "key_token", "key_head",
    "value_first", "value_token", "value_head", "turn", "query_rotated", "key_rotated",
    "query_normed", "key_normed",
)  # fmt: skip

STEP_INDICES = ("first", *_SIZES, *_ROWS, "window", "has_sinks", "per")
ROTATE_INDICES = ("first", "tokens", *_SIZES, *_ROWS, "span")


@dataclass(frozen=True)
class _Kernel:
    """A function.

    Attributes:
        buffers: The types of its buffers; `cache` is that of the cache.
        indices: Its numbers.
        floats: More of them.
        places: Where a workgroup is: a `part` of as many as the workload says, or a `block` of
            `span` tokens.
    """

    name: str
    buffers: tuple[str, ...]
    indices: tuple[str, ...]
    floats: tuple[str, ...]
    places: tuple[str, ...]


_PROJECTIONS = ("f32",) * 7
_CACHE = ("cache", "cache", "f32", "f32")
_KERNELS = (
    _Kernel(
        "attention", ("f32", "cache", "cache", "f32", "f32", "f32", "f32"), ATTENTION_INDICES,
        ("scale", "softcap"), ("part", "block"),
    ),
    _Kernel(
        "attention_step", (*_PROJECTIONS, *_CACHE, "f32", "f32"), STEP_INDICES,
        ("scale", "softcap", "query_epsilon", "key_epsilon"), ("part",),
    ),
    _Kernel(
        "rotate", (*_PROJECTIONS, *_CACHE, "f32"), ROTATE_INDICES,
        ("query_epsilon", "key_epsilon"), ("block",),
    ),
)  # fmt: skip
_GRID = {"part": ("parts", "parts"), "block": ("span tokens", "tokens / span")}
"""Of a place: what the workload says, and how many of them there are."""


def executables(level: str) -> str:
    """All functions, each for all types of a cache: `@edgec_attention::@rotate_f16`."""
    exports, functions = "", ""
    for dtype in CACHE_DTYPES:
        for kernel in _KERNELS:
            workload, grid = zip(*(_GRID[place] for place in kernel.places), strict=True)
            exports += export(f"{kernel.name}_{dtype}", " ".join(workload), *grid)
            functions += wrap_kernel(
                f"{kernel.name}_{dtype}",
                f"edgec_{kernel.name}_{dtype}",
                [dtype if buffer == "cache" else buffer for buffer in kernel.buffers],
                indices=list(kernel.indices),
                body="".join(
                    f"\n      %{place} = stream.dispatch.workgroup.id[{i}] : index"
                    for i, place in enumerate(kernel.places)
                ),
                extra=list(kernel.places),
                floats=kernel.floats,
            )
    return executable("edgec_attention", "attention", level, exports, functions)
