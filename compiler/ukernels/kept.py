"""Object files of kernels, kept between builds: a file takes a second or two to compile.

A file lies in the folder `kernels` of edgec's cache, under the digest of all that it was made from.
It begins with the digest of what follows, so that a damaged file is made again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from edgec.cache import default_cache_dir

__all__ = ["keep", "read_kept"]


def read_kept(key: str) -> bytes | None:
    """The object file that was kept under a key, or None.

    Args:
        key: The digest in hex of what the file is made from.
    """
    with suppress(OSError, RuntimeError):
        content = _path(key).read_bytes()
        digest, data = content[:32], content[32:]
        if hashlib.sha256(data).digest() == digest:
            return data
    return None


def keep(key: str, data: bytes) -> None:
    """Keeps an object file, if the cache can be written to: it is made again otherwise."""
    with suppress(OSError, RuntimeError):
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".object-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(data).digest() + data)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise


def _path(key: str) -> Path:
    return default_cache_dir() / "kernels" / f"{key}.o"
