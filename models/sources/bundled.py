"""The models that come with edgec."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUNDLED", "bundled_models"]

BUNDLED = Path(__file__).parent.parent / "bundled"


def bundled_models() -> list[str]:
    """The names of the models that come with edgec."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))
