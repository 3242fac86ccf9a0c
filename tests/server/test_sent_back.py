"""Messages of answers, sent back as the official client and others hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.server.conftest import Server
from tests.server.test_openai import QUESTION, WEATHER

STRICT: dict[str, Any] = {
    "type": "function",
    "function": {**WEATHER["function"], "strict": True},
}
ASK: dict[str, Any] = {
    "model": "tiny", "tools": [STRICT], "tool_choice": "required", "max_tokens": 200,
    "parallel_tool_calls": False, "temperature": 0,
}  # fmt: skip


def created(server: Server, messages: list[Any]) -> Any:
    answer = server.client.chat.completions.create(messages=messages, **ASK)
    return answer.choices[0].message


def parsed(server: Server, messages: list[Any]) -> Any:
    answer = server.client.chat.completions.parse(messages=messages, **ASK)
    message: Any = answer.choices[0].message
    assert message.tool_calls[0].function.parsed_arguments["city"] in ("Rome", "Oslo")
    return message


def streamed(server: Server, messages: list[Any]) -> Any:
    with server.client.chat.completions.stream(messages=messages, **ASK) as stream:
        return stream.get_final_completion().choices[0].message


def joined(server: Server, messages: list[Any]) -> Any:
    """A stream's deltas put together by hand, with what they are made of left in."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
    stream = server.client.chat.completions.create(messages=messages, stream=True, **ASK)
    for chunk in stream:
        message["tool_calls"] += [
            call.model_dump() for call in chunk.choices[0].delta.tool_calls or []
        ]
    assert message["tool_calls"][0]["index"] == 0
    return message


def like_litellm(server: Server, messages: list[Any]) -> Any:
    return {
        **created(server, messages).model_dump(),
        "provider_specific_fields": {"refusal": None}, "annotations": [], "audio": None,
        "function_call": None, "reasoning": None, "reasoning_content": None,
        "thinking_blocks": None, "images": [],
    }  # fmt: skip


WAYS: list[Callable[[Any], Any]] = [
    lambda message: message,
    lambda message: message.model_dump(),
    lambda message: message.model_dump(exclude_none=True),
    lambda message: message.model_dump(mode="json", by_alias=True),
    lambda message: message.to_dict(),
    lambda message: {**message.model_dump(), "content": ""},
]


@pytest.mark.parametrize(
    ("source", "way"),
    [(source, way) for source in (created, parsed, streamed) for way in WAYS]
    + [(joined, WAYS[0]), (like_litellm, WAYS[0])],
)
def test_agent_loop_with_tools(
    tool_server: Server, source: Callable[..., Any], way: Callable[[Any], Any]
) -> None:
    messages: list[Any] = list(QUESTION)
    for _ in range(2):
        message = source(tool_server, messages)
        sent = way(message)
        calls = sent["tool_calls"] if isinstance(sent, dict) else sent.tool_calls
        assert len(calls) == 1
        call = calls[0] if isinstance(calls[0], dict) else calls[0].model_dump()
        messages += [sent, {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}]
    last = tool_server.client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    assert last.choices[0].finish_reason in ("length", "stop")


@pytest.mark.parametrize("way", WAYS)
def test_conversation_without_tools(server: Server, way: Callable[[Any], Any]) -> None:
    messages: list[Any] = list(QUESTION)
    for number in range(3):
        completions = server.client.chat.completions
        # parse raises for an answer that was cut.
        ask: Any = completions.parse if number == 1 else completions.create
        answer = ask(model="bundled:tiny-dense", messages=messages, stop=["e"], temperature=0)
        assert answer.usage.prompt_tokens > 8 * number
        messages += [way(answer.choices[0].message), {"role": "user", "content": "And then?"}]


def test_what_is_sent_back_is_the_same_prompt(tool_server: Server) -> None:
    """Additions of clients to a message of their own change no token of the prompt."""
    message = created(tool_server, QUESTION)
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    counts = set()
    plain = {
        "role": "assistant",
        "tool_calls": [
            {
                "id": message.tool_calls[0].id, "type": "function",
                "function": {
                    "name": "get_weather",
                    "arguments": message.tool_calls[0].function.arguments,
                },
            }
        ],
    }  # fmt: skip
    for sent in (plain, *[way(message) for way in WAYS[:-1]], like_litellm(tool_server, QUESTION)):
        answer = tool_server.client.chat.completions.create(
            model="tiny", messages=[*QUESTION, sent, result], max_tokens=1
        )
        assert answer.usage is not None
        counts.add(answer.usage.prompt_tokens)
    assert len(counts) == 1
