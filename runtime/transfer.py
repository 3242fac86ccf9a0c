"""Copies between host arrays and device buffers.

`iree.runtime.DeviceArray.to_host` imports host memory, which some Vulkan drivers refuse for its
alignment. Here a buffer that the host can see is mapped, any other goes through a staging buffer.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from operator import call
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "IREE_ERRORS",
    "execute",
    "read",
    "read_bytes",
    "read_token",
    "token_slot",
    "upload_bytes",
    "upload_tokens",
    "write_token",
]

IREE_ERRORS = (RuntimeError, ValueError, LookupError, OSError)
"""The exceptions that the bindings raise for a status that is not OK."""


def upload_tokens(device: Any, tokens: npt.NDArray[np.int32]) -> Any:
    """A device buffer view i32[tokens.shape] with a copy of `tokens`."""
    import iree.runtime as rt

    return device.allocator.allocate_buffer_copy(
        memory_type=int(rt.MemoryType.DEVICE_LOCAL),
        allowed_usage=int(rt.BufferUsage.DEFAULT),
        device=device,
        buffer=np.ascontiguousarray(tokens, dtype=np.int32),
        element_type=int(rt.HalElementType.SINT_32),
    )


def token_slot(device: Any) -> Any:
    """A buffer view i32[1, 1] in memory that the host sees and the device reads and writes."""
    import iree.runtime as rt

    memory = rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE
    usage = rt.BufferUsage.DEFAULT | rt.BufferUsage.MAPPING
    buffer = device.allocator.allocate_buffer(int(memory), int(usage), 4)
    return rt.HalBufferView(buffer, [1, 1], int(rt.HalElementType.SINT_32))


def write_token(view: Any, token: int) -> None:
    """Writes one token into a `token_slot` that no queued call uses."""
    view.map().asarray([1, 1], np.dtype(np.int32))[0, 0] = token


def read_token(view: Any) -> int:
    """Reads the token of a `token_slot`."""
    return int(view.map().asarray([1, 1], np.dtype(np.int32))[0, 0])


def read(device: Any, view: Any, dtype: npt.DTypeLike, *, staged: bool | None = None) -> Any:
    """A host copy of a buffer view, as an array of the view's shape.

    Args:
        dtype: The element type; the caller knows it from the manifest.
        staged: Forces (True) or forbids (False) the staging buffer; None decides by whether
            the host can map the buffer.
    """
    buffer = view.get_buffer()
    if staged is None:
        staged = not _mappable(buffer)
    if staged:
        buffer = _to_staging(device, buffer)
    # The mapping dies with the buffer: copy before anybody can hold on to it.
    return np.array(buffer.map().asarray(view.shape, np.dtype(dtype)), copy=True)


def read_bytes(device: Any, buffer: Any) -> npt.NDArray[np.uint8]:
    """A host copy of a whole buffer."""
    if not _mappable(buffer):
        buffer = _to_staging(device, buffer)
    return np.array(buffer.map().asarray([buffer.byte_length()], np.dtype(np.uint8)), copy=True)


def upload_bytes(device: Any, content: npt.NDArray[np.uint8]) -> Any:
    """A device buffer with a copy of `content`."""
    import iree.runtime as rt

    return device.allocator.allocate_buffer_copy(
        memory_type=int(rt.MemoryType.DEVICE_LOCAL),
        allowed_usage=int(rt.BufferUsage.DEFAULT),
        device=device,
        buffer=np.ascontiguousarray(content),
    )


def execute(device: Any, command_buffer: Any) -> None:
    """Runs a finished command buffer and waits for it.

    A Ctrl-C comes before it or after it. Python raises one between its own instructions only, and
    there is none between the two calls: commands that nobody waits for could overwrite later work.
    """
    done = device.create_semaphore(0)
    run = partial(device.queue_execute, command_buffer, [], [(done, 1)])
    deque(map(call, (run, partial(done.wait, 1))), maxlen=0)


def _mappable(buffer: Any) -> bool:
    import iree.runtime as rt

    visible, scoped = int(rt.MemoryType.HOST_VISIBLE), int(rt.BufferUsage.MAPPING_SCOPED)
    return bool(buffer.memory_type() & visible) and bool(buffer.allowed_usage() & scoped)


def _to_staging(device: Any, source: Any) -> Any:
    import iree.runtime as rt

    target = device.allocator.allocate_buffer(
        int(rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE),
        int(rt.BufferUsage.TRANSFER | rt.BufferUsage.MAPPING),
        source.byte_length(),
    )
    done = device.create_semaphore(0)
    device.queue_copy(source, target, [], [(done, 1)])
    done.wait(1)
    return target
