"""Opening a compiled artifact and checking that it is whole."""

from __future__ import annotations

import errno
import hashlib
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgec.errors import ArtifactError, InputError
from edgec.manifest import MANIFEST_NAME, Manifest
from edgec.tokenizer_files import TOKENIZER_FILES

__all__ = ["READ_FILES", "Artifact", "cannot_read", "sha256_of"]


READ_FILES = (*TOKENIZER_FILES, "additional_chat_templates")
"""Files and folders that the runtime reads beside programs and weights, where they are there."""

_LARGEST_MANIFEST = 16 << 20


@dataclass(frozen=True)
class Artifact:
    """A compiled model on disk.

    Attributes:
        path: The folder.
        manifest: The description of its files, its model and its programs (docs/artifact.md).
    """

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path, expect: str | None = None) -> Artifact:
        """Reads the manifest and checks that every file is there with its recorded size.

        Args:
            path: The folder.
            expect: `sha256:…` of the manifest, as `edgec inspect` prints it. It stands for every
                byte of the artifact: all files are read and compared too.

        Raises:
            ArtifactError: the folder or a file is missing, truncated, foreign, of another schema
                version, or not what is expected.
            InputError: `expect` is not of that form.
        """
        path = Path(path)
        try:
            artifact = Artifact(path, _read_manifest(path))
            artifact._check_sizes()
        except OSError as error:
            raise cannot_read(path, error) from None
        if expect is not None:
            artifact._check_expected(expect)
        return artifact

    @property
    def sha256(self) -> str:
        """The value of `expect` for this artifact."""
        return f"sha256:{self.manifest.sha256}"

    def verify(self) -> None:
        """Reads every file and compares its SHA-256 with the manifest's.

        Raises:
            ArtifactError: a file differs or cannot be read; the message names the first one.
        """
        self._verify(self.manifest.files)

    def verify_small(self) -> None:
        """The same for all files but the programs and the weights.

        Raises:
            ArtifactError: as `verify`; or one of the model's files is there and not in the
                manifest.
        """
        manifest = self.manifest
        large = {*(p.file for p in manifest.programs.values()), manifest.parameters.file}
        self._verify(name for name in manifest.files if name not in large)
        for name in READ_FILES:
            if name not in manifest.files and (self.path / name).exists():
                raise ArtifactError(
                    f"artifact {self.path}: {name} is not one of its files, so it is not used",
                    "remove it, or compile again with it in the model's folder",
                )

    def _verify(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                found = sha256_of(self.path / name)
            except OSError as error:
                raise cannot_read(self.path / name, error) from None
            if found != self.manifest.files[name].sha256:
                raise ArtifactError(
                    f"artifact {self.path}: {name} differs from its SHA-256", "compile again"
                )

    def _check_sizes(self) -> None:
        manifest, where = self.manifest, self.path / MANIFEST_NAME
        needed = {*(p.file for p in manifest.programs.values()), manifest.parameters.file}
        if unlisted := needed - set(manifest.files):
            raise ArtifactError(f"{where}: does not list {', '.join(sorted(unlisted))}")
        for name, record in manifest.files.items():
            if Path(name).name != name or not name.isprintable() or len(name) > 255:
                raise ArtifactError(f"{where}: the file {reprlib.repr(name)} is not in the folder")
            file = self.path / name
            if not file.is_file():
                raise ArtifactError(f"artifact {self.path}: {name} is missing", "compile again")
            if (size := file.stat().st_size) != record.size:
                raise ArtifactError(
                    f"artifact {self.path}: {name} has {size} bytes, the manifest says"
                    f" {record.size}",
                    "compile again",
                )

    def _check_expected(self, expect: str) -> None:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", expect):
            raise InputError(
                f"expect {reprlib.repr(expect)}: must be sha256: and 64 hexadecimal digits",
                f"edgec inspect {self.path} prints it",
            )
        if expect != self.sha256:
            raise ArtifactError(
                f"artifact {self.path}: is {self.sha256}, not the {expect} that is expected",
                "find out who changed it, or expect the new one",
            )
        self.verify()


def _read_manifest(path: Path) -> Manifest:
    if not path.exists():
        raise ArtifactError(f"artifact {path}: not found", f"edgec compile MODEL -o {path}")
    where = path / MANIFEST_NAME
    if not where.is_file():
        raise ArtifactError(
            f"artifact {path}: no {MANIFEST_NAME}", "give a folder that edgec compile wrote"
        )
    with where.open("rb") as file:
        content = file.read(_LARGEST_MANIFEST + 1)
    if len(content) > _LARGEST_MANIFEST:
        raise ArtifactError(
            f"{where}: not a manifest: more than {_LARGEST_MANIFEST >> 20} MB",
            "give a folder that edgec compile wrote",
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{where}: cannot be read: {error}", "compile again") from None
    manifest = Manifest.from_json(text, where)
    if text != manifest.to_json():  # a damaged space, or a key that is there twice
        raise ArtifactError(f"{where}: differs from what edgec wrote", "compile again")
    return manifest


_REMEDIES = {
    errno.EACCES: "let this user read it",
    errno.EMFILE: "allow this process more open files (ulimit -n)",
    errno.ENAMETOOLONG: "",
    errno.ENFILE: "close what has many files open",
    errno.ENOMEM: "free some memory",
}


def cannot_read(where: Path, error: OSError) -> ArtifactError:
    """For a file that the system does not give: its reason, and what helps against that."""
    name = str(where) if len(str(where)) <= 300 else reprlib.repr(str(where))
    remedy = _REMEDIES.get(error.errno or 0, "check the disk, or compile again")
    return ArtifactError(f"{name}: cannot be read: {error.strerror}", remedy)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hex, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
