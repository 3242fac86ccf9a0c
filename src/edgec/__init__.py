"""edgec compiles Hugging Face language models ahead of time and runs them on edge devices.

The names below load what they need on first use: importing `edgec` itself is cheap, and on a
device it never needs torch or a compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.artifact import Artifact
    from edgec.compiler import compile
    from edgec.errors import EdgecError
    from edgec.runtime import Engine, GenerationResult, Session

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "EdgecError",
    "Engine",
    "GenerationResult",
    "Session",
    "__version__",
    "compile",
]

_LAZY = {
    "Artifact": "edgec.artifact",
    "EdgecError": "edgec.errors",
    "Engine": "edgec.runtime",
    "GenerationResult": "edgec.runtime",
    "Session": "edgec.runtime",
    "compile": "edgec.compiler",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'edgec' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
