"""Weights, written tensor by tensor into an IREE parameter archive (`.irpa`).

`edgec.archive` has the format. IREE's own writer wants all tensors in memory at once; a model is
larger than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from edgec.archive import archive_head
from edgec.errors import ModelError

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

    Raises:
        ModelError: a value is NaN or infinite, or becomes that in the type it is stored in.
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
    for block in _blocks(name, tensor, entry.dtype):
        file.write(block)


def _blocks(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> Iterator[memoryview]:
    flat = tensor.detach().contiguous().reshape(-1)
    for part in flat.split(_BLOCK):
        stored = part.to(dtype)
        if not _finite(stored):
            raise _not_finite(name, flat, dtype)
        yield memoryview(stored.view(torch.uint8).numpy())


def _finite(part: torch.Tensor) -> bool:
    """Whether all values are; the extremes are NaN where any is, and found in half the time."""
    if not part.dtype.is_floating_point or not part.numel():
        return True
    return all(math.isfinite(float(extreme)) for extreme in torch.aminmax(part))


def _not_finite(name: str, flat: torch.Tensor, dtype: torch.dtype) -> ModelError:
    """Why a tensor cannot be stored, and what to do: a model with such weights answers NaN."""
    blocks = flat.split(_BLOCK)
    lost = sum(int((~torch.isfinite(block)).sum()) for block in blocks)
    if lost:
        return ModelError(
            f"weights: {name} has {lost} of {flat.numel()} values that are NaN or infinite",
            "get an intact copy, or replace them (torch.nan_to_num) and save the model again",
        )
    largest = max(float(block.abs().max()) for block in blocks)
    short = {torch.float16: "f16", torch.bfloat16: "bf16"}.get(dtype, "f32")
    wider = {"f16": "use --dtype bf16 or f32", "bf16": "use --dtype f32"}
    return ModelError(
        f"weights: {name} has values up to {largest:.6g}, beyond those of {short},"
        f" {torch.finfo(dtype).max:.6g}",
        wider.get(short, "scale the model's weights"),
    )
