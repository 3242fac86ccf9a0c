"""Calls of the C kernels, built as a shared library, by the names of their declarations."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec.compiler.ukernels import LEVELS, build_object
from edgec.passes.kernels.table import LIBRARIES
from edgec.runtime.cpu import missing_features, parse_cpuinfo

KERNELS = {name: kernel for library in LIBRARIES for name, kernel in library.kernels.items()}
NUMPY = {
    "f32": "f4", "f16": "i2 f2", "bf16": "i2", "i8": "i1", "u8": "u1 i1", "i32": "i4",
}  # fmt: skip


def own_levels() -> list[str]:
    """The feature levels that this machine has, best first."""
    flags = parse_cpuinfo(Path("/proc/cpuinfo").read_text())
    return [
        name
        for name, level in LEVELS.items()
        if level.architecture == platform.machine()
        and not missing_features(",".join(level.features), level.architecture, flags)
    ]


def load_kernels(stems: Sequence[str], level: str, folder: Path) -> Any:
    """Builds objects for a feature level that this machine has, and loads them."""
    import ziglang

    objects = [folder / f"{stem}.o" for stem in stems]
    for path in objects:
        build_object(path.stem, level, path, exported=True)
    subprocess.run(
        [
            Path(ziglang.__file__).parent / "zig", "ld.lld", "-shared", "--no-undefined", "-o",
            folder / "k.so", *objects,
        ],
        check=True,
        env={"ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)},
    )  # fmt: skip
    return ctypes.CDLL(str(folder / "k.so"))


def call(kernels: Any, name: str, **arguments: Any) -> None:
    """Calls a kernel by the names of its declaration.

    Arrays become a pointer past 16 elements that must stay as they are, and an offset of 16. A
    buffer that is not given is one that the call makes no use of.
    """
    declared, passed = KERNELS[name], []
    arrays = {buffer.name: arguments.pop(buffer.name, None) for buffer in declared.buffers}
    for buffer in declared.buffers:
        value = arrays[buffer.name]  # which keeps it until the call is over
        if value is None:
            passed += [ctypes.c_void_p(8), ctypes.c_size_t(0)]
            continue
        assert value.dtype.str[1:] in NUMPY[buffer.element].split(), (name, buffer, value.dtype)
        passed += [ctypes.c_void_p(value.ctypes.data), ctypes.c_size_t(16)]
    for size in declared.sizes:
        passed.append(ctypes.c_size_t(arguments.pop(size)))
    for number in declared.floats:
        passed.append(ctypes.c_float(arguments.pop(number)))
    for place in declared.places:
        passed.append(ctypes.c_size_t(arguments.pop(place)))
    assert not arguments, f"{name} takes no {', '.join(arguments)}"
    function = getattr(kernels, declared.function)
    function.restype = None
    function(*passed)


def padded(values: Any) -> Any:
    """The values after 16 others."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return np.concatenate([np.zeros(16, flat.dtype), flat])
