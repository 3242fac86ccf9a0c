"""Parts that all answers share: usage, timings, log-probabilities, and the log line's phases."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from edgec.runtime.results import GenerationResult, TokenLogprobs
from edgec.runtime.server.service import Served

__all__ = ["chat_logprobs", "log_result", "timings", "token_text", "usage"]

LEAST = -9999.0
"""OpenAI's stand-in for a log-probability of minus infinity, which JSON does not have."""


def usage(results: Sequence[GenerationResult]) -> dict[str, Any]:
    """OpenAI's `usage`. Choices share their prompt."""
    prompt = results[0].usage.prompt_tokens
    completion = sum(result.usage.completion_tokens for result in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": results[0].usage.cached_tokens},
    }


def timings(result: GenerationResult) -> dict[str, Any]:
    """llama.cpp's `timings`. `predicted_ms` leaves out the first token, which the prompt yields."""
    given, took = result.usage, result.timings
    computed, steps = given.prompt_tokens - given.cached_tokens, given.completion_tokens - 1
    return {
        "cache_n": given.cached_tokens,
        "prompt_n": computed,
        "prompt_ms": round(took.prompt_ms, 3),
        "prompt_per_token_ms": round(took.prompt_ms / computed, 3) if computed else 0.0,
        "prompt_per_second": round(took.prompt_per_second, 3),
        "predicted_n": given.completion_tokens,
        "predicted_ms": round(took.decode_ms, 3),
        "predicted_per_token_ms": round(took.decode_ms / steps, 3) if steps > 0 else 0.0,
        "predicted_per_second": round(took.decode_per_second, 3),
    }


def log_result(log: MutableMapping[str, Any], result: GenerationResult) -> None:
    """Adds a generation to the line of its request; those of several choices add up."""
    given, took = result.usage, result.timings
    log.setdefault("prompt_tokens", given.prompt_tokens)
    log.setdefault("cached_tokens", given.cached_tokens)
    log.setdefault("first_token_ms", round(took.time_to_first_token_ms, 3))
    log["completion_tokens"] = log.get("completion_tokens", 0) + given.completion_tokens
    phases = log.setdefault("phases", {"waiting_ms": 0.0, "prefill_ms": 0.0, "decode_ms": 0.0})
    # Until the first token a request waits (for memory, for others' chunks) or computes.
    waiting = took.time_to_first_token_ms - took.prompt_ms
    for phase, milliseconds in zip(
        phases, (max(0.0, waiting), took.prompt_ms, took.decode_ms), strict=True
    ):
        phases[phase] = round(phases[phase] + milliseconds, 3)
    log.setdefault("finish_reason", []).append(result.finish_reason)


def token_text(served: Served, token: int) -> tuple[str, list[int]]:
    """A token's text, where it is whole characters, and its bytes."""
    data = served.grammars.piece(token)
    return data.decode("utf-8", "replace"), list(data)


def chat_logprobs(served: Served, token: int, given: TokenLogprobs) -> dict[str, Any]:
    """An entry of `logprobs.content`."""

    def entry(token: int, value: float) -> dict[str, Any]:
        text, data = token_text(served, token)
        return {"token": text, "logprob": max(value, LEAST), "bytes": data}

    top = [entry(*each) for each in given.top]
    return {**entry(token, given.token), "top_logprobs": top}
