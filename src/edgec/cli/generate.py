"""What `run` and `chat` share: opening a session, streaming an answer, its timings as a line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.errors import InputError
from edgec.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from edgec.runtime import GenerationResult, Session

__all__ = ["is_artifact", "open_session", "stream_text", "timing_line"]


def is_artifact(where: str) -> bool:
    """Whether an argument means an artifact folder rather than a model to compile first."""
    path = Path(where)
    if path.is_dir():
        return (path / MANIFEST_NAME).exists() or not (path / "config.json").exists()
    return path.exists() or path.suffix == ".edgec"


def open_session(
    command: str, where: str, *, device: str, threads: int | None, quiet: bool, **options: Any
) -> Session:
    """Loads an artifact; a model is compiled into the cache first, with `options`."""
    from edgec.runtime import Session

    if is_artifact(where):
        return Session(where, device=device, threads=threads)
    from edgec.cli.compile import compile_with_progress

    artifact, _, _ = compile_with_progress(
        f"{command} with a model", where, quiet=quiet, target=device, **options
    )
    return Session(artifact, device=device, threads=threads)


def stream_text(session: Session, prompt: Any, **generation: Any) -> GenerationResult:
    """Writes an answer to stdout as it comes, ended by a newline, and returns its result."""
    result = None
    try:
        for chunk in session.stream(prompt, **generation):
            sys.stdout.write(chunk.text)
            sys.stdout.flush()
            result = chunk.result or result
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()
    if result is None:
        raise InputError("nothing was generated", "ask for at least one new token")
    return result


def timing_line(result: GenerationResult) -> str:
    """`prompt 12 tokens 345 tok/s · decode 64 tokens 210 tok/s · first token 12 ms · …`"""
    values = result.to_dict()
    usage, timings = values["usage"], values["timings"]
    cached = usage["cached_tokens"]
    computed = usage["prompt_tokens"] - cached
    parts = [
        f"prompt {computed} tokens {timings['prompt_per_second']:.0f} tok/s",
        f"decode {usage['completion_tokens']} tokens {timings['decode_per_second']:.0f} tok/s",
        f"first token {timings['time_to_first_token_ms']:.0f} ms",
        f"peak {timings['peak_rss_mb']:.0f} MB",
    ]
    if cached:
        parts.insert(0, f"cached {cached} tokens")
    return " · ".join(parts)
