"""The messages and fields that clients send, as templates see them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgec.runtime.chat import ChatTemplate
from edgec.runtime.server.messages import for_template, template_variables, unused_variables
from edgec.runtime.server.schemas import ChatRequest

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
SEEN = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def request(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": list(messages), **fields})


def seen(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return for_template(request(*messages).messages)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}),
        ({"role": "developer", "content": "Hi"}, {"role": "system", "content": "Hi"}),
        ({"role": "user", "content": None}, {"role": "user", "content": ""}),
        ({"role": "assistant"}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
        (
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}],
            },
            {"role": "user", "content": "ab"},
        ),
        (
            {"role": "tool", "content": None, "tool_call_id": "c1"},
            {"role": "tool", "content": "", "tool_call_id": "c1"},
        ),
        (
            {"role": "function", "name": "f", "content": "1"},
            {"role": "tool", "name": "f", "content": "1"},
        ),
        # DeepSeek's name, and OpenRouter's.
        (
            {"role": "assistant", "content": "a", "reasoning": "r"},
            {"role": "assistant", "content": "a", "reasoning_content": "r"},
        ),
        (
            {"role": "assistant", "content": "a", "reasoning_content": "r", "reasoning": "s"},
            {"role": "assistant", "content": "a", "reasoning_content": "r"},
        ),
        # transformers leaves out keys that are null.
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "assistant", "tool_calls": [SEEN]},
        ),
        (
            {"role": "assistant", "content": "", "tool_calls": [{**CALL, "index": 0}]},
            {"role": "assistant", "content": "", "tool_calls": [SEEN]},
        ),
    ],
)  # fmt: skip
def test_message(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert seen(given) == [expected]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}), (" ", {}), (None, {}), ({}, {}), ("{}", {}), ({"x": 1}, {"x": 1}),
        ('{"x": 1}', {"x": 1}), ('{"x": "cut', '{"x": "cut'),
    ],
)  # fmt: skip
def test_arguments(arguments: Any, expected: Any) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    (message,) = seen({"role": "assistant", "tool_calls": [call]})
    assert message["tool_calls"][0]["function"]["arguments"] == expected
    del call["function"]["arguments"]  # type: ignore[attr-defined]
    (message,) = seen({"role": "assistant", "tool_calls": [call]})
    assert message["tool_calls"][0]["function"]["arguments"] == {}


def test_calls_without_ids() -> None:
    call = {"function": {"name": "f", "arguments": ""}}
    messages = seen(
        {"role": "assistant", "tool_calls": [call, call]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "3"},
    )
    ids = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    assert len(set(ids)) == 3
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ids


def served(source: str) -> Any:
    return SimpleNamespace(model=SimpleNamespace(chat_template=ChatTemplate(source, {})))


def test_effort_and_verbosity_are_for_templates_that_have_them() -> None:
    body = request({"role": "user", "content": "x"}, reasoning_effort="low", verbosity="high")
    plain, both = served("{{ messages }}"), served("{{ reasoning_effort }} {{ verbosity }}")
    assert template_variables(plain, body, []) == {}
    assert unused_variables(plain, body) == ["reasoning_effort", "verbosity"]
    assert template_variables(both, body, []) == {"reasoning_effort": "low", "verbosity": "high"}
    assert unused_variables(both, body) == []
    own = request(
        {"role": "user", "content": "x"}, reasoning_effort="low",
        chat_template_kwargs={"reasoning_effort": "high"},
    )  # fmt: skip
    assert template_variables(both, own, []) == {"reasoning_effort": "high"}


def test_no_effort_is_no_thinking() -> None:
    body = request({"role": "user", "content": "x"}, reasoning_effort="none")
    thinker = served("{% if enable_thinking %}")
    assert template_variables(thinker, body, []) == {"enable_thinking": False}
    assert unused_variables(thinker, body) == []
    low = request({"role": "user", "content": "x"}, reasoning_effort="low")
    assert template_variables(thinker, low, []) == {}
    assert unused_variables(thinker, low) == ["reasoning_effort"]


def test_tools_and_documents() -> None:
    tool = {
        "type": "function", "cache_control": {},
        "function": {"name": "mcp/files:read", "parameters": {}, "strict": None, "returns": 1},
    }  # fmt: skip
    body = request({"role": "user", "content": "x"}, tools=[tool], documents=[{"title": "T"}])
    assert body.tools is not None
    assert template_variables(served(""), body, body.tools) == {
        "tools": [{"type": "function", "function": {"name": "mcp/files:read", "parameters": {}}}],
        "documents": [{"title": "T"}],
    }
