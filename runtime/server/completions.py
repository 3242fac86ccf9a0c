"""POST /v1/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from edgec.runtime.request import Request
from edgec.runtime.results import GenerationResult, StreamChunk
from edgec.runtime.server import answers
from edgec.runtime.server.calls import (
    Call,
    answer_limit,
    make_filter,
    make_grammar,
    sampling_options,
)
from edgec.runtime.server.echo import (
    echo_text,
    new_logprobs,
    prompt_logprobs,
    token_logprobs,
)
from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.schemas import MOST_CHOICES, CompletionRequest
from edgec.runtime.server.service import Served, Service
from edgec.runtime.server.stream import event, merge

__all__ = ["CompletionAnswer", "prepare_completion"]


async def prepare_completion(
    service: Service, served: Served, body: CompletionRequest
) -> list[Call]:
    """A call for each choice, those of one prompt together.

    Raises:
        ApiError: the request cannot be honoured.
    """
    prompts = _prompts(body.prompt)
    if not prompts or len(prompts) * (body.n or 1) > MOST_CHOICES:
        raise ApiError(
            400, f"prompt: from 1 to {MOST_CHOICES} choices in all", param="prompt",
            code="invalid_value",
        )  # fmt: skip
    grammar = await run_in_threadpool(make_grammar, served, body) if body.formats() else None
    filters = make_filter(served, body, grammar)
    score = bool(body.echo) and (body.logprobs is not None or body.limit == 0)
    calls = []
    for prompt in prompts:
        ids = prompt
        if isinstance(ids, str):
            ids = await run_in_threadpool(served.encode, ids, "prompt")
        elif ids and not 0 <= min(ids) <= max(ids) < served.model.vocab_size:
            raise ApiError(
                400, f"prompt: token ids are 0 to {served.model.vocab_size - 1}", param="prompt",
                code="invalid_value",
            )  # fmt: skip
        limit = answer_limit(served, ids, body.limit, "prompt")
        echo = echo_text(served, prompt) if body.echo else ""
        for choice in range(body.n or 1):
            calls.append(
                Call(
                    ids,
                    sampling_options(served, body, limit, choice),
                    filters(),
                    body.logprobs,
                    body.session_id,
                    body.cache_prompt is not False,
                    service.options.timeout,
                    score,
                    echo,
                )
            )
    return calls


def _prompts(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    return [prompt for prompt in given if not isinstance(prompt, int)]


class CompletionAnswer:
    """The answer to a completion, whole or as a stream."""

    def __init__(
        self, service: Service, served: Served, body: CompletionRequest,
        calls: Sequence[Call], requests: Sequence[Request], log: dict[str, Any],
    ) -> None:  # fmt: skip
        self._service = service
        self._served = served
        self._body = body
        self._requests = requests
        self._log = log
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._calls = calls
        self._texts: list[list[str]] = [[] for _ in requests]
        self._lengths = [0] * len(requests)
        self._begun = [False] * len(requests)
        self._logprobs: list[dict[str, list[Any]]] = [new_logprobs() for _ in requests]
        self._results: list[GenerationResult | None] = [None] * len(requests)

    async def whole(self) -> dict[str, Any]:
        """The answer when it is complete."""
        async for index, chunk in merge(self._requests):
            self._take(index, chunk)
        choices = []
        answer = self._head()
        for index, request in enumerate(self._requests):
            if (result := self._results[index]) is None:
                result = await self._scored(index, request)
            logprobs = self._logprobs[index] if self._body.logprobs is not None else None
            text = self._calls[index].echo + "".join(self._texts[index])
            choices.append(self._choice(index, text, logprobs, result.finish_reason))
            if len(self._results) == 1:
                answer["timings"] = answers.timings(result)
        return {**answer, "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events; the first is there only when a token is."""
        head = self._head()
        with_usage = bool(self._body.stream_options and self._body.stream_options.include_usage)
        if with_usage:
            head["usage"] = None
        async for index, chunk in merge(self._requests):
            begins = not self._begun[index]
            logprobs = self._take(index, chunk)
            text = chunk.text
            if begins:
                text = self._calls[index].echo + text
            reason = chunk.finish_reason
            if not (text or logprobs or reason):
                continue
            data = {**head, "choices": [self._choice(index, text, logprobs, reason)]}
            if chunk.result is not None and len(self._requests) == 1:
                data["timings"] = answers.timings(chunk.result)
            yield event(data)
        for index, request in enumerate(self._requests):
            if self._results[index] is None:
                result = await self._scored(index, request)
                logprobs = self._logprobs[index] if self._body.logprobs is not None else None
                text, reason = self._calls[index].echo, result.finish_reason
                yield event({**head, "choices": [self._choice(index, text, logprobs, reason)]})
        if with_usage:
            yield event({**head, "choices": [], "usage": self._usage()})

    @staticmethod
    def _choice(index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _take(self, index: int, chunk: StreamChunk) -> dict[str, list[Any]] | None:
        """Notes a chunk; the log-probabilities it brings."""
        call = self._calls[index]
        new = self._begin(index)
        # The token that ends a text is none of it; but who scores a text with one token more
        # counts on that one.
        ends = chunk.finish_reason == "stop" and chunk.token in self._served.eos
        if chunk.logprobs is not None and (call.score_prompt or not ends):
            new = new or new_logprobs()
            offset = len(call.echo) + self._lengths[index]
            entry = token_logprobs(self._served, chunk.token, chunk.logprobs, offset)
            for name, value in entry.items():
                new[name].append(value)
        for name, values in (new or {}).items():
            self._logprobs[index][name] += values
        self._texts[index].append(chunk.text)
        self._lengths[index] += len(chunk.text)
        if chunk.result is not None:
            self._note(index, chunk.result)
        return new

    def _begin(self, index: int) -> dict[str, list[Any]] | None:
        """The prompt's log-probabilities, once."""
        call = self._calls[index]
        begun, self._begun[index] = self._begun[index], True
        if begun or not call.score_prompt:
            return None
        scores = self._requests[index].prompt_logprobs
        return prompt_logprobs(self._served, call.echo, call.ids, scores)

    async def _scored(self, index: int, request: Request) -> GenerationResult:
        """The result of a request that generates nothing."""
        result = await request.wait()
        for name, values in (self._begin(index) or {}).items():
            self._logprobs[index][name] += values
        self._note(index, result)
        return result

    def _note(self, index: int, result: GenerationResult) -> None:
        self._results[index] = result
        answers.log_result(self._log, result)
        self._service.metrics.generated(result)

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._served.name,
            "system_fingerprint": self._served.fingerprint,
        }

    def _usage(self) -> dict[str, Any]:
        results = [result for result in self._results if result is not None]
        # Several prompts: each is counted once.
        each = self._body.n or 1
        prompts = [answers.usage(results[at : at + each]) for at in range(0, len(results), each)]
        usage = prompts[0]
        for other in prompts[1:]:
            for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
                usage[key] += other[key]
            details = usage["prompt_tokens_details"]
            details["cached_tokens"] += other["prompt_tokens_details"]["cached_tokens"]
        return usage
