"""The folder for what edgec can make again: compiled models, and what it has checked."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["default_cache_dir"]


def default_cache_dir() -> Path:
    """`EDGEC_CACHE_DIR`, else `edgec` in the user's cache folder.

    Raises:
        RuntimeError: there is no such user, and so no home.
    """
    if given := os.environ.get("EDGEC_CACHE_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgec"
