"""Digests by which two builds are known to be the same."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import edgec
from edgec.manifest import SCHEMA_VERSION

__all__ = ["digest", "versions"]

_PACKAGES = {
    "iree": "iree-base-compiler",
    "iree-turbine": "iree-turbine",
    "torch": "torch",
    "transformers": "transformers",
}


@cache
def versions() -> dict[str, str]:
    """Versions that an artifact records, by short name."""
    return {"edgec": edgec.__version__} | {k: version(p) for k, p in _PACKAGES.items()}


def digest(inputs: dict[str, Any]) -> str:
    """SHA-256 over everything that a build depends on, edgec's own code included."""
    everything = {
        "schema": SCHEMA_VERSION,
        "versions": versions(),
        "code": _own_code(),
        **inputs,
    }
    text = json.dumps(everything, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _own_code() -> str:
    state = hashlib.sha256()
    root = Path(edgec.__file__).parent
    for place in ("options.py", "compiler/**/*.*", "models/**/*.*", "passes/**/*.*"):
        for file in sorted(root.glob(place)):
            if file.suffix not in (".py", ".c", ".h"):
                continue
            state.update(file.relative_to(root).as_posix().encode())
            state.update(file.read_bytes())
    return state.hexdigest()
