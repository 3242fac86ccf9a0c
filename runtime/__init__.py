"""Loads a compiled artifact and generates text with it.

Needs iree.runtime, numpy, tokenizers and jinja2; never torch, transformers or a compiler. The
names below load what they need on first use, so that importing this package is cheap.

    session = Session("model.edgec")
    print(session.generate("Once upon a time", max_new_tokens=32).text)

Layers, from the device up: `program` (weights and entry points) and `state` (a sequence's
buffers); `sequence` (positions and phases); `generation` (tokens to text); `session` (one
sequence) or `engine` (many).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.runtime.config import GenerationConfig
    from edgec.runtime.engine import Engine, EngineStats
    from edgec.runtime.model import LoadedModel
    from edgec.runtime.phases import PhaseCounters, SequencePhase
    from edgec.runtime.request import Request
    from edgec.runtime.results import (
        GenerationResult,
        StreamChunk,
        Timings,
        TokenLogprobs,
        Usage,
    )
    from edgec.runtime.sampling import TokenFilter
    from edgec.runtime.sequence import Sequence
    from edgec.runtime.session import Session
    from edgec.runtime.structured import schema_filter

__all__ = [
    "Engine",
    "EngineStats",
    "GenerationConfig",
    "GenerationResult",
    "LoadedModel",
    "PhaseCounters",
    "Request",
    "Sequence",
    "SequencePhase",
    "Session",
    "StreamChunk",
    "Timings",
    "TokenFilter",
    "TokenLogprobs",
    "Usage",
    "schema_filter",
]

_LAZY = {
    "Engine": "edgec.runtime.engine",
    "EngineStats": "edgec.runtime.engine",
    "GenerationConfig": "edgec.runtime.config",
    "GenerationResult": "edgec.runtime.results",
    "LoadedModel": "edgec.runtime.model",
    "PhaseCounters": "edgec.runtime.phases",
    "Request": "edgec.runtime.request",
    "Sequence": "edgec.runtime.sequence",
    "SequencePhase": "edgec.runtime.phases",
    "Session": "edgec.runtime.session",
    "StreamChunk": "edgec.runtime.results",
    "Timings": "edgec.runtime.results",
    "TokenFilter": "edgec.runtime.sampling",
    "TokenLogprobs": "edgec.runtime.results",
    "Usage": "edgec.runtime.results",
    "schema_filter": "edgec.runtime.structured",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'edgec.runtime' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
