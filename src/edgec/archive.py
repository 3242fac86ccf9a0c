"""The head of an IREE parameter archive (`.irpa`): which tensors it has, and where.

The format is IREE's `iree/schemas/parameter_archive.h`, version 0.0: a header, a table of
entries, their names, then the tensors at aligned offsets. IREE's parser adds the numbers that it
finds in a file without asking whether the sums wrap. So a file is read here first, and taken only
if its head is, byte for byte, the one that edgec writes for those names and sizes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ArchiveHead", "archive_head", "read_archive"]

_HEADER = struct.Struct("<4sHHQQQQQQQQQQ")
_ENTRY = struct.Struct("<QIQQQQQQQQ")
_DATA = 2
_ENTRY_ALIGNMENT = 16
_TENSOR_ALIGNMENT = 64
_STORAGE_ALIGNMENT = 4096  # a page, so that tensors are aligned in memory when the file is mapped
_STRIDE = -(-_ENTRY.size // _ENTRY_ALIGNMENT) * _ENTRY_ALIGNMENT
_TABLE = -(-_HEADER.size // _ENTRY_ALIGNMENT) * _ENTRY_ALIGNMENT


@dataclass(frozen=True)
class ArchiveHead:
    """The first bytes of an archive, where in the file each tensor is, and the file's size."""

    content: bytes
    offsets: dict[str, int]
    size: int


def archive_head(sizes: Mapping[str, int]) -> ArchiveHead:
    """The head for tensors of these names and bytes, in this order."""
    names = b"".join(name.encode() for name in sizes)
    table_size = _STRIDE * max(len(sizes) - 1, 0) + (_ENTRY.size if sizes else 0)
    names_at = _TABLE + table_size
    storage_at = _align(names_at + len(names), _STORAGE_ALIGNMENT)
    head, offsets, name_at, storage_size = bytearray(names_at), {}, 0, 0
    for index, (name, size) in enumerate(sizes.items()):
        length = len(name.encode())
        fields = (_ENTRY.size, _DATA, 0, name_at, length, 0, 0, _TENSOR_ALIGNMENT)
        _ENTRY.pack_into(head, _TABLE + index * _STRIDE, *fields, storage_size, size)
        offsets[name] = storage_at + storage_size
        name_at += length
        storage_size = _align(storage_size + size, _TENSOR_ALIGNMENT)
    segments = (_TABLE, table_size, names_at, len(names), storage_at, storage_size)
    _HEADER.pack_into(head, 0, b"IRPA", 0, 0, _HEADER.size, 0, 0, len(sizes), *segments)
    return ArchiveHead(bytes(head) + names, offsets, storage_at + storage_size)


def read_archive(data: memoryview) -> dict[str, int]:
    """The names of an archive's tensors and their bytes, in order.

    Raises:
        ValueError: it is no whole archive as edgec writes it.
    """
    if len(data) < _HEADER.size:
        raise ValueError("shorter than a header")
    magic, *_, count, _, _, names_at, names_size, _, _ = _HEADER.unpack_from(data)
    if (
        magic != b"IRPA"
        or names_at + names_size > len(data)
        or _TABLE + count * _STRIDE > len(data)
    ):
        raise ValueError("not an archive of parameters")
    names, sizes = bytes(data[names_at : names_at + names_size]), {}
    for index in range(count):
        *_, at, length, _, _, _, _, size = _ENTRY.unpack_from(data, _TABLE + index * _STRIDE)
        try:
            sizes[names[at : at + length].decode()] = size
        except UnicodeDecodeError:
            raise ValueError(f"tensor {index} has no name") from None
    head = archive_head(sizes) if sum(sizes.values()) <= len(data) else None
    if head is None or head.size != len(data) or data[: len(head.content)] != head.content:
        raise ValueError("its table of tensors is damaged, or of another writer")
    return sizes


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
