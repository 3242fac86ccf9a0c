"""One generation: what each computed step means for its text. It computes nothing itself.

The core runs the steps on a sequence and hands each result to `accept`, which picks the token and
says what text came of it. Where the next token is the greedy one, the step after it can be queued
before it is read (`runs_ahead`): then the device computes while the host makes text of the last
token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq

from edgec.runtime.config import GenerationConfig
from edgec.runtime.results import (
    FinishReason,
    GenerationResult,
    StreamChunk,
    Timings,
    TokenLogprobs,
    Usage,
    peak_rss_mb,
)
from edgec.runtime.sampling import Sampler, TokenFilter, logprobs_of, not_finite
from edgec.runtime.step import Step
from edgec.runtime.stopping import StopStrings
from edgec.runtime.tokenizer import Detokenizer, Tokenizer

__all__ = ["Generation"]


class Generation:
    """The text that grows from a prompt: until a stop string, an end-of-text token, or a limit.

    Args:
        prompt: The whole prompt's ids.
        cached: How many of them are not computed, because the state holds them.
        config: With `max_new_tokens` given and known to fit in the context.
        vocab_size: The length of the logits.
        started: When the user called, as of `time.perf_counter`.
        token_filter: Narrows what may come next.
        logprobs: With each chunk its token's log-probability and those of this many of the most
            probable tokens; None for neither.
        prompt_logprobs: A list that fills with those of the prompt's tokens, for the result.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt: Seq[int],
        cached: int,
        config: GenerationConfig,
        vocab_size: int,
        started: float,
        token_filter: TokenFilter | None = None,
        logprobs: int | None = None,
        prompt_logprobs: Seq[TokenLogprobs] = (),
    ) -> None:
        assert config.max_new_tokens is not None
        self.tokens: list[int] = []
        self._config = config
        self._prompt_tokens, self._cached = len(prompt), cached
        self._sampler = Sampler(config, prompt, vocab_size, token_filter)
        self._logprobs = logprobs
        self._scores: list[TokenLogprobs] = []
        self._prompt_scores = prompt_logprobs
        self._text = Detokenizer(tokenizer, prompt)
        self._stops = StopStrings(config.stop_strings)
        # Special tokens have no text: a stop string that is one can only be seen as an id.
        self._ends = {tokenizer.special_id(stop) for stop in config.stop_strings}
        if not config.ignore_eos:
            self._ends.update(config.eos_token_id)
        self._pieces: list[str] = []
        self._started = started
        self._prompt_seconds = self._decode_seconds = self._first_token = 0.0
        self.resume()

    def resume(self) -> None:
        """Leaves the time since the last `accept` out of the timings (a consumer took it)."""
        self._since = time.perf_counter()

    @property
    def runs_ahead(self) -> bool:
        """Whether the step after the next token is needed, and needs no choice of that token.

        An end that only the token itself shows (end-of-text, a stop string) makes that step
        needless. Its sequence then holds the last token too, which is as good a prefix.
        """
        limit = self._config.max_new_tokens or 0
        greedy = not self._sampler.needs_logits and self._logprobs is None
        return greedy and len(self.tokens) + 1 < limit

    def accept(self, steps: Seq[Step]) -> list[StreamChunk]:
        """The next tokens, each chosen from a result and from the tokens before it.

        Args:
            steps: Results for positions that follow each other.

        Returns:
            A chunk for each token that is kept: fewer than results where the text ends among
            them. The last chunk of the text has the finish reason and the result.

        Raises:
            DeviceError: a result cannot be read, or its logits are not finite.
        """
        chunks: list[StreamChunk] = []
        for step in steps:
            chunks.append(self._accept(step))
            if chunks[-1].finish_reason is not None:
                break
        return chunks

    def _accept(self, step: Step) -> StreamChunk:
        logprobs: TokenLogprobs | None = None
        if self._sampler.needs_logits or self._logprobs is not None:
            logits = step.logits()
            raw = logits.copy() if self._logprobs is not None else logits
            token = self._sampler.pick(logits, self.tokens)
            if self._logprobs is not None:
                logprobs = logprobs_of(raw, token, self._logprobs)
                self._scores.append(logprobs)
        else:
            token = step.token()
            if token < 0:
                raise not_finite()
        self._sampler.accept(token)
        self._count(time.perf_counter())
        piece, finish = self._advance(token)
        if finish is None:
            return StreamChunk(piece, token, logprobs=logprobs)
        return StreamChunk(piece, token, finish, self.result(finish), logprobs)

    def result(self, finish: FinishReason) -> GenerationResult:
        """The text and tokens so far, as a result that ended for `finish`."""
        usage = Usage(self._prompt_tokens, len(self.tokens), self._cached)
        text = "".join(self._pieces)
        return GenerationResult(
            text,
            tuple(self.tokens),
            finish,
            usage,
            self._timings(usage),
            tuple(self._scores),
            tuple(self._prompt_scores),
        )

    def _advance(self, token: int) -> tuple[str, FinishReason | None]:
        """The text that `token` completes, and whether the generation ends with it."""
        piece, stopped = self._stops.feed(self._text.add(token))
        self.tokens.append(token)
        finish: FinishReason | None = None
        if stopped or token in self._ends:
            finish = "stop"
        elif len(self.tokens) == self._config.max_new_tokens or self._expired():
            finish = "length"
        if finish is not None and not stopped:
            rest, stopped = self._stops.feed(self._text.finish())
            piece += rest + self._stops.finish()
            finish = "stop" if stopped else finish
        self._pieces.append(piece)
        return piece, finish

    def _count(self, now: float) -> None:
        if self.tokens:
            self._decode_seconds += now - self._since
        else:
            self._prompt_seconds = now - self._since
            self._first_token = now - self._started
        self._since = now

    def _expired(self) -> bool:
        limit = self._config.max_time
        return limit is not None and time.perf_counter() - self._started >= limit

    def _timings(self, usage: Usage) -> Timings:
        computed, steps = usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens - 1
        prompt, decode = self._prompt_seconds, self._decode_seconds
        return Timings(
            prompt_ms=prompt * 1e3,
            prompt_per_second=computed / prompt if prompt else 0.0,
            decode_ms=decode * 1e3,
            decode_per_second=steps / decode if decode else 0.0,
            time_to_first_token_ms=self._first_token * 1e3,
            peak_rss_mb=peak_rss_mb(),
        )
