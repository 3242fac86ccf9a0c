"""A conversation as chat templates expect it, from what clients send."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.schemas import ChatRequest, FunctionCall, Message, Tool, ToolCall
from edgec.runtime.server.service import Served

__all__ = ["for_template", "template_variables", "unused_variables"]

_ROLES = {"developer": "system", "function": "tool"}
"""OpenAI's later and earlier names."""
_RESERVED = {"messages", "add_generation_prompt", "self"}
_SWITCHES = ("reasoning_effort", "verbosity")


def for_template(messages: Sequence[Message], form: str | None = None) -> list[dict[str, Any]]:
    """The messages: content is text, the arguments of a call are an object.

    Args:
        form: The format of tool calls; Mistral's templates take ids of nine letters and digits
            only, so others' are shortened.

    A call without an id gets one, and results without an id belong to the calls before them in
    order. So clients may leave ids out, as Ollama's do.
    """
    ident: Callable[[str], str] = _short if (form or "").startswith("mistral") else str
    plain: list[dict[str, Any]] = []
    waiting: list[str] = []
    calls = 0
    for message in messages:
        fields: dict[str, Any] = {
            "role": _ROLES.get(message.role, message.role),
            "content": message.text,
            "name": message.name,
            "refusal": message.refusal,
            "reasoning_content": message.reasoning_content or message.reasoning,
        }
        made = list(message.tool_calls or ())
        if message.function_call is not None:
            made.append(ToolCall(function=message.function_call))
        if made:
            waiting = [ident(call.id or f"call_{calls + n}") for n, call in enumerate(made)]
            calls += len(made)
            fields["tool_calls"] = [
                {
                    "id": name,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": _arguments(call.function),
                    },
                }
                for name, call in zip(waiting, made, strict=True)
            ]
        elif fields["content"] is None:
            fields["content"] = ""
        if fields["role"] == "tool":
            expected = waiting.pop(0) if waiting else None
            given = message.tool_call_id
            fields["tool_call_id"] = ident(given) if given else expected
        plain.append({name: value for name, value in fields.items() if value is not None})
    return plain


def _short(name: str) -> str:
    if re.fullmatch("[A-Za-z0-9]{9}", name):
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:9]


def _arguments(call: FunctionCall) -> Any:
    """The arguments as an object; text that was cut, and so is no JSON, stays text."""
    if not isinstance(call.arguments, str):
        return call.arguments or {}
    try:
        return json.loads(call.arguments) if call.arguments.strip() else {}
    except (ValueError, RecursionError):
        return call.arguments


def template_variables(served: Served, body: ChatRequest, tools: Sequence[Tool]) -> dict[str, Any]:
    """Values that the chat template sees besides the messages.

    Raises:
        ApiError: 400, a variable has a name that edgec sets itself.
    """
    variables = dict(body.chat_template_kwargs or {})
    if wrong := _RESERVED & set(variables):
        raise ApiError(
            400, f"chat_template_kwargs: {min(wrong)} is not for it", param="chat_template_kwargs",
            code="invalid_value",
        )  # fmt: skip
    switches = {name: getattr(body, name) for name in _SWITCHES}
    if body.reasoning_effort == "none":
        switches["enable_thinking"] = False
    for name, value in switches.items():
        if value is not None and _has(served, name):
            variables.setdefault(name, value)
    if tools:
        variables["tools"] = [
            {
                "type": "function",
                "function": {name: value for name, value in tool.function if value is not None},
            }
            for tool in tools
        ]
    if body.documents:
        variables["documents"] = body.documents
    return variables


def unused_variables(served: Served, body: ChatRequest) -> list[str]:
    """Fields that are for a chat template of another kind than the model's."""
    effort = ("reasoning_effort", "enable_thinking" if body.reasoning_effort == "none" else "")
    used = {"reasoning_effort": effort, "verbosity": ("verbosity",)}
    return [
        name for name, names in used.items()
        if getattr(body, name) is not None and not any(_has(served, n) for n in names if n)
    ]  # fmt: skip


def _has(served: Served, name: str) -> bool:
    template = served.model.chat_template
    sources = template.sources.values() if template is not None else ()
    return any(re.search(rf"\b{name}\b", source) for source in sources)
