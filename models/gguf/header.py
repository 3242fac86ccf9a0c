"""The header of a GGUF file: keys with their values, and where each tensor lies.

The format is ggml's `docs/gguf.md`, and what is refused is what ggml's own reader (`gguf.cpp`)
refuses. A file may say anything: every count, length and offset is compared with the file's size
before something is made of that size or repeated that often. Arrays stay in the file until they are
asked for, so that a vocabulary of 150,000 tokens costs nothing until then.
"""

from __future__ import annotations

import math
import mmap
import stat
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edgec.errors import ModelError

__all__ = ["DAMAGED", "Header", "StoredTensor", "Values", "shown"]

DAMAGED = "download it again"

_MAX_KEYS = 1 << 14  # a file has about 40
_MAX_TENSORS = 1 << 17  # the largest mixtures have some thousands
_MAX_STRINGS = 1 << 23  # of one array; vocabularies have up to 2^18, merges up to 2^20
_MAX_NAME = 512  # bytes of a key or a tensor's name; ggml has 64 for the latter
_MAX_DIMENSIONS = 4

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
_BOOL = 7
_KINDS = {kind: np.dtype(name) for kind, name in _SCALARS.items()}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor: its type, its shape in torch's order, and the bytes of `path` that hold it."""

    type: Any
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


class Values:
    """An array of a header, read from the file when it is asked for.

    Attributes:
        count: How many elements there are.
        strings: Whether they are strings, otherwise numbers.
    """

    def __init__(self, where: str, data: Any, at: int, count: int, kind: int, ends: Any) -> None:
        self.count, self.strings = count, kind == _STRING
        self._where, self._data, self._at, self._kind, self._ends = where, data, at, kind, ends

    def numbers(self) -> np.ndarray[Any, Any]:
        """The elements as an array of numpy's.

        Raises:
            ModelError: they are strings.
        """
        if self.strings:
            raise ModelError(f"{self._where}: has strings where numbers belong", DAMAGED)
        return np.frombuffer(self._data, _KINDS[self._kind], self.count, self._at).copy()

    def texts(self) -> list[str]:
        """The elements as strings.

        Raises:
            ModelError: they are numbers, or one is not UTF-8.
        """
        if not self.strings:
            raise ModelError(f"{self._where}: has numbers where strings belong", DAMAGED)
        last = self._ends[-1] if self.count else self._at
        data, at = self._data[self._at : last], 0
        found: list[str] = []
        try:
            for end in self._ends:
                found.append(data[at + 8 : end - self._at].decode())
                at = end - self._at
        except UnicodeDecodeError:
            raise ModelError(f"{self._where}: element {len(found)} is not UTF-8", DAMAGED) from None
        return found


class Header:
    """What a file says: `metadata` by key, `tensors` by name.

    Args:
        path: The file.

    Raises:
        ModelError: not a GGUF file, one of another version, or damaged. The message says where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, StoredTensor] = {}
        try:
            # A FIFO or a device would be waited for without end.
            if not stat.S_ISREG(path.stat().st_mode):
                raise ModelError(f"{path}: not a regular file", "give a GGUF file")
            with path.open("rb") as stream:
                self._size = path.stat().st_size
                if self._size < 24:
                    raise self._damaged(f"{self._size} bytes are too few")
                self._data = mmap.mmap(stream.fileno(), self._size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read: {error}", "check the file") from None
        self._at = 0
        self._read()

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self.path}: not a whole GGUF file: {what}", DAMAGED)

    def _take(self, count: int, what: str) -> int:
        """Moves on by `count` bytes, which must be there; returns where they begin."""
        at = self._at
        if count > self._size - at:
            raise self._damaged(f"it ends within {what}")
        self._at = at + count
        return at

    def _number(self, kind: int, what: str) -> Any:
        dtype = _KINDS[kind]
        at = self._take(dtype.itemsize, what)
        return np.frombuffer(self._data, dtype, 1, at)[0].item()

    def _text(self, what: str, limit: int | None = None) -> bytes:
        length = self._number(10, what)
        if limit is not None and length > limit:
            raise self._damaged(f"{what} has {length} bytes")
        at = self._take(length, what)
        return self._data[at : at + length]

    def _read(self) -> None:
        self._take(4, "its magic")
        if self._data[:4] != b"GGUF":
            raise self._damaged("it does not begin with GGUF")
        version = self._number(4, "its version")
        if version & 0xFFFF == 0:
            raise ModelError(f"{self.path}: big-endian", "convert the model for this machine")
        if version not in (2, 3):
            raise ModelError(
                f"{self.path}: GGUF version {version}; edgec reads 2 and 3",
                "convert the model again with today's llama.cpp",
            )
        tensors, keys = self._number(10, "its counts"), self._number(10, "its counts")
        for count, limit, least, what in (
            (keys, _MAX_KEYS, 13, "keys"),
            (tensors, _MAX_TENSORS, 33, "tensors"),
        ):
            if count > min(limit, self._size // least):
                raise self._damaged(f"it counts {count} {what}")
        for _ in range(keys):
            self._read_key()
        self._read_tensors(tensors)

    def _read_key(self) -> None:
        raw = self._text("a key", _MAX_NAME)
        try:
            name = raw.decode("ascii")
        except UnicodeDecodeError:
            name = ""
        if not name.isprintable() or not name:
            raise self._damaged(f"key {len(self.metadata)} has no readable name")
        if name in self.metadata:
            raise self._damaged(f"key {name} is there twice")
        kind = self._number(4, name)
        if kind in _KINDS:
            value = self._number(kind, name)
            self.metadata[name] = bool(value) if kind == _BOOL else value
        elif kind == _STRING:
            self.metadata[name] = self._decoded(name, self._text(name))
        elif kind == _ARRAY:
            self.metadata[name] = self._read_array(name)
        else:
            raise self._damaged(f"key {name} is of the unknown type {kind}")

    def _decoded(self, name: str, raw: bytes) -> str:
        try:
            # Names and licences are for people; the others are for programs.
            return raw.decode("utf-8", "replace" if name.startswith("general.") else "strict")
        except UnicodeDecodeError:
            raise self._damaged(f"key {name} is not UTF-8") from None

    def _read_array(self, name: str) -> Values:
        kind, count = self._number(4, name), self._number(10, name)
        where = f"{self.path}: {name}"
        if kind in _KINDS:
            at = self._take(count * _KINDS[kind].itemsize, name)
            return Values(where, self._data, at, count, kind, None)
        if kind != _STRING:
            raise self._damaged(f"key {name} is an array of the type {kind}")
        if count > min(_MAX_STRINGS, (self._size - self._at) // 8):
            raise self._damaged(f"key {name} counts {count} strings")
        start = at = self._at
        data, size, ends = self._data, self._size, array("Q")
        read, append = _LENGTH.unpack_from, ends.append
        for _ in range(count):
            if at + 8 > size:
                raise self._damaged(f"it ends within {name}")
            at += 8 + read(data, at)[0]
            if at > size:
                raise self._damaged(f"it ends within {name}")
            append(at)
        self._at = at
        return Values(where, data, start, count, _STRING, ends)

    def _read_tensors(self, count: int) -> None:
        found: list[tuple[str, tuple[int, ...], int, int]] = []
        for _ in range(count):
            raw = self._text("a tensor's name", _MAX_NAME)
            name = raw.decode("utf-8", "replace")
            if not name.isprintable() or not name:
                raise self._damaged(f"tensor {len(found)} has no readable name")
            dimensions = self._number(4, name)
            if not 1 <= dimensions <= _MAX_DIMENSIONS:
                raise self._damaged(f"tensor {name} has {dimensions} dimensions")
            shape = tuple(self._number(10, name) for _ in range(dimensions))[::-1]
            found.append((name, shape, self._number(4, name), self._number(10, name)))
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"general.alignment is {alignment!r}, no power of 2")
        start = -(-self._at // alignment) * alignment
        position = 0
        unknown: list[str] = []
        for name, shape, kind, offset in found:
            if name in self.tensors:
                raise self._damaged(f"tensor {name} is there twice")
            try:
                named = gguf.GGMLQuantizationType(kind)
                per_block, block = gguf.GGML_QUANT_SIZES[named]
            except (ValueError, KeyError):
                unknown.append(f"{kind} ({name})")
                continue
            elements = math.prod(shape)
            if elements < 1 or shape[-1] % per_block:
                raise self._damaged(f"tensor {name} has the shape {list(shape)} in {named.name}")
            nbytes = elements // per_block * block
            if not unknown and offset != position:
                raise self._damaged(f"tensor {name} begins at {offset} instead of {position}")
            if start + offset + nbytes > self._size:
                raise ModelError(f"{self.path}: truncated in {name}", DAMAGED)
            position = -(-(offset + nbytes) // alignment) * alignment
            self.tensors[name] = StoredTensor(named, shape, self.path, start + offset, nbytes)
        if unknown:
            raise ModelError(
                f"{self.path}: tensors of types that are unknown: {', '.join(unknown[:3])}",
                "take a file in Q8_0, Q4_0, Q4_K_M or F16",
            )


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = f"an array of {value.count}" if isinstance(value, Values) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
