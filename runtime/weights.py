"""Files of an artifact as read-only mappings; those of weights in large pages where there are any.

A decode step reads every weight once, so what a core spends on finding pages counts: with pages of
2 MB it reads 10 to 25 % more a second than with those of 4 KB. Linux has them for files since
6.16 on ext4, and on XFS and others before, if the page cache holds 2 MB in one piece. The advice
lets it read a cold file so, and in larger requests; `edgec.compiler` writes files so.

Weights outlive their program where a call is still queued when it is dropped: the call ends on a
thread of IREE's, which then is the last to hold them, and lets go of a Python object without
Python's lock. Were that the last reference, the process would crash. So the object of a mapping
stays for good, some hundred bytes, and what it maps is closed once IREE has let go of it, which
Python's count of a mapping's exports tells. That is looked at whenever a program is loaded or
dropped.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MappedWeights", "map_file"]


def map_file(path: Path) -> mmap.mmap:
    """Maps a file, read-only; its pages are the page cache's, shared with other processes.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is empty.
    """
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@dataclass
class _Shared:
    """A mapping that several programs may use."""

    mapping: mmap.mmap
    handle: Any
    users: int = 0


# A program may be dropped by a garbage collection anywhere, also within what holds the lock.
_lock = threading.RLock()
_open: dict[tuple[int, ...], _Shared] = {}
_closing: list[mmap.mmap] = []

# IREE lets go of a mapping twice, each time perhaps while another thread counts references to it:
# a count may end up too low by two, but never at zero.
_kept: list[tuple[mmap.mmap, ...]] = []


class MappedWeights:
    """A file of weights as long as a program uses it: an unchanged file is mapped once for all.

    Attributes:
        about: What the system says of the file that is mapped.
        mapping: The bytes of the file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is empty.
    """

    def __init__(self, path: Path) -> None:
        import iree.runtime as rt

        with path.open("rb") as file, _lock:
            _close_unused()
            self.about = about = os.fstat(file.fileno())
            times = (about.st_mtime_ns, about.st_ctime_ns)
            self._key = (about.st_dev, about.st_ino, about.st_size, *times)
            if self._key not in _open:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                if hasattr(mmap, "MADV_HUGEPAGE"):
                    with contextlib.suppress(OSError):  # a kernel without them
                        mapping.madvise(mmap.MADV_HUGEPAGE)
                _kept.append((mapping,) * 4)
                _open[self._key] = _Shared(mapping, rt.FileHandle.wrap_memory(mapping))
            shared = _open[self._key]
            shared.users += 1
            weakref.finalize(self, _drop, self._key).atexit = False

    @property
    def mapping(self) -> mmap.mmap:
        return _open[self._key].mapping

    def handle(self) -> Any:
        """An `iree.runtime.FileHandle`; not to be kept: IREE holds on to it by itself."""
        return _open[self._key].handle


def _drop(key: tuple[int, ...]) -> None:
    with _lock:
        shared = _open[key]
        shared.users -= 1
        if not shared.users:
            del _open[key]
            _closing.append(shared.mapping)
            del shared
        _close_unused()


def _close_unused() -> None:
    """Closes the mappings of dropped programs that no queued call uses; the caller has the lock."""
    for mapping in tuple(_closing):
        with contextlib.suppress(BufferError):
            mapping.close()
            _closing.remove(mapping)
