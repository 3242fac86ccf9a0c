"""The generation loop: from a prompt's ids to token ids, and from those to chunks of text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from edgec.runtime.config import GenerationConfig
from edgec.runtime.results import (
    FinishReason,
    GenerationResult,
    StreamChunk,
    Timings,
    Usage,
    peak_rss_mb,
)
from edgec.runtime.sampling import Sampler
from edgec.runtime.sequence import Sequence
from edgec.runtime.stopping import StopStrings
from edgec.runtime.tokenizer import Detokenizer, Tokenizer

__all__ = ["Clock", "generate_chunks", "generate_tokens"]


@dataclass
class Clock:
    """Seconds spent in a generation so far. `started` is a `time.perf_counter` value."""

    started: float
    prompt: float = 0.0
    decode: float = 0.0
    first_token: float = 0.0


def generate_tokens(
    sequence: Sequence, prompt: Seq[int], cached: int, config: GenerationConfig, clock: Clock
) -> Iterator[int]:
    """Generates ids without end; the consumer stops. A token enters the state one step later.

    Args:
        sequence: Holds the first `cached` tokens of `prompt`, and nothing else.
        prompt: The whole prompt's ids.
    """
    sampler = Sampler(config, prompt, sequence.vocab_size)
    before = time.perf_counter()
    step = sequence.extend(prompt[cached:])
    while True:
        token = sampler.pick(step.logits()) if sampler.needs_logits else step.token()
        sampler.accept(token)
        elapsed = time.perf_counter() - before
        if clock.prompt == 0.0:
            clock.prompt = elapsed
        else:
            clock.decode += elapsed
        yield token
        before = time.perf_counter()
        step = sequence.step(token)


def generate_chunks(
    sequence: Sequence,
    tokenizer: Tokenizer,
    prompt: Seq[int],
    cached: int,
    config: GenerationConfig,
    started: float,
) -> Iterator[StreamChunk]:
    """Generates text until a stop string, an end-of-text token, or a limit.

    Args:
        config: With `max_new_tokens` given and known to fit in the context.
        started: When the user called, as of `time.perf_counter`.

    Yields:
        One chunk for each token; the last has the finish reason and the result.
    """
    assert config.max_new_tokens is not None
    clock = Clock(started)
    text = Detokenizer(tokenizer, prompt)
    stops = StopStrings(config.stop_strings)
    # Special tokens have no text: a stop string that is one can only be seen as an id.
    ends = {tokenizer.special_id(stop) for stop in config.stop_strings}
    if not config.ignore_eos:
        ends.update(config.eos_token_id)
    pieces: list[str] = []
    tokens: list[int] = []
    for token in generate_tokens(sequence, prompt, cached, config, clock):
        piece, stopped = stops.feed(text.add(token))
        finish: FinishReason | None = None
        if stopped or token in ends:
            finish = "stop"
        elif len(tokens) + 1 == config.max_new_tokens or _expired(started, config.max_time):
            finish = "length"
        if finish is not None and not stopped:
            rest, stopped = stops.feed(text.finish())
            piece += rest + stops.finish()
            finish = "stop" if stopped else finish
        if not tokens:
            clock.first_token = time.perf_counter() - started
        tokens.append(token)
        pieces.append(piece)
        if finish is None:
            yield StreamChunk(piece, token)
            continue
        usage = Usage(len(prompt), len(tokens), cached)
        result = GenerationResult(
            "".join(pieces), tuple(tokens), finish, usage, _timings(clock, usage)
        )
        yield StreamChunk(piece, token, finish, result)
        return


def _expired(started: float, limit: float | None) -> bool:
    return limit is not None and time.perf_counter() - started >= limit


def _timings(clock: Clock, usage: Usage) -> Timings:
    computed, steps = usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens - 1
    return Timings(
        prompt_ms=clock.prompt * 1e3,
        prompt_per_second=computed / clock.prompt if clock.prompt else 0.0,
        decode_ms=clock.decode * 1e3,
        decode_per_second=steps / clock.decode if clock.decode else 0.0,
        time_to_first_token_ms=clock.first_token * 1e3,
        peak_rss_mb=peak_rss_mb(),
    )
