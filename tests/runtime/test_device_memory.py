"""State buffers and transfers, on the CPU device itself."""

from __future__ import annotations

from typing import Any

import iree.runtime as rt
import numpy as np
import pytest

from edgec.errors import ArtifactError, DeviceError, InputError
from edgec.manifest import StateBuffer
from edgec.runtime import transfer
from edgec.runtime.device import open_device
from edgec.runtime.state import StateBuffers, state_bytes

DTYPES = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "i64": np.int64, "bf16": np.uint16}


@pytest.fixture(scope="module")
def device() -> Any:
    return open_device("local-task")


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_is_zero_and_can_be_zeroed_again(device: Any, dtype: str) -> None:
    state = StateBuffers(device, [StateBuffer("s", "attention", (5, 3), dtype)])
    (view,) = state.views
    assert list(view.shape) == [5, 3]
    size = 5 * 3 * np.dtype(DTYPES[dtype]).itemsize
    assert state.nbytes == -(-size // 4) * 4
    assert not transfer.read(device, view, DTYPES[dtype]).any()
    view.get_buffer().map().asarray([5, 3], np.dtype(DTYPES[dtype]))[:] = 7
    assert transfer.read(device, view, DTYPES[dtype]).all()
    state.zero()
    assert not transfer.read(device, view, DTYPES[dtype]).any()


def test_free_gives_the_memory_back(device: Any) -> None:
    def held() -> int:
        statistics = device.allocator.statistics
        return int(statistics["device_bytes_allocated"] - statistics["device_bytes_freed"])

    before = held()
    specs = [StateBuffer(name, "attention", (1 << 18,), "f32") for name in "ab"]
    state = StateBuffers(device, specs)
    assert held() - before == state.nbytes == 2 << 20
    state.free()
    assert (held(), state.nbytes, state.views) == (before, 0, [])


def test_too_much_state_is_a_device_error(device: Any) -> None:
    with pytest.raises(DeviceError, match="'huge' needs.*ctx-size"):
        StateBuffers(device, [StateBuffer("huge", "attention", (1 << 60,), "f32")])


def test_unknown_types_are_refused(device: Any) -> None:
    with pytest.raises(ArtifactError, match="unknown type 'f8'"):
        StateBuffers(device, [StateBuffer("s", "attention", (1,), "f8")])


@pytest.mark.parametrize("staged", [None, True, False])
def test_reads_are_copies(device: Any, staged: bool | None) -> None:
    tokens = np.array([[3, 1, 2]], np.int32)
    view = transfer.upload_tokens(device, tokens)
    tokens[:] = 0
    first = transfer.read(device, view, np.int32, staged=staged)
    np.testing.assert_array_equal(first, [[3, 1, 2]])
    view.get_buffer().map().asarray([1, 3], np.dtype(np.int32))[:] = 9
    np.testing.assert_array_equal(first, [[3, 1, 2]])
    del view
    assert first.flags.owndata


def test_zeroing_makes_no_copy_on_the_host(device: Any) -> None:
    statistics = device.allocator.statistics
    before = statistics["host_bytes_allocated"], statistics["device_bytes_allocated"]
    state = StateBuffers(device, [StateBuffer("s", "attention", (1 << 20,), "f32")])
    statistics = device.allocator.statistics
    after = statistics["host_bytes_allocated"], statistics["device_bytes_allocated"]
    slots = 8 * 4  # for tokens, which the host reads
    assert (after[0] - before[0], after[1] - before[1]) == (slots, state.nbytes)


def test_memory_types_are_as_assumed(device: Any) -> None:
    """The CPU's buffers are read through a mapping; only other devices pay for staging."""
    view = transfer.upload_tokens(device, np.zeros((1, 1), np.int32))
    assert view.get_buffer().memory_type() & int(rt.MemoryType.HOST_VISIBLE)


ROWS = StateBuffer("rows", "attention", (8, 3), "f16")
WHOLE = StateBuffer("whole", "recurrent", (2, 2), "f32")


def fill(state: StateBuffers, value: int) -> None:
    for view in state.views:
        buffer = view.get_buffer()
        buffer.map().asarray([buffer.byte_length()], np.dtype(np.uint8))[:] = value


def content(state: StateBuffers) -> list[list[int]]:
    return [part.tolist() for part in state.read(8)]


def test_of_rows_only_those_in_use_are_copied(device: Any) -> None:
    source, target = (StateBuffers(device, [ROWS, WHOLE]) for _ in range(2))
    fill(source, 7)
    fill(target, 1)
    target.copy_from(source, 2)
    assert content(target) == [[7] * 12 + [1] * 36, [7] * 16]


def test_a_checkpoint_is_of_what_has_no_rows(device: Any) -> None:
    state = StateBuffers(device, [ROWS, WHOLE])
    before = state.nbytes
    for value in (3, 5):
        fill(state, value)
        state.checkpoint(8)
        fill(state, 9)
        state.rollback()
        assert content(state) == [[9] * 48, [value] * 16]
    assert state.nbytes == before + 16 == state_bytes([ROWS, WHOLE])


@pytest.mark.parametrize(
    ("length", "rows"), [(2, [0, 1]), (8, [5, 6, 7]), (13, [2, 3, 4]), (17, [6, 7, 0])]
)
def test_a_checkpoint_of_a_ring_is_of_its_window(device: Any, length: int, rows: list[int]) -> None:
    ring = StateBuffer("window", "window", (8, 2, 2), "i16", window=3, checkpoint=3)
    state = StateBuffers(device, [ring])
    assert state_bytes([ring]) == 8 * 8 + 3 * 8
    fill(state, 7)
    state.checkpoint(length)
    fill(state, 1)
    state.rollback()
    found = np.array(content(state)[0]).reshape(8, 8)
    assert {row for row in range(8) if (found[row] == 7).all()} >= set(rows)
    assert (found == 7).all(axis=1).sum() == 3


def test_what_was_read_can_be_written(device: Any) -> None:
    state, other = (StateBuffers(device, [ROWS, WHOLE]) for _ in range(2))
    fill(state, 7)
    other.write(state.read(3), 3)
    assert content(other) == [[7] * 20 + [0] * 28, [7] * 16]  # 18 bytes, in whole words
    with pytest.raises(InputError, match="does not fit"):
        other.write(state.read(3), 5)


def test_calls_after_a_failed_one_are_refused_until_it_is_cleared(device: Any) -> None:
    state = StateBuffers(device, [ROWS])
    state.timeline[0].fail("lost")
    for act in (state.reserve, lambda: state.checkpoint(1), lambda: state.read(1)):
        with pytest.raises(DeviceError, match="lost"):
            act()
    state.zero()
    state.reserve()
    assert not np.any(state.read(8))
