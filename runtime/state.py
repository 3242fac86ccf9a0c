"""One sequence on a device: its state buffers, its tokens, and its calls in order.

The buffers are allocated and zeroed on the device, and updated in place by the program. Calls are
queued one behind the other by a timeline semaphore of the sequence's own, so that the host need
not wait between them, and sequences do not wait for each other.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import ArtifactError, DeviceError, InputError
from edgec.manifest import StateBuffer
from edgec.runtime import transfer
from edgec.runtime.device import check_process, forked
from edgec.runtime.transfer import IREE_ERRORS

__all__ = ["StateBuffers", "saved_sizes", "state_bytes"]

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

_QUEUED = 2
"""Calls of a sequence that may be queued: one runs while the host prepares the next."""

_SLOTS = 8
"""Token buffers of a sequence. A call takes two in turn, one to read and one to write."""


@dataclass
class _Timeline:
    """The calls of a sequence, one behind the other: the semaphore's value says how many are done.

    A Ctrl-C may come between a call and anything that Python notes of it. So a call is announced
    before, and has been made when it has left its results.
    """

    semaphore: Any
    made: int = 0
    # What queued calls work with stays alive until they are done.
    held: deque[Any] = field(default_factory=lambda: deque(maxlen=_QUEUED))
    announced: tuple[int, Any, Any] | None = None

    def announce(self, arguments: Any, results: Any) -> None:
        self.announced = (self.calls + 1, arguments, results)

    @property
    def calls(self) -> int:
        """How many calls were queued."""
        if self.announced is not None:
            number, _, results = self.announced
            if number > self.made and results.size:
                self.held.append(self.announced)
                self.made = number
        return self.made


class StateBuffers:
    """Device buffers for a manifest's state, zero when made. For one thread at a time.

    Args:
        device: The IREE device that the program runs on.
        specs: The manifest's state, in its order.

    Raises:
        ArtifactError: an element type that the runtime does not know.
        DeviceError: the device has no memory for them.
    """

    def __init__(self, device: Any, specs: Seq[StateBuffer]) -> None:
        import iree.runtime as rt

        check_process()
        self._device = device
        self._specs = tuple(specs)
        # What the checkpoint copied of a buffer, by its place, and at which length.
        self._saved: dict[int, Any] = {}
        self._saved_length = 0
        self._views: list[Any] = []
        self._slots: list[Any] = []
        for spec in specs:
            buffer = self._allocate(spec, _bytes(spec))
            element_type = int(getattr(rt.HalElementType, _element(spec)[0]))
            self._views.append(rt.HalBufferView(buffer, list(spec.shape), element_type))
        self._slots = [transfer.token_slot(device) for _ in range(_SLOTS)]
        self._begin()
        self.zero()

    def _allocate(self, spec: StateBuffer, size: int) -> Any:
        import iree.runtime as rt

        try:
            buffer = self._device.allocator.allocate_buffer(
                int(rt.MemoryType.DEVICE_LOCAL), int(rt.BufferUsage.DEFAULT), size
            )
        except (*IREE_ERRORS, MemoryError) as error:
            self.free()
            raise DeviceError(
                f"no device memory for the state: {spec.name!r} needs {_mb(size)} MB",
                "close other sessions, or compile with a smaller --ctx-size",
            ) from error
        return buffer

    def _begin(self) -> None:
        """Starts a new timeline: nothing is queued."""
        self._timeline = _Timeline(self._device.create_semaphore(0))

    @property
    def nbytes(self) -> int:
        """Bytes held on the device; 0 after `free`."""
        buffers = zip(self._specs, tuple(self._views), strict=False)
        saved = (_checkpoint_bytes(self._specs[at]) for at in tuple(self._saved))
        return sum(_bytes(spec) for spec, _ in buffers) + sum(saved)

    @property
    def views(self) -> list[Any]:
        """The buffer views, in the manifest's order; empty after `free`."""
        return self._views

    @property
    def timeline(self) -> tuple[Any, int]:
        """The semaphore, and its value once all calls queued so far are done."""
        return self._timeline.semaphore, self._timeline.calls

    def reserve(self) -> None:
        """Waits until another call may be queued.

        Raises:
            DeviceError: an earlier call failed.
        """
        check_process()
        try:
            self._timeline.semaphore.wait(max(0, self._timeline.calls - _QUEUED + 1))
        except IREE_ERRORS as error:
            raise DeviceError(f"an earlier call failed on the device: {error}") from error

    def announce(self, arguments: Any, results: Any) -> None:
        """Says which call comes next on the timeline: it counts once there is a result."""
        self._timeline.announce(arguments, results)

    def next_slot(self) -> Any:
        """i32[1, 1] in which the call about to be queued leaves its token."""
        return self._slots[2 * self._timeline.calls % _SLOTS]

    def upload(self, token: int) -> Any:
        """i32[1, 1] with a token for the call about to be queued. No call in the queue uses it."""
        view = self._slots[(2 * self._timeline.calls + 1) % _SLOTS]
        transfer.write_token(view, token)
        return view

    def slot_of(self, call: int) -> Any:
        """The token buffer that the call with this number wrote.

        Raises:
            DeviceError: later calls have overwritten it.
        """
        if self._timeline.calls - call >= _SLOTS // 2:
            raise DeviceError("a result is read too late: later calls have overwritten it")
        return self._slots[2 * call % _SLOTS]

    def sync(self) -> None:
        """Waits for everything queued. Raises one of IREE's errors if any of it failed."""
        check_process()
        self._timeline.semaphore.wait(self._timeline.calls)

    def zero(self) -> None:
        """Fills every buffer with zeros, on the device: no host copy of the same size is made.

        Also starts a new timeline, after one that a failed call broke.
        """
        import iree.runtime as rt

        if not self._views:
            return
        self._quiet()
        self._begin()
        commands = rt.HalCommandBuffer(self._device)
        pattern = np.zeros(1, np.int32)
        for view in self._views:
            buffer = view.get_buffer()
            commands.fill(buffer, pattern, 0, buffer.byte_length())
        self._execute(commands, "the state cannot be cleared")

    def copy_from(self, other: StateBuffers, rows: int) -> None:
        """Takes over what another sequence holds: of buffers with rows the first `rows`.

        Waits for the calls of both.
        """
        import iree.runtime as rt

        self._synced(other)
        commands = rt.HalCommandBuffer(self._device)
        for spec, source, target in zip(self._specs, other.views, self._views, strict=True):
            size = _used(spec, rows)
            if size:
                commands.copy(source.get_buffer(), target.get_buffer(), 0, 0, size)
        self._execute(commands, "the state cannot be copied")

    def checkpoint(self, length: int) -> None:
        """Remembers what later calls will overwrite of the state that `length` tokens left."""
        import iree.runtime as rt

        self._synced()
        commands = rt.HalCommandBuffer(self._device)
        for at, spec in enumerate(self._specs):
            if not spec.checkpoint_rows:
                continue
            if at not in self._saved:
                self._saved[at] = self._allocate(spec, _checkpoint_bytes(spec))
            buffer, saved = self._views[at].get_buffer(), self._saved[at]
            for place, copy, size in _parts(spec, length):
                commands.copy(buffer, saved, place, copy, size)
        self._saved_length = length
        self._execute(commands, "the state cannot be copied")

    def rollback(self) -> None:
        """Puts back what the last `checkpoint` remembers."""
        import iree.runtime as rt

        self._synced()
        commands = rt.HalCommandBuffer(self._device)
        for at, saved in self._saved.items():
            buffer = self._views[at].get_buffer()
            for place, copy, size in _parts(self._specs[at], self._saved_length):
                commands.copy(saved, buffer, copy, place, size)
        self._execute(commands, "the state cannot be copied")

    def read(self, rows: int) -> list[npt.NDArray[np.uint8]]:
        """The bytes of each buffer, of those with rows the first `rows`. Waits for all calls."""
        self._synced()
        parts = []
        for spec, view in zip(self._specs, self._views, strict=True):
            content = transfer.read_bytes(self._device, view.get_buffer())
            parts.append(content[: _used(spec, rows)].copy())
        return parts

    def write(self, parts: Seq[npt.NDArray[np.uint8]], rows: int) -> None:
        """Puts back what `read` gave.

        Raises:
            InputError: it does not fit these buffers.
        """
        import iree.runtime as rt

        sizes = saved_sizes(self._specs, rows)
        if [part.nbytes for part in parts] != sizes:
            raise InputError("the saved state does not fit the model")
        self._synced()
        commands = rt.HalCommandBuffer(self._device)
        try:
            sources = [transfer.upload_bytes(self._device, part) for part in parts if part.nbytes]
        except (*IREE_ERRORS, MemoryError) as error:
            raise DeviceError(f"no device memory for a copy of the state: {error}") from error
        targets = [view for view, size in zip(self._views, sizes, strict=True) if size]
        for source, target, size in zip(sources, targets, filter(None, sizes), strict=True):
            commands.copy(source, target.get_buffer(), 0, 0, size)
        self._execute(commands, "the state cannot be written")

    def _synced(self, *others: StateBuffers) -> None:
        try:
            for state in (self, *others):
                state.sync()
        except IREE_ERRORS as error:
            raise DeviceError(f"a call failed on the device: {error}") from error

    def _execute(self, commands: Any, failure: str) -> None:
        commands.end()
        try:
            transfer.execute(self._device, commands)
        except IREE_ERRORS as error:
            raise DeviceError(f"{failure}: {error}") from error

    def free(self) -> None:
        """Gives the memory back to the device at once, after what is queued."""
        if self._views and self._slots and not forked():
            self._quiet()
            self._begin()
        self._views = []
        self._slots = []
        self._saved = {}

    def _quiet(self) -> None:
        """Waits until nothing runs on the buffers, whatever became of it."""
        with contextlib.suppress(*IREE_ERRORS):
            self.sync()


def state_bytes(specs: Seq[StateBuffer]) -> int:
    """Device memory that one sequence takes, with a checkpoint where it needs one."""
    return sum(_bytes(spec) + _checkpoint_bytes(spec) for spec in specs)


def saved_sizes(specs: Seq[StateBuffer], rows: int) -> list[int]:
    """The bytes of each buffer that `StateBuffers.read` gives."""
    return [_used(spec, rows) for spec in specs]


def _used(spec: StateBuffer, rows: int) -> int:
    """Bytes of a buffer that hold something of the first `rows` positions, in whole words."""
    if not spec.has_rows:
        return _bytes(spec)
    return min(_bytes(spec), -(-rows * _row_bytes(spec) // 4) * 4)


def _checkpoint_bytes(spec: StateBuffer) -> int:
    return -(-spec.checkpoint_rows * _row_bytes(spec) // 4) * 4


def _parts(spec: StateBuffer, length: int) -> list[tuple[int, int, int]]:
    """The pieces that a checkpoint copies: offsets in the buffer and in the copy, sizes, in bytes.

    Of a ring the last rows of the window, in two parts where they go past its end; else all.
    """
    if not spec.window:
        return [(0, 0, _bytes(spec))]
    rows, row = spec.shape[0], _row_bytes(spec)
    first = max(0, length - spec.checkpoint_rows) % rows
    fitting = min(spec.checkpoint_rows, rows - first)
    parts = [(first * row, 0, fitting * row)]
    if fitting < spec.checkpoint_rows:
        parts.append((0, fitting * row, (spec.checkpoint_rows - fitting) * row))
    return parts


def _row_bytes(spec: StateBuffer) -> int:
    return math.prod(spec.shape[1:]) * _element(spec)[1]


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _bytes(spec: StateBuffer) -> int:
    # Fills on GPUs work on whole 32-bit words.
    return max(4, -(-math.prod(spec.shape) * _element(spec)[1] // 4) * 4)


def _element(spec: StateBuffer) -> tuple[str, int]:
    if spec.dtype not in _ELEMENTS:
        raise ArtifactError(f"state {spec.name!r} has an unknown type {spec.dtype!r}")
    return _ELEMENTS[spec.dtype]
