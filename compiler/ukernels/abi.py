"""The C header that the kernels' sources include, from their declarations.

A source defines a kernel with `KERNEL(name) { ... }`, where the parameters have the names and
types of the declaration and pointers are at the first element. So C that differs from the
declaration does not compile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from edgec.passes.kernels.kernel import Buffer, Kernel, Library
from edgec.passes.kernels.table import ACTIVATIONS, CONSTANTS
from edgec.weight_formats import CODEBOOKS, OFFSETS, SCALES, WeightFormat

__all__ = ["C_TYPES", "abi_header"]

C_TYPES = {
    "f32": "float", "f16": "uint16_t", "bf16": "uint16_t", "i8": "int8_t", "u8": "uint8_t",
    "i32": "int32_t",
}  # fmt: skip
"""Element to C type; the bits of halves."""

_INLINE = "static inline __attribute__((always_inline)) void"


def abi_header(libraries: Sequence[Library]) -> str:
    """The text of `abi.h` for an object file.

    Args:
        libraries: Those that the object holds: of one source and one weight format.
    """
    first = libraries[0]
    lines = ["#pragma once", "#include <stddef.h>", "#include <stdint.h>", ""]
    for constants in CONSTANTS[first.source]:
        assert dataclasses.is_dataclass(constants) and not isinstance(constants, type)
        values = dataclasses.asdict(constants)
        lines += [f"#define {name} {value}" for name, value in values.items()]
    if first.form is not None:
        lines += [
            f"#define {name} {value}" for name, value in _format_constants(first.form).items()
        ]
    lines += [f"enum {{ {', '.join(name.upper() for name in ACTIVATIONS)} }};", ""]
    lines += ["#define KERNEL(name) DEFINE_##name"]
    for library in libraries:
        lines += map(_definition, library.kernels.values())
    return "\n".join(lines) + "\n"


def _format_constants(form: WeightFormat) -> dict[str, object]:
    """Constants that the source of a weight format is told."""
    names: dict[str, object] = {name.upper(): i for i, name in enumerate(SCALES)}
    names |= {(name or "no_offset").upper(): i for i, name in enumerate(OFFSETS)}
    names |= {
        "BITS": form.bits, "SCALES": SCALES.index(form.scales),
        "OFFSET": OFFSETS.index(form.offset), "GROUP": form.fixed_group, "SPAN": form.span,
        "MIDDLE": form.zero,
    }  # fmt: skip
    if form.codebook:
        names["CODEBOOK"] = f"{{{', '.join(map(str, CODEBOOKS[form.codebook]))}}}"
    return names


def _definition(kernel: Kernel) -> str:
    """The expansion of `KERNEL`: the function that IREE calls, and the head of what it calls."""
    scalars = [f"size_t {name}" for name in kernel.sizes]
    scalars += [f"float {name}" for name in kernel.floats]
    scalars += [f"size_t {name}" for name in kernel.places]
    names = [*kernel.sizes, *kernel.floats, *kernel.places]
    pointers = [_pointer(buffer) for buffer in kernel.buffers]
    given = [f"{_pointer(buffer)}, size_t {buffer.name}_offset" for buffer in kernel.buffers]
    at = [f"{buffer.name} + {buffer.name}_offset" for buffer in kernel.buffers]
    head = f"{_INLINE} compute_{kernel.defined}({', '.join([*pointers, *scalars])})"
    return (
        f"#define DEFINE_{kernel.defined} {head}; "
        f"void {kernel.function}({', '.join([*given, *scalars])}) "
        f"{{ compute_{kernel.defined}({', '.join([*at, *names])}); }} {head}"
    )


def _pointer(buffer: Buffer) -> str:
    const = "const " if buffer.access == "read" else ""
    return f"{const}{C_TYPES[buffer.element]} *{buffer.name}"
