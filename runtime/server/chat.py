"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
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
from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.grammar import GrammarFilter
from edgec.runtime.server.messages import for_template, template_variables
from edgec.runtime.server.schemas import ChatRequest, NamedTool, Tool
from edgec.runtime.server.service import Served, Service
from edgec.runtime.server.stream import event, merge
from edgec.runtime.server.tool_grammar import tool_grammar
from edgec.runtime.server.tools import FORMATS, ToolCall, ToolParser

__all__ = ["ChatAnswer", "prepare_chat"]


async def prepare_chat(service: Service, served: Served, body: ChatRequest) -> list[Call]:
    """A call for each choice.

    Raises:
        ApiError: the request cannot be honoured.
    """
    tools = _tools_for(served, body)
    if served.template is None:
        raise ApiError(
            400, "this model has no chat template: use /v1/completions", param="messages",
            code="no_chat_template",
        )  # fmt: skip
    messages = for_template(body.messages, served.tool_format)
    prompt = await served.template.render(messages, template_variables(served, body, tools))
    ids = await run_in_threadpool(served.encode, prompt, "messages", add_special_tokens=False)
    limit = answer_limit(served, ids, body.limit, "messages")
    grammar = await run_in_threadpool(_grammar, served, body, tools)
    filters = make_filter(served, body, grammar)
    return [
        Call(
            ids,
            sampling_options(served, body, limit, choice),
            filters(),
            (body.top_logprobs or 0) if body.logprobs else None,
            body.session_id,
            body.cache_prompt is not False,
            service.options.timeout,
        )
        for choice in range(body.n or 1)
    ]


def _tools_for(served: Served, body: ChatRequest) -> list[Tool]:
    """The tools that may be called."""
    if not body.tools or body.tool_choice == "none":
        return []
    if served.tool_format is None:
        what = "writes tool calls in no form known here" if served.has_tools else "has no tools"
        raise ApiError(
            400, f"this model's chat template {what}", param="tools", code="unsupported_tools"
        )
    names = [tool.function.name for tool in body.tools]
    if len(set(names)) < len(names):
        raise ApiError(400, "tools: two have one name", param="tools", code="invalid_value")
    if isinstance(body.tool_choice, NamedTool):
        chosen = body.tool_choice.function.name
        if chosen not in names:
            raise ApiError(
                400, f"tool_choice: there is no tool {chosen!r}", param="tool_choice",
                code="invalid_value",
            )  # fmt: skip
        return [tool for tool in body.tools if tool.function.name == chosen]
    return body.tools


def _grammar(served: Served, body: ChatRequest, tools: Sequence[Tool]) -> GrammarFilter | None:
    """The constraint that the answer must match, if any."""
    forced = bool(tools) and body.tool_choice not in (None, "auto")
    parallel = body.parallel_tool_calls is not False
    strict = any(tool.function.strict for tool in tools) or not parallel
    if formats := body.formats():
        if tools:
            raise ApiError(
                400, f"{formats[0]}: not together with tools: only one of them can say what the "
                "answer looks like", param=formats[0], code="invalid_value",
            )  # fmt: skip
        return make_grammar(served, body)
    if not tools or not (forced or strict):
        return None
    assert served.tool_format is not None
    functions = [tool.function for tool in tools]
    lark = tool_grammar(
        served.tool_format, functions, served.grammars.marker, forced=forced, parallel=parallel
    )
    return served.grammars.from_tools(lark)


@dataclass
class Choice:
    """The outcome of one generation."""

    parser: ToolParser | None
    content: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    result: GenerationResult | None = None

    @property
    def finish_reason(self) -> str:
        assert self.result is not None
        stopped = self.result.finish_reason == "stop"
        return "tool_calls" if self.calls and stopped else self.result.finish_reason


class ChatAnswer:
    """The answer to a chat, whole or as a stream."""

    def __init__(
        self, service: Service, served: Served, body: ChatRequest, requests: Sequence[Request],
        log: dict[str, Any],
    ) -> None:  # fmt: skip
        self._service = service
        self._served = served
        self._body = body
        self._requests = requests
        self._log = log
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._markers: dict[int | None, str] = {}
        tools = _tools_for(served, body)
        if tools and served.tool_format is not None:
            form = FORMATS[served.tool_format]
            # Of the markers, those that are special tokens do not show in the text.
            special = served.model.tokenizer.special_id
            self._markers = {special(m): m for m in form.markers if special(m) is not None}
        self._choices = [Choice(self._parser(tools)) for _ in requests]

    def _parser(self, tools: Sequence[Tool]) -> ToolParser | None:
        if not tools or self._served.tool_format is None:
            return None
        functions = {tool.function.name: tool.function for tool in tools}
        forced = self._body.tool_choice not in (None, "auto")
        return ToolParser(FORMATS[self._served.tool_format], functions, forced=forced)

    async def whole(self) -> dict[str, Any]:
        """The answer when it is complete."""
        async for index, chunk in merge(self._requests):
            self._take(index, chunk)
        choices = []
        answer = self._head("chat.completion")
        for index, choice in enumerate(self._choices):
            content = "".join(choice.content)
            message: dict[str, Any] = {
                "role": "assistant",
                "content": content if content or not choice.calls else None,
                "refusal": None,
            }
            if choice.calls:
                message["tool_calls"] = [call.to_dict() for call in choice.calls]
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": {"content": choice.logprobs, "refusal": None}
                    if self._body.logprobs
                    else None,
                    "finish_reason": choice.finish_reason,
                }
            )
            if choice.result is not None and len(self._choices) == 1:
                answer["timings"] = answers.timings(choice.result)
        return {**answer, "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events; the first is there only when a token is."""
        head = self._head("chat.completion.chunk")
        with_usage = bool(self._body.stream_options and self._body.stream_options.include_usage)
        if with_usage:
            head["usage"] = None
        begun: set[int] = set()

        def chunk_of(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            return {**head, "choices": [{**choice, **more}]}

        async for index, chunk in merge(self._requests):
            if index not in begun:
                begun.add(index)
                yield event(chunk_of(index, {"role": "assistant", "content": ""}))
            deltas, logprobs = self._take(index, chunk)
            if logprobs and not deltas:
                deltas = [{"content": ""}]
            for delta in deltas:
                more: dict[str, Any] = {}
                if logprobs:
                    more["logprobs"], logprobs = {"content": logprobs, "refusal": None}, []
                yield event(chunk_of(index, delta, **more))
            if chunk.result is not None:
                reason = self._choices[index].finish_reason
                last = chunk_of(index, {}, finish_reason=reason)
                if len(self._requests) == 1:
                    last["timings"] = answers.timings(chunk.result)
                yield event(last)
        if with_usage:
            yield event({**head, "choices": [], "usage": self._usage()})

    def _take(
        self, index: int, chunk: StreamChunk
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Deltas and log-probabilities that a chunk brings."""
        choice = self._choices[index]
        deltas: list[dict[str, Any]] = []
        text = chunk.text + self._markers.get(chunk.token, "")
        parts: list[str | ToolCall] = [text] if text else []
        if choice.parser is not None:
            parts = list(choice.parser.feed(text))
            if chunk.result is not None:
                parts += choice.parser.finish(cut=chunk.finish_reason == "length")
        for part in parts:
            if isinstance(part, str):
                choice.content.append(part)
                deltas.append({"content": part})
            else:
                call = {"index": len(choice.calls), **part.to_dict()}
                choice.calls.append(part)
                deltas.append({"tool_calls": [call]})
        logprobs = []
        # The token that ends a text is none of it.
        ends = chunk.finish_reason == "stop" and chunk.token in self._served.eos
        if chunk.logprobs is not None and not ends:
            logprobs = [answers.chat_logprobs(self._served, chunk.token, chunk.logprobs)]
            choice.logprobs += logprobs
        if chunk.result is not None:
            choice.result = chunk.result
            answers.log_result(self._log, chunk.result)
            self._service.metrics.generated(chunk.result)
        return deltas, logprobs

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": int(time.time()),
            "model": self._served.name,
            "system_fingerprint": self._served.fingerprint,
        }

    def _usage(self) -> dict[str, Any]:
        return answers.usage([c.result for c in self._choices if c.result is not None])
