"""Writing an artifact whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edgec.artifact import Artifact, sha256_of
from edgec.errors import ArtifactError, InputError
from edgec.manifest import MANIFEST_NAME, FileRecord, Manifest

__all__ = ["check_free", "existing", "file_records", "locked", "publish", "workspace", "writable"]

_PREFIX = ".edgec-building-"
_LOCK = "lock"


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
        _remove_abandoned(parent)
        folder, lock = _locked_folder(parent)
    with lock:
        try:
            yield folder
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"output {destination}: {error.strerror} while it was written",
                "free some space or choose another place with -o",
            ) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)


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


def _locked_folder(parent: Path) -> tuple[Path, IO[str]]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            lock = (folder / _LOCK).open("w")
        except FileNotFoundError:
            continue  # until it was locked, another build could take it for abandoned
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_at(lock, folder / _LOCK):
            return folder, lock
        lock.close()


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file still has that name: it may be removed, and another made."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use by another build, or not ours to remove


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock named after `path`, so that equal builds run once."""
    place = path.parent
    with writable(place, "cache", "choose another with --cache-dir, or an output with -o"):
        place.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def existing(destination: Path, digest: str) -> Artifact | None:
    """The artifact at `destination` if it is whole and of this digest."""
    try:
        artifact = Artifact.open(destination)
    except ArtifactError:
        return None
    return artifact if artifact.manifest.digest == digest else None


def check_free(destination: Path, force: bool) -> None:
    """Refuses an output that is there: another build without `force`, anything else always.

    Raises:
        InputError: `destination` exists and may not be replaced.
    """
    if (destination / MANIFEST_NAME).is_file():
        if not force:
            raise InputError(
                f"output {destination}: exists and is another build",
                "add --force to replace it, or choose another place with -o",
            )
    elif destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise InputError(
            f"output {destination}: exists and is no artifact, so it is not replaced",
            "choose another place with -o, or remove it",
        )


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and SHA-256 of every file of an artifact, except the manifest itself."""
    return {
        file.name: FileRecord(file.stat().st_size, sha256_of(file))
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST_NAME
    }


def publish(folder: Path, destination: Path, manifest: Manifest, *, replace: bool) -> Artifact:
    """Writes the manifest into `folder` last, then renames the folder to `destination`.

    Args:
        folder: In a `workspace` of the destination; everything but the manifest is in it.
        destination: Where the artifact will be.
        manifest: The manifest.
        replace: Whether what stands at `destination` gives way.

    Raises:
        InputError: something else was written there meanwhile.
    """
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if destination.exists() and replace:
        _exchange(folder, destination)  # a rename cannot replace a folder
        return Artifact.open(destination)
    try:
        folder.rename(destination)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        if found := existing(destination, manifest.digest):
            return found
        raise InputError(
            f"output {destination}: written by something else meanwhile",
            "add --force to replace it, or choose another place with -o",
        ) from None
    return Artifact.open(destination)


def _exchange(first: Path, second: Path) -> None:
    """Swaps two folders: on Linux in one step, so that at every moment one stands there whole."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if exchange and exchange(here, os.fsencode(first), here, os.fsencode(second), swap) == 0:
        return
    aside = first.with_name("replaced")
    second.rename(aside)
    first.rename(second)
    aside.rename(first)
