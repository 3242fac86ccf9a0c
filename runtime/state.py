"""The state buffers of one sequence: KV cache and whatever else the model carries along.

They are allocated and zeroed on the device, updated in place by the program, and never copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from edgec.errors import ArtifactError, DeviceError
from edgec.manifest import StateBuffer
from edgec.runtime import transfer

__all__ = ["StateBuffers"]

# MLIR element type -> (name of IREE's element type, bytes).
_ELEMENTS = {
    "bf16": ("BFLOAT_16", 2),
    "f16": ("FLOAT_16", 2),
    "f32": ("FLOAT_32", 4),
    "i8": ("INT_8", 1),
    "i16": ("INT_16", 2),
    "i32": ("INT_32", 4),
    "i64": ("INT_64", 8),
}


class StateBuffers:
    """Device buffers for a manifest's state, zero when made.

    Args:
        device: The IREE device that the program runs on.
        specs: The manifest's state, in its order.

    Raises:
        ArtifactError: an element type that the runtime does not know.
        DeviceError: the device has no memory for them.
    """

    def __init__(self, device: Any, specs: Iterable[StateBuffer]) -> None:
        import iree.runtime as rt

        self._device = device
        self._views: list[Any] = []
        self._nbytes = 0
        for spec in specs:
            if spec.dtype not in _ELEMENTS:
                raise ArtifactError(f"state {spec.name!r} has an unknown type {spec.dtype!r}")
            element, width = _ELEMENTS[spec.dtype]
            # Fills on GPUs work on whole 32-bit words.
            size = max(4, -(-math.prod(spec.shape) * width // 4) * 4)
            try:
                buffer = device.allocator.allocate_buffer(
                    int(rt.MemoryType.DEVICE_LOCAL), int(rt.BufferUsage.DEFAULT), size
                )
            except (RuntimeError, MemoryError) as error:
                self.free()
                raise DeviceError(
                    f"no device memory for the state: {spec.name!r} needs {size} bytes",
                    "close other sessions, or compile with a smaller --ctx-size",
                ) from error
            element_type = int(getattr(rt.HalElementType, element))
            self._views.append(rt.HalBufferView(buffer, list(spec.shape), element_type))
            self._nbytes += size
        self.zero()

    @property
    def nbytes(self) -> int:
        """Bytes held on the device; 0 after `free`."""
        return self._nbytes

    @property
    def views(self) -> list[Any]:
        """The buffer views, in the manifest's order; empty after `free`."""
        return self._views

    def zero(self) -> None:
        """Fills every buffer with zeros, on the device: no host copy of the same size is made."""
        import iree.runtime as rt

        if not self._views:
            return
        commands = rt.HalCommandBuffer(self._device)
        pattern = np.zeros(1, np.int32)
        for view in self._views:
            buffer = view.get_buffer()
            commands.fill(buffer, pattern, 0, buffer.byte_length())
        commands.end()
        try:
            transfer.execute(self._device, commands)
        except RuntimeError as error:
            raise DeviceError(f"the state cannot be cleared: {error}") from error

    def free(self) -> None:
        """Gives the memory back to the device at once."""
        self._views = []
        self._nbytes = 0
