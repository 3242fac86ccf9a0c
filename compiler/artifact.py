"""Writing an artifact whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from contextlib import suppress
from pathlib import Path

from edgec.artifact import Artifact, sha256_of
from edgec.errors import ArtifactError, InputError
from edgec.manifest import MANIFEST_NAME, FileRecord, Manifest

__all__ = ["DamagedBuild", "check_free", "existing", "file_records", "publish"]


def existing(destination: Path, digest: str, *, cached: bool = False) -> Artifact | None:
    """The artifact at `destination` if it is of this digest; every file of it is read.

    Args:
        destination: Where it would be.
        digest: That of the build.
        cached: Whether it is in a cache, from where an artifact is run that nobody has named.

    Raises:
        DamagedBuild: it is of this digest, and a file is missing or not what was written.
        InputError: another user has put it into the cache.
    """
    if _recorded_digest(destination) != digest:
        return None
    if cached:
        _check_owner(destination)
    try:
        artifact = Artifact.open(destination)
        artifact.verify()
    except (ArtifactError, OSError) as error:
        raise DamagedBuild(str(getattr(error, "what", error))) from None
    return artifact


class DamagedBuild(Exception):
    """A build that is there and is not whole; the message says what is wrong."""


def _recorded_digest(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    digest = manifest.get("digest") if isinstance(manifest, dict) else None
    return digest if isinstance(digest, str) else None


def _check_owner(entry: Path) -> None:
    """An artifact is a program: from a cache that others write to, theirs are not run.

    Raises:
        InputError: the entry is neither this user's, nor of who owns the cache, nor root's.
    """
    owner = entry.stat().st_uid
    if owner not in (os.geteuid(), entry.parent.stat().st_uid, 0):
        raise InputError(
            f"cache: {entry} was put there by another user (uid {owner})",
            "choose another cache with --cache-dir, or an output with -o",
        )


def check_free(destination: Path, force: bool) -> None:
    """Refuses an output that is there: another build without `force`, anything else always.

    Raises:
        InputError: `destination` exists and may not be replaced.
    """
    if _is_artifact(destination):
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


def _is_artifact(folder: Path) -> bool:
    """Whether a folder is an artifact, be it damaged: other programs have a `manifest.json` too."""
    try:
        with (folder / MANIFEST_NAME).open("rb") as manifest:
            return b'"schema_version"' in manifest.read(4096)
    except OSError:
        return False


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
        with suppress(DamagedBuild):
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
