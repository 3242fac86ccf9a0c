"""Weights whose SHA-256 was checked: once, as long as the file stays the same.

Reading gigabytes to check them takes seconds at each start. So it is remembered, by an empty file
in the user's cache, that a file with this place, inode, size and these times of change had this
SHA-256. Whoever writes into the file, or puts another in its place, changes one of them. Where
there is no cache to write to, a process remembers it for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path

from edgec.cache import default_cache_dir
from edgec.errors import InputError
from edgec.manifest import FileRecord

__all__ = ["CHECK_WEIGHTS", "matches"]

CHECK_WEIGHTS = "EDGEC_CHECK_WEIGHTS"
"""Environment variable: `once` (the default), `always` or `never`."""

_POLICIES = ("once", "always", "never")
_log = logging.getLogger(__name__)
_seen: set[str] = set()

_SETTLED = 3_000_000_000
"""Nanoseconds: a file may change again within what its file system tells apart (FAT: 2 s)."""


def matches(path: Path, about: os.stat_result, mapping: mmap, record: FileRecord) -> bool:
    """Whether mapped weights are those of the manifest, which may be known from before.

    Args:
        about: Of the descriptor that was mapped.

    Raises:
        InputError: the environment names no policy.
    """
    policy = os.environ.get(CHECK_WEIGHTS) or "once"
    if policy not in _POLICIES:
        raise InputError(f"{CHECK_WEIGHTS}={policy}: must be one of {', '.join(_POLICIES)}")
    times = (about.st_mtime_ns, about.st_ctime_ns)
    state = (record.sha256, str(path.resolve()), about.st_ino, about.st_size, *times)
    name = hashlib.sha256(repr(state).encode("utf-8", "surrogateescape")).hexdigest()
    if policy == "never" or (policy == "once" and _is_known(name)):
        return True
    _log.info("checking the SHA-256 of %s, %d MB", path, about.st_size // 1_000_000)
    if hashlib.sha256(mapping).hexdigest() != record.sha256:
        return False
    if time.time_ns() - max(times) < _SETTLED:
        return True
    _seen.add(name)
    for place in _places():
        with contextlib.suppress(OSError):  # a cache that cannot be written: checked again
            place.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
    return True


def _is_known(name: str) -> bool:
    if name in _seen:
        return True
    with contextlib.suppress(OSError):  # a cache that cannot be read
        return any((place / name).is_file() for place in _places())
    return False


def _places() -> Iterator[Path]:
    """The folder in the cache, if there is a cache."""
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield default_cache_dir() / "verified"
