"""A sequence's state in a file: an `.npz` with the tokens, the buffers, and what they belong to."""

from __future__ import annotations

import json
import os
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgec.errors import EdgecError, InputError

__all__ = ["read_snapshot", "write_snapshot"]

_FORMAT = 2
_HEAD = 4096
"""More bytes than a head or the description of an array has."""


def write_snapshot(
    path: Path,
    digest: str,
    tokens: Seq[int],
    shortest: int,
    buffers: Seq[npt.NDArray[np.uint8]],
) -> None:
    """Writes a file, whole or not at all: until then what was there stays.

    Args:
        digest: Of the artifact; no other can use the state.
        tokens: What the state holds.
        shortest: Down to how many of them they can be taken back.
        buffers: The bytes of each state buffer, of those with a row per position its first rows.

    Raises:
        InputError: the file cannot be written.
    """
    head = json.dumps({"format": _FORMAT, "digest": digest, "shortest": shortest}).encode()
    arrays: dict[str, Any] = {f"buffer{at}": array for at, array in enumerate(buffers)}
    arrays["head"] = np.frombuffer(head, np.uint8)
    arrays["tokens"] = np.asarray(tokens, np.int32)
    try:
        with _replaced(path) as file:
            np.savez(file, **arrays)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: the sequence cannot be saved: {why}") from error


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is written.

    Where the file system can, it has no name until then, so that a process that is killed leaves
    nothing.
    """
    name = path.parent / f".{secrets.token_hex(8)}.saving"
    try:
        try:
            number = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o600)
        except (AttributeError, OSError):
            number = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        with os.fdopen(number, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not name.exists():
                # The folder's descriptor is not needed, but with none Python links the link.
                entry = f"/proc/self/fd/{number}"
                os.link(entry, name, src_dir_fd=number, follow_symlinks=True)
        name.replace(path)
    finally:
        name.unlink(missing_ok=True)


def read_snapshot(
    path: Path, digest: str, context: int, sizes: Callable[[int], Seq[int]]
) -> tuple[list[int], int, list[npt.NDArray[np.uint8]]]:
    """Tokens, shortest length and buffers, as `write_snapshot` wrote them for the same artifact.

    Nothing is read before its size is known to be right, so a file takes no more memory and time
    than one that was saved.

    Args:
        context: How many tokens a sequence has at most.
        sizes: The bytes of each buffer for so many tokens.

    Raises:
        InputError: no such file, damaged, or of another artifact.
    """
    try:
        # Opening a pipe would wait for a writer.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a file")
        longest = sizes(context)
        if status.st_size > sum(longest) + 4 * context + (len(longest) + 3) * 2 * _HEAD:
            raise ValueError(f"{status.st_size} bytes")
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise ValueError("a name twice")
            head = json.loads(bytes(_read(archive, members, "head", np.uint8, range(_HEAD))))
            if not isinstance(head, dict) or head.get("format") != _FORMAT:
                raise ValueError("another format")
            if head.get("digest") != digest:
                raise InputError(
                    f"{path}: saved with another artifact", "use the one it was saved with"
                )
            tokens = _read(archive, members, "tokens", np.int32, range(1, context + 1)).tolist()
            shortest = head.get("shortest")
            if type(shortest) is not int or not 0 <= shortest <= len(tokens):
                raise ValueError(f"can go back to {shortest!r} of {len(tokens)} tokens")
            buffers = [
                _read(archive, members, f"buffer{at}", np.uint8, range(size, size + 1))
                for at, size in enumerate(sizes(len(tokens)))
            ]
            if len(members) != 2 + len(buffers):
                raise ValueError("more than a sequence")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except EdgecError:
        raise
    except Exception as error:
        # numpy, zipfile and json raise almost anything for a damaged file, such as
        # NotImplementedError, RecursionError or OverflowError.
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{path}: no saved sequence, or a damaged one: {why}") from None
    return tokens, shortest, buffers


def _read(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    name: str,
    dtype: npt.DTypeLike,
    lengths: range,
) -> npt.NDArray[Any]:
    """A list of one of these lengths, whose type and size are compared before it is read."""
    member = members[f"{name}.npy"]
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f"{name} is compressed or encrypted")
    itemsize = np.dtype(dtype).itemsize
    if not 0 <= member.file_size <= _HEAD + itemsize * lengths[-1]:
        raise ValueError(f"{name} has {member.file_size} bytes")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is of another format")
        shape, _, found = np.lib.format.read_array_header_1_0(file, max_header_size=_HEAD)
        if found != np.dtype(dtype) or len(shape) != 1 or shape[0] not in lengths:
            raise ValueError(f"{name} is {found}{list(shape)}")
        # One byte more than there should be: only at its end is the checksum compared.
        data = file.read(itemsize * shape[0] + 1)
    if len(data) != itemsize * shape[0]:
        raise ValueError(f"{name} is cut or too long")
    return np.frombuffer(data, dtype)
