"""Facts about the first GPU from CUDA's driver, through a few calls of libcuda.

Of the runtime's `cuda` driver only the name is known; this is what a program's fit depends on.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_size_t
from dataclasses import dataclass

__all__ = ["CudaDevice", "CudaError", "device"]

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


class CudaError(Exception):
    """Raised where no CUDA driver, or no GPU, is found."""


@dataclass(frozen=True)
class CudaDevice:
    """The first GPU; `memory` is its total, in bytes."""

    name: str
    compute_capability: tuple[int, int]
    memory: int


def device() -> CudaDevice:
    """Asks the driver.

    Raises:
        CudaError: no libcuda, or no GPU that it can use.
    """
    library = None
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        raise CudaError("no CUDA driver (libcuda.so.1)")
    if code := library.cuInit(0):
        raise CudaError(f"the CUDA driver finds no GPU (cuInit: {code})")
    handle, major, minor, total = c_int(), c_int(), c_int(), c_size_t()
    text = ctypes.create_string_buffer(256)
    for result in (
        library.cuDeviceGet(byref(handle), 0),
        library.cuDeviceGetName(text, 256, handle),
        library.cuDeviceGetAttribute(byref(major), _MAJOR, handle),
        library.cuDeviceGetAttribute(byref(minor), _MINOR, handle),
        library.cuDeviceTotalMem_v2(byref(total), handle),
    ):
        if result:
            raise CudaError(f"the CUDA driver failed with CUresult {result}")
    name = text.value.decode(errors="replace")
    return CudaDevice(name, (major.value, minor.value), total.value)
