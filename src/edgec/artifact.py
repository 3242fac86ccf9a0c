"""Opening a compiled artifact and checking that it is whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgec.errors import ArtifactError
from edgec.manifest import MANIFEST_NAME, Manifest

__all__ = ["Artifact", "sha256_of"]


@dataclass(frozen=True)
class Artifact:
    """A compiled model on disk: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path) -> Artifact:
        """Reads the manifest and checks that every file is there with its recorded size.

        Raises:
            ArtifactError: the folder or a file is missing, truncated, foreign, or of another
                schema version.
        """
        path = Path(path)
        if not path.exists():
            raise ArtifactError(f"artifact {path}: not found", f"edgec compile MODEL -o {path}")
        manifest_path = path / MANIFEST_NAME
        if not manifest_path.is_file():
            raise ArtifactError(
                f"artifact {path}: no {MANIFEST_NAME}", "give a folder that edgec compile wrote"
            )
        try:
            text = manifest_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{manifest_path}: cannot be read: {error}") from None
        manifest = Manifest.from_json(text, manifest_path)
        needed = {*(p.file for p in manifest.programs.values()), manifest.parameters.file}
        if unlisted := needed - set(manifest.files):
            raise ArtifactError(f"{manifest_path}: does not list {', '.join(sorted(unlisted))}")
        for name, record in manifest.files.items():
            file = path / name
            if Path(name).name != name:
                raise ArtifactError(f"{manifest_path}: the file {name!r} is not in the folder")
            if not file.is_file():
                raise ArtifactError(f"artifact {path}: {name} is missing", "compile again")
            if (size := file.stat().st_size) != record.size:
                raise ArtifactError(
                    f"artifact {path}: {name} has {size} bytes, the manifest says {record.size}",
                    "compile again",
                )
        return Artifact(path, manifest)

    def verify(self) -> None:
        """Reads every file and compares its SHA-256 with the manifest's.

        Raises:
            ArtifactError: a file differs; the message names the first one.
        """
        for name, record in self.manifest.files.items():
            if sha256_of(self.path / name) != record.sha256:
                raise ArtifactError(
                    f"artifact {self.path}: {name} differs from its SHA-256", "compile again"
                )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hex, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
