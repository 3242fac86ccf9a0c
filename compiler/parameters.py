"""Weights, written tensor by tensor into an IREE parameter archive (`.irpa`).

`edgec.archive` has the format. IREE's own writer wants all tensors in memory at once; a model is
larger than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from edgec.archive import archive_head

__all__ = ["ArchiveEntry", "write_archive"]


@dataclass(frozen=True)
class ArchiveEntry:
    """A tensor to be written: its shape and the type it is stored in."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        count = 1
        for dim in self.shape:
            count *= dim
        return count * self.dtype.itemsize


def write_archive(
    path: Path,
    entries: Mapping[str, ArchiveEntry],
    read: Callable[[str], torch.Tensor],
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Writes the entries in order, asking `read` for one tensor at a time.

    Args:
        path: New file.
        entries: Name to shape and stored type.
        read: Gives a tensor of the entry's shape, of any float type.
        progress: Called with the bytes written so far.

    Returns:
        The size of the file in bytes.
    """
    head = archive_head({name: entry.bytes for name, entry in entries.items()})
    storage_at = min(head.offsets.values(), default=0)
    with path.open("wb") as raw:
        file = _LargePages(raw)
        file.write(head.content)
        for name, entry in entries.items():
            file.pad(head.offsets[name])
            _write_tensor(file, name, entry, read)
            progress(head.offsets[name] - storage_at + entry.bytes)
        file.pad(head.size)
        file.flush()
    return head.size


class _LargePages:
    """Writes a file in whole blocks of 2 MB.

    Linux's page cache holds what it gets in one call in one piece, if that is aligned, and maps
    such a piece as one page: see `edgec.runtime.weights`.
    """

    _SIZE = 1 << 21

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._done = 0
        self._pending = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            room = self._SIZE - len(self._pending)
            self._pending += rest[:room]
            rest = rest[room:]
            if len(self._pending) == self._SIZE:
                self.flush()

    def pad(self, offset: int) -> None:
        """Zeros up to an offset in the file."""
        self.write(bytes(offset - self._done - len(self._pending)))

    def flush(self) -> None:
        self._file.write(self._pending)
        self._done += len(self._pending)
        self._pending.clear()


_BLOCK = 1 << 24  # elements converted at a time: a large embedding never exists twice


def _write_tensor(
    file: _LargePages, name: str, entry: ArchiveEntry, read: Callable[[str], torch.Tensor]
) -> None:
    # A function of its own, so that nothing holds a tensor while the next one is read.
    tensor = read(name)
    if tuple(tensor.shape) != entry.shape:
        raise ValueError(f"{name}: {tuple(tensor.shape)} instead of {entry.shape}")
    for block in _blocks(tensor, entry.dtype):
        file.write(block)


def _blocks(tensor: torch.Tensor, dtype: torch.dtype) -> Iterator[memoryview]:
    flat = tensor.detach().contiguous().reshape(-1)
    for part in flat.split(_BLOCK):
        yield memoryview(part.to(dtype).view(torch.uint8).numpy())
