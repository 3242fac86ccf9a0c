"""The functions of the kernels in compiler/ukernels/attention*.h, as one executable of MLIR text.

One for all, so that a program links their object once.
"""

from __future__ import annotations

from edgec.passes.kernel_call import executable, wrap_kernel

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

_PART = "%part = stream.dispatch.workgroup.id[0] : index"
_KERNELS = {
    "attention": (
        "%parts: index, %span: index, %tokens: index",
        """%blocks = arith.ceildivui %tokens, %span : index
    stream.return %parts, %blocks, %c1 : index, index, index""",
        f"""
      {_PART}
      %block = stream.dispatch.workgroup.id[1] : index""",
    ),
    "attention_step": (
        "%parts: index",
        "stream.return %parts, %c1, %c1 : index, index, index",
        f"\n      {_PART}",
    ),
    "rotate": (
        "%span: index, %tokens: index",
        """%blocks = arith.ceildivui %tokens, %span : index
    stream.return %blocks, %c1, %c1 : index, index, index""",
        "\n      %block = stream.dispatch.workgroup.id[0] : index",
    ),
}
"""Of each: the workload, the workgroups, and where a workgroup is."""


def executables(level: str) -> str:
    """All functions, each for all types of a cache: `@edgec_attention::@rotate_f16`."""
    exports, functions = "", ""
    for dtype in CACHE_DTYPES:
        for kernel, (workload, groups, _) in _KERNELS.items():
            exports += f"""
  stream.executable.export public @{kernel}_{dtype} workgroups({workload})
      -> (index, index, index) {{
    %c1 = arith.constant 1 : index
    {groups}
  }}"""
        rows, caches = ["f32"] * 7, [dtype, dtype, "f32", "f32"]
        functions += _function(
            "attention",
            dtype,
            ["f32", dtype, dtype, *["f32"] * 4],
            ATTENTION_INDICES,
            ("scale", "softcap"),
            ("part", "block"),
        )
        functions += _function(
            "attention_step",
            dtype,
            [*rows, *caches, "f32", "f32"],
            STEP_INDICES,
            ("scale", "softcap", "query_epsilon", "key_epsilon"),
            ("part",),
        )
        functions += _function(
            "rotate",
            dtype,
            [*rows, *caches, "f32"],
            ROTATE_INDICES,
            ("query_epsilon", "key_epsilon"),
            ("block",),
        )
    return executable("edgec_attention", "attention", level, exports, functions)


def _function(
    kernel: str,
    dtype: str,
    elements: list[str],
    indices: tuple[str, ...],
    floats: tuple[str, ...],
    place: tuple[str, ...],
) -> str:
    return wrap_kernel(
        f"{kernel}_{dtype}", f"edgec_{kernel}_{dtype}", elements, list(indices),
        _KERNELS[kernel][2], list(place), floats=floats,
    )  # fmt: skip
