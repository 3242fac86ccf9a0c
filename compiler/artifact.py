"""Writing an artifact whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgec.artifact import Artifact, sha256_of
from edgec.errors import ArtifactError, InputError
from edgec.manifest import MANIFEST_NAME, FileRecord, Manifest

__all__ = ["existing", "file_records", "locked", "publish", "workspace"]

_PREFIX = ".edgec-building-"
_LOCK = "lock"


@contextmanager
def workspace(destination: Path) -> Iterator[Path]:
    """A temporary folder beside `destination`, gone at the end whatever happens.

    Folders that killed builds left behind are removed first: nobody holds their lock.

    Raises:
        InputError: the place cannot be written to.
    """
    parent = destination.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        raise InputError(
            f"output {destination}: cannot write to {parent}: {error.strerror}",
            "choose another place with -o",
        ) from None
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def existing(destination: Path, digest: str) -> Artifact | None:
    """The artifact at `destination` if it is whole and of this digest."""
    try:
        artifact = Artifact.open(destination)
    except ArtifactError:
        return None
    return artifact if artifact.manifest.digest == digest else None


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and SHA-256 of every file of an artifact, except the manifest itself."""
    return {
        file.name: FileRecord(file.stat().st_size, sha256_of(file))
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST_NAME
    }


def publish(folder: Path, destination: Path, manifest: Manifest, *, replace: bool) -> Artifact:
    """Writes the manifest into `folder` last, then renames the folder to `destination`."""
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), "utf-8")
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if destination.exists() and replace:
        # A rename cannot replace a folder; the old one goes away in one step too.
        old = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=destination.parent))
        destination.rename(old / destination.name)
        shutil.rmtree(old, ignore_errors=True)
    folder.rename(destination)
    return Artifact.open(destination)
