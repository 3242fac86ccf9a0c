"""A sequence's state in a file: an `.npz` with the tokens, the buffers, and what they belong to."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import InputError

__all__ = ["read_snapshot", "write_snapshot"]

_FORMAT = 2


def write_snapshot(
    path: Path,
    digest: str,
    tokens: Seq[int],
    shortest: int,
    buffers: Seq[npt.NDArray[np.uint8]],
) -> None:
    """Writes a file, whole or not at all.

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
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
            path.unlink(missing_ok=True)
            os.link(file.name, path)
    except OSError as error:
        raise InputError(f"{path}: the sequence cannot be saved: {error.strerror}") from error


def read_snapshot(path: Path, digest: str) -> tuple[list[int], int, list[npt.NDArray[np.uint8]]]:
    """Tokens, shortest length and buffers, as `write_snapshot` wrote them for the same artifact.

    Raises:
        InputError: no such file, damaged, or of another artifact.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            head = json.loads(bytes(data["head"]))
            tokens = [int(token) for token in data["tokens"]]
            buffers = [data[f"buffer{at}"] for at in range(len(data.files) - 2)]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no saved sequence, or a damaged one: {error}") from None
    if head.get("format") != _FORMAT or head.get("digest") != digest:
        raise InputError(f"{path}: saved with another artifact", "use the one it was saved with")
    shortest = head.get("shortest")
    if not isinstance(shortest, int) or not 0 <= shortest <= len(tokens):
        raise InputError(f"{path}: a damaged saved sequence: {shortest} of {len(tokens)} tokens")
    return tokens, shortest, buffers
