"""The results of generation."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "FinishReason",
    "GenerationResult",
    "StreamChunk",
    "Timings",
    "TokenLogprobs",
    "Usage",
    "peak_rss_mb",
]

FinishReason = Literal["stop", "length", "cancelled"]
"""`stop`: an end-of-text token or a stop string; `length`: a limit of tokens or time;
`cancelled`: whoever asked for it no longer wants it."""


@dataclass(frozen=True)
class Usage:
    """Counts of tokens.

    Args:
        prompt_tokens: Tokens of the full prompt.
        completion_tokens: Generated tokens, with an end-of-text token.
        cached_tokens: Tokens of the prompt that the state held already.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Timings:
    """How long a generation took.

    Args:
        prompt_ms: Milliseconds to compute the prompt's new tokens.
        prompt_per_second: Prompt tokens computed per second; cached ones do not count.
        decode_ms: Milliseconds for all generated tokens but the first, which the prompt yields;
            time that the consumer of a stream spends is left out.
        decode_per_second: Those tokens per second; 0 when there are none.
        time_to_first_token_ms: Milliseconds from the call to the first token's text.
        peak_rss_mb: The process's largest resident memory so far, in MB (10^6 bytes).
    """

    prompt_ms: float
    prompt_per_second: float
    decode_ms: float
    decode_per_second: float
    time_to_first_token_ms: float
    peak_rss_mb: float


@dataclass(frozen=True, repr=False)
class GenerationResult:
    """A finished generation.

    Args:
        text: The generated text, without special tokens and without the stop string.
        tokens: The generated ids, with those of an end-of-text token or a stop string.
        finish_reason: `stop` after an end-of-text token or a stop string, `length` after a limit
            of tokens or time, `cancelled` if nobody wants the rest.
        usage: Counts of tokens.
        timings: Milliseconds, and tokens per second.
        logprobs: Log-probabilities of each token, where they were asked for; else empty.
        prompt_logprobs: With `score_prompt`, an entry for each token of the prompt but the first.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the same keys; log-probabilities where they were asked for."""
        found = {**dataclasses.asdict(self), "tokens": list(self.tokens)}
        for name in ("logprobs", "prompt_logprobs"):
            if not found[name]:
                del found[name]
        return found

    def __repr__(self) -> str:
        usage, timings = self.usage, self.timings
        cached = f", {usage.cached_tokens} cached" if usage.cached_tokens else ""
        return (
            f"GenerationResult({self.text!r}, finish_reason={self.finish_reason!r}, "
            f"prompt {usage.prompt_tokens} tokens{cached} at {timings.prompt_per_second:.1f}/s, "
            f"generated {usage.completion_tokens} at {timings.decode_per_second:.1f}/s)"
        )


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of probabilities, by the model alone: before penalties, filters and
    temperature.

    Args:
        token: The log-probability of the chosen token.
        top: Ids and log-probabilities of the most probable tokens, the most probable first.
    """

    token: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class StreamChunk:
    """One generated token, and the text that it completed (often none, or several characters).

    Args:
        text: Whole characters; all chunks together are the result's text.
        token: The generated id.
        finish_reason: Why the generation ended, in the last chunk only.
        result: The whole generation with its usage and timings, in the last chunk only.
        logprobs: Log-probabilities of the token, where they were asked for.
    """

    text: str
    token: int
    finish_reason: FinishReason | None = None
    result: GenerationResult | None = None
    logprobs: TokenLogprobs | None = None


def peak_rss_mb() -> float:
    """The process's largest resident set so far, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its maximum survives exec and may be the parent's.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
