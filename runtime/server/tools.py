"""Tool calls: how a model writes them, as its chat template shows, and how they are read back.

A template that has tools also writes earlier calls into the prompt, so it holds the markers that
the model was trained to write. Those decide the format; nothing here knows a model by name.

    hermes   <tool_call>{"name": NAME, "arguments": {...}}</tool_call>           (Qwen, Hermes)
    xml      <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>
    mistral  [TOOL_CALLS][{"name": NAME, "arguments": {...}}, ...]
    mistral_args  [TOOL_CALLS]NAME[ARGS]{...}                       (Mistral since its tokenizer 11)
    llama3   {"name": NAME, "parameters": {...}}, which is then the whole text
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgec.runtime.server.schemas import FunctionDefinition

__all__ = ["FORMATS", "ToolCall", "ToolFormat", "ToolParser", "detect_format"]

PYTHON_TAG = "<|python_tag|>"
"""Llama's marker of a call; of a built-in tool at first, later before any."""
Found = list[tuple[str, Any]]
"""Names and arguments."""


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for. `arguments` is JSON text, as OpenAI has it."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")

    def to_dict(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True)
class ToolFormat:
    """How calls are written.

    Args:
        begin: The text that starts a call; empty: the whole text is one, and starts with `{`.
        end: The text that ends it; empty: it ends with the text.
        read: The calls between `begin` and `end`. Raises ValueError, LookupError or TypeError
            when that is none.
        markers: Those parts of it that may be special tokens, which decoded text does not show.
    """

    begin: str
    end: str
    read: Callable[[str, Mapping[str, FunctionDefinition]], Found]
    markers: tuple[str, ...] = ()


class ToolParser:
    """Splits streamed text into content and calls. Text that is no good call is content.

    Args:
        functions: The tools that may be called, by name.
    """

    def __init__(self, form: ToolFormat, functions: Mapping[str, FunctionDefinition]) -> None:
        self._form = form
        self._functions = functions
        self._text = ""  # not passed on yet
        self._inside = False
        self._plain = False  # nothing after this can be a call
        self._calls = 0

    def feed(self, text: str) -> Iterator[str | ToolCall]:
        """Adds text and yields what is clear now."""
        self._text += text
        while self._text:
            if self._inside:
                body, end, rest = self._text.partition(self._form.end or "\0")
                if not end:
                    return
                yield from self._read(body, end)
                self._text, self._inside = rest, False
                continue
            content, self._text = self._split()
            if content:
                yield content
            if not self._inside:
                return

    def finish(self) -> Iterator[str | ToolCall]:
        """What is left, now that no more follows."""
        text, self._text = self._text, ""
        if self._inside:
            yield from self._read(text, "")
        elif text.strip() or (text and not self._calls):
            yield text

    def _split(self) -> tuple[str, str]:
        """Content that can be passed on, and the text to keep; enters a call where one begins.

        Space before a call is no content, so space is kept until it is clear what follows.
        """
        text, begin = self._text, self._form.begin
        if self._plain:
            return text, ""
        if not begin:
            start = text.lstrip()
            if not start or PYTHON_TAG.startswith(start):
                return "", text
            self._inside = start.startswith(("{", PYTHON_TAG))
            self._plain = not self._inside
            return ("", text) if self._inside else (text, "")
        before, found, after = text.partition(begin)
        if found:
            self._inside = True
            return before.rstrip(), after
        sizes = range(min(len(begin) - 1, len(text)), 0, -1)
        held = next((size for size in sizes if begin.startswith(text[-size:])), 0)
        content = text[: len(text) - held].rstrip()
        return content, text[len(content) :]

    def _read(self, body: str, end: str) -> Iterator[str | ToolCall]:
        try:
            found = self._form.read(body, self._functions)
        except (ValueError, LookupError, TypeError):
            found = []
        good = all(name in self._functions and isinstance(args, dict) for name, args in found)
        if not found or not good:
            yield self._form.begin + body + end
            return
        for name, args in found:
            self._calls += 1
            yield ToolCall(name, json.dumps(args, ensure_ascii=False))


def detect_format(template: str) -> str | None:
    """The format that a chat template is for, a key of `FORMATS`.

    None when the template does not look at `tools`, or writes calls in no way known here.
    """
    if not re.search(r"\btools\b", template):
        return None
    if "[TOOL_CALLS]" in template:
        return "mistral_args" if "[ARGS]" in template else "mistral"
    if "<tool_call>" in template:
        return "xml" if "<function=" in template else "hermes"
    if "<|python_tag|>" in template or re.search(r'"name":.{1,60}"parameters"', template):
        return "llama3"
    return None


def _json_objects(text: str) -> list[dict[str, Any]]:
    """All objects of JSON text: one, an array of them, or several with `;` or space between."""
    decoder, values, at = json.JSONDecoder(), [], 0
    while at < len(text):
        if text[at] in " \n\r\t;":
            at += 1
            continue
        value, at = decoder.raw_decode(text, at)
        values += value if isinstance(value, list) else [value]
    return values


def _arguments(call: dict[str, Any]) -> Any:
    args = call["arguments"] if "arguments" in call else call["parameters"]
    return json.loads(args) if isinstance(args, str) else args


def _read_json(body: str, functions: Mapping[str, FunctionDefinition]) -> Found:
    text = body.strip().removeprefix(PYTHON_TAG)
    return [(call["name"], _arguments(call)) for call in _json_objects(text)]


def _read_mistral(body: str, functions: Mapping[str, FunctionDefinition]) -> Found:
    if "[ARGS]" not in body:
        return _read_json(body, functions)
    found: Found = []
    for call in body.split("[TOOL_CALLS]"):
        head, _, args = call.partition("[ARGS]")
        found.append((head.partition("[CALL_ID]")[0].strip(), json.loads(args)))
    return found


_FUNCTION = re.compile(r"\s*<function=([^>]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)


def _read_xml(body: str, functions: Mapping[str, FunctionDefinition]) -> Found:
    if (call := _FUNCTION.fullmatch(body)) is None:
        raise ValueError("no function")
    name, text = call.groups()
    properties = (functions[name].parameters or {}).get("properties", {})
    args, at = {}, 0
    while at < len(text) and text[at:].strip():
        if (parameter := _PARAMETER.match(text, at)) is None:
            raise ValueError("no parameter")
        key, value = parameter.groups()
        # Text is written as it is, any other type as JSON.
        args[key] = value if is_text(properties.get(key, {})) else json.loads(value)
        at = parameter.end()
    return [(name, args)]


def is_text(schema: Any) -> bool:
    """Whether a parameter of the `xml` format is written as plain text."""
    return not isinstance(schema, dict) or schema.get("type", "string") == "string"


_TAGS = ("<tool_call>", "</tool_call>")
FORMATS = {
    "hermes": ToolFormat(
        "<tool_call>", "</tool_call>", _read_json, ("<tool_call>", "</tool_call>")
    ),
    "xml": ToolFormat("<tool_call>", "</tool_call>", _read_xml, ("<tool_call>", "</tool_call>")),
    "mistral": ToolFormat("[TOOL_CALLS]", "", _read_mistral, ("[TOOL_CALLS]",)),
    "mistral_args": ToolFormat(
        "[TOOL_CALLS]", "", _read_mistral, ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
    ),
    "llama3": ToolFormat("", "", _read_json, (PYTHON_TAG,)),
}
