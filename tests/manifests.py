"""Manifests that tests change by hand: as edgec writes them, with their own SHA-256."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgec.manifest import MANIFEST_NAME, content_sha256

__all__ = ["manifest_text", "rewrite_manifest"]


def manifest_text(content: dict[str, Any]) -> str:
    """The file of a manifest with this content, whatever that says."""
    return json.dumps(content | {"sha256": content_sha256(content)}, indent=2) + "\n"


def rewrite_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Puts it in place of the artifact's own."""
    (folder / MANIFEST_NAME).write_text(manifest_text(content), "utf-8")
