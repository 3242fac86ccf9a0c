"""Shared by `run` and `chat`: opening a session, streaming an answer, its timings as a line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.cli.wrap import WordWrap
from edgec.errors import InputError
from edgec.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgec.runtime import GenerationResult, Session, StreamChunk

__all__ = ["is_artifact", "open_session", "print_stream", "timing_line"]


def is_artifact(where: str) -> bool:
    """Whether an argument means an artifact folder rather than a model to compile first."""
    path = Path(where)
    if path.is_dir():
        return (path / MANIFEST_NAME).exists() or not (path / "config.json").exists()
    return path.exists() or path.suffix == ".edgec"


def open_session(
    command: str,
    where: str,
    *,
    device: str | None,
    threads: int | None,
    expect: str | None,
    quiet: bool,
    **options: Any,
) -> Session:
    """Loads an artifact; a model is compiled into the cache first, with `options`."""
    from edgec.artifact import Artifact
    from edgec.runtime import Session

    if is_artifact(where):
        return Session(Artifact.open(where, expect), device=device, threads=threads)
    if expect is not None:
        raise InputError(
            f"--expect: is for an artifact, and {where} is a model", "compile it first, with -o"
        )
    from edgec.cli.compile import compile_with_progress

    artifact = compile_with_progress(
        f"{command} with a model", where, quiet=quiet, target=device or "cpu", **options
    )
    assert artifact is not None
    return Session(artifact, device=device, threads=threads)


def print_stream(chunks: Iterator[StreamChunk], wrap: bool = False) -> Iterator[StreamChunk]:
    """Writes an answer to stdout as it comes, and a newline after it, however it ends.

    Args:
        chunks: The answer.
        wrap: Whether stdout is a terminal on which words should stay whole.
    """
    write = WordWrap(sys.stdout).write if wrap else sys.stdout.write
    try:
        for chunk in chunks:
            write(chunk.text)
            sys.stdout.flush()
            yield chunk
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


def timing_line(result: GenerationResult) -> str:
    """`prompt 12 tokens 345 tok/s · decode 64 tokens 210 tok/s · first token 12 ms · …`"""
    usage, timings = result.usage, result.timings
    computed = usage.prompt_tokens - usage.cached_tokens
    parts = [
        f"prompt {computed} tokens {timings.prompt_per_second:.0f} tok/s",
        f"decode {usage.completion_tokens} tokens {timings.decode_per_second:.0f} tok/s",
        f"first token {timings.time_to_first_token_ms:.0f} ms",
        f"peak {timings.peak_rss_mb:.0f} MB",
    ]
    if usage.cached_tokens:
        parts.insert(0, f"cached {usage.cached_tokens} tokens")
    return " · ".join(parts)
