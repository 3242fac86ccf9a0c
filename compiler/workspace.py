"""The temporary folder of a build, and the locks by which builds know of each other.

Both lie where other users may write too, under names that anybody can guess. So nothing here
follows a link, truncates a file or waits for a pipe, and only a folder that a build of this user
has marked is ever removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgec.errors import InputError

__all__ = ["locked", "remove_abandoned", "workspace", "writable"]

_PREFIX = ".edgec-building-"
_LOCK = "lock"
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def workspace(destination: Path) -> Iterator[Path]:
    """A temporary folder beside `destination`, gone at the end whatever happens.

    Folders that killed builds left behind are removed first: nobody holds their lock.

    Raises:
        InputError: the place cannot be written to, or is full.
    """
    parent = destination.parent
    with writable(parent, f"output {destination}", "choose another place with -o"):
        parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(parent)
        folder, lock = _locked_folder(parent)
    try:
        yield folder
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InputError(
            f"output {destination}: {error.strerror} while it was written", _FULL[error.errno]
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


_FULL = {
    errno.ENOSPC: "free some space or choose another place with -o",
    errno.EDQUOT: "free some space or choose another place with -o",
    errno.EFBIG: "the file system or a limit (ulimit -f) takes no file of that size, FAT none of "
    "4 GB: choose another place with -o",
}


@contextmanager
def writable(place: Path, what: str, remedy: str) -> Iterator[None]:
    """Around making files and folders in `place`: a failure is the fault of who chose it.

    Raises:
        InputError: something within raised an OSError.
    """
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{what}: cannot write to {place}: not a folder", remedy) from None
    except OSError as error:
        raise InputError(f"{what}: cannot write to {place}: {error.strerror}", remedy) from None


def remove_abandoned(parent: Path) -> None:
    """Removes the folders that killed builds of this user left in `parent`.

    A folder goes only if it and its lock are this user's, the lock names the folder, and nobody
    holds it. Whatever else has such a name is somebody's, and stays.
    """
    for path in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # in use by another build, gone meanwhile, or not ours
            folder = os.open(path, _FOLDER)
            try:
                _remove(path, folder)
            finally:
                os.close(folder)


def _remove(path: Path, folder: int) -> None:
    if os.fstat(folder).st_uid != os.geteuid():
        return
    entries = os.listdir(folder)
    if not entries:
        path.rmdir()  # killed before it was locked
        return
    lock = os.open(_LOCK, _OPEN, dir_fd=folder)
    try:
        found = os.fstat(lock)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return
        mark = os.pread(lock, 1024, 0)
        if mark != _mark(path) and not (mark == b"" and entries == [_LOCK]):
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its own entries by their folder, which a name could be given to another of meanwhile.
        for entry in sorted(entries, key=lambda name: name == _LOCK):
            if stat.S_ISDIR(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode):
                shutil.rmtree(entry, dir_fd=folder)
            else:
                os.unlink(entry, dir_fd=folder)
        path.rmdir()
    finally:
        os.close(lock)


def _mark(folder: Path) -> bytes:
    """The contents of a folder's lock: a copy of the folder under another name has no right one."""
    return f"edgec builds in {folder.name}\n".encode()


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder with a marked lock, and the lock's descriptor."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            lock = os.open(folder / _LOCK, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            continue  # until it was locked, another build could take it for abandoned
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_at(lock, folder / _LOCK):
            os.write(lock, _mark(folder))
            return folder, lock
        os.close(lock)


def _is_at(lock: int, path: Path) -> bool:
    """Whether an open file still has that name: it may be removed, and another made."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock named after `path`, so that equal builds run once.

    Raises:
        InputError: the lock cannot be made, or what has its name is no lock of this user's or
            of the folder's owner.
    """
    place, remedy = path.parent, "choose another with --cache-dir, or an output with -o"
    with writable(place, "cache", remedy):
        place.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, _OPEN | os.O_CREAT, 0o644)
        found, owner = os.fstat(lock), place.stat().st_uid
    try:
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), owner):
            raise InputError(f"cache: {path} is not a lock of this user's", remedy)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
