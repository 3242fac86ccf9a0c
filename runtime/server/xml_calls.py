"""Tool calls as Qwen3-Coder writes them: a function, and each parameter, in tags.

    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

Text stands there as it is, so it may hold any of these tags. A value ends at `</parameter>` where a
tag that can follow it follows. Models leave tags out; then a value ends where the next part begins.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgec.runtime.server.schemas import FunctionDefinition

__all__ = ["XmlReader", "is_text"]

CLOSE = "</tool_call>"
_HEAD = re.compile(r"\s*<function=\s*([^>\s]+)\s*>")
_NEXT = re.compile(r"\s*(?:<parameter=\s*([^>]+?)\s*>\n?|(</function>))")
_END = re.compile(r"\s*</tool_call>")
_VALUE_END = re.compile(r"\n?</parameter>")
_FOLLOWS = re.compile(r"\s*(?:<parameter=[^>]+>|</function>|</tool_call>)")
_MAY_FOLLOW = ("<parameter=", "</function>", CLOSE)
_NEXT_CALL = re.compile(r"\n?</function>\s*</tool_call>\s*<tool_call>\s*<function=")
_LAST_CALL = re.compile(r"\n?</function>\s*(?:</tool_call>\s*)?\Z|\n?</tool_call>\s*\Z")


@dataclass
class _Call:
    """The parts of a call that were read.

    Attributes:
        cut: The parameter that the text ended in, and its value.
        end: The position behind the call.
        whole: Whether the function's end tag was there.
    """

    name: str
    values: dict[str, str] = field(default_factory=dict)
    cut: tuple[str, str] | None = None
    end: int = 0
    whole: bool = False


class XmlReader:
    """One call.

    Args:
        functions: The functions that may be called: their schemas say what is text.
    """

    def __init__(self, functions: Mapping[str, FunctionDefinition]) -> None:
        self._functions = functions

    def end(self, text: str) -> int | None:
        """The position behind the call that `text` begins with; None: it is not clear yet."""
        if "</function>" not in text and CLOSE not in text:
            return None
        try:
            call = self._parse(text, final=False)
        except ValueError:
            found = text.find(CLOSE)
            return found + len(CLOSE) if found >= 0 else None
        return None if call is None else call.end

    def read(self, text: str) -> list[tuple[str, Any]]:
        """The call of a text; tags may be missing.

        Raises:
            ValueError: it is none.
        """
        call = self._parse(text, final=True)
        if call is None or call.cut is not None:
            raise ValueError("no whole call")
        return [(call.name, self._arguments(call))]

    def cut(self, text: str) -> tuple[list[tuple[str, Any]], tuple[str, str] | None]:
        """The call of a text that was cut: whole, or its name and the text of its arguments."""
        try:
            call = self._parse(text, final=True)
        except ValueError:
            return [], None
        if call is None:
            return [], None
        if call.whole:
            return [(call.name, self._arguments(call))], None
        written = json.dumps(self._arguments(call), ensure_ascii=False)[:-1]
        if call.cut is not None:
            key, value = call.cut
            if "string" in kinds(self._schema(call.name, key), self._parameters(call.name)):
                value = json.dumps(value, ensure_ascii=False)[:-1]
            written += (", " if call.values else "") + json.dumps(key) + ": " + value
        return [], (call.name, written)

    def _parse(self, text: str, *, final: bool) -> _Call | None:
        """The call; None: more text may make it one, or say where it ends."""
        if (head := _HEAD.match(text)) is None:
            if final or not _may_become(text, ("<function=",)):
                raise ValueError("no function")
            return None
        call, at = _Call(head[1]), head.end()
        while True:
            if (part := _NEXT.match(text, at)) is None:
                if not final and _may_become(text[at:], _MAY_FOLLOW):
                    return None
                ended = _END.match(text, at)
                if ended is None and not (final and _may_become(text[at:], _MAY_FOLLOW)):
                    raise ValueError("no parameter")
                call.end = len(text) if ended is None else ended.end()
                return call
            at = part.end()
            if part[2]:
                call.whole = True
                if found := _END.match(text, at):
                    call.end = found.end()
                elif not final and _may_become(text[at:], (CLOSE,)):
                    return None
                else:
                    call.end = at
                return call
            key = part[1]
            stop = self._value_end(text, at, call, final=final)
            if stop is None:
                if not final:
                    return None
                call.cut, call.end = (key, _without_begun_tag(text[at:])), len(text)
                return call
            call.values[key] = text[at : stop[0]]
            at = stop[1]

    def _value_end(self, text: str, at: int, call: _Call, *, final: bool) -> tuple[int, int] | None:
        """The offsets at which a value ends, and at which what follows it begins."""
        close: tuple[int, int] | None = None
        for found in _VALUE_END.finditer(text, at):
            if _FOLLOWS.match(text, found.end()) or (
                final and _may_become(text[found.end() :], _MAY_FOLLOW)
            ):
                close = (found.start(), found.end())
                break
            if not final and _may_become(text[found.end() :], _MAY_FOLLOW):
                return None
        limit = len(text) if close is None else close[0]
        # A missing </parameter>: another parameter of this function, or another call, begins.
        properties = self._parameters(call.name).get("properties", {})
        others = [re.escape(name) for name in properties if name not in call.values]
        if others:
            another = re.compile(rf"\n<parameter=(?:{'|'.join(others)})>\n").search(text, at, limit)
            if another is not None and another.start() < limit:
                return another.start(), another.start()
        behind = _NEXT_CALL.search(text, at, limit)
        if behind is None and close is None and final:
            behind = _LAST_CALL.search(text, at)
        return close if behind is None else (behind.start(), behind.start())

    def _parameters(self, name: str) -> dict[str, Any]:
        function = self._functions.get(name)
        return (function.parameters if function else None) or {}

    def _schema(self, name: str, key: str) -> Any:
        return self._parameters(name).get("properties", {}).get(key)

    def _arguments(self, call: _Call) -> dict[str, Any]:
        root = self._parameters(call.name)
        return {
            key: _convert(value, kinds(self._schema(call.name, key), root))
            for key, value in call.values.items()
        }


def _may_become(text: str, marks: tuple[str, ...]) -> bool:
    """Whether text, with more behind it, may become space and one of the marks."""
    rest = text.lstrip()
    return any(mark.startswith(rest) for mark in marks) or (
        # A tag with a name that has not ended yet.
        any(rest.startswith(mark) for mark in marks if mark[-1] == "=") and ">" not in rest
    )


def _without_begun_tag(value: str) -> str:
    """A value that was cut, without the beginning of its end tag."""
    tag = "\n</parameter>"
    begun = next((n for n in range(len(tag) - 1, 0, -1) if value.endswith(tag[:n])), 0)
    return value[: len(value) - begun]


_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null",
          list: "array", dict: "object"}  # fmt: skip


def kinds(schema: Any, root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """The JSON types that a schema allows, as far as it says; text where it says nothing.

    Args:
        root: The schema that references are in.
    """
    if not isinstance(schema, dict) or depth > 8:
        return {"string"}
    if isinstance(given := schema.get("type"), str):
        return {given}
    if isinstance(given, list):
        return {each for each in given if isinstance(each, str)}
    if isinstance(values := schema.get("enum"), list):
        return {_KINDS[type(value)] for value in values}
    if "const" in schema:
        return {_KINDS[type(schema["const"])]}
    if isinstance(name := schema.get("$ref"), str):
        target: Any = root
        for part in name.removeprefix("#").strip("/").split("/"):
            target = target.get(part) if isinstance(target, dict) and part else target
        return kinds(target, root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(parts := schema.get(key), list) and parts:
            return {kind for part in parts for kind in kinds(part, root, depth + 1)}
    return {"object"} if "properties" in schema else {"array"} if "items" in schema else {"string"}


def is_text(schema: Any, root: Mapping[str, Any]) -> bool:
    """Whether a parameter is written as plain text."""
    return "string" in kinds(schema, root)


def _convert(value: str, types: set[str]) -> Any:
    """A value by its types; what is none of them stays text."""
    bare = value.strip()
    word = bare.lower()
    if types == {"string"}:
        return value
    if "null" in types and word in ("null", "none"):
        return None
    if "boolean" in types and word in ("true", "false"):
        return word == "true"
    for read in (json.loads, ast.literal_eval):
        try:
            read_value = read(bare)
            json.dumps(read_value, allow_nan=False)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        kind = _KINDS.get(type(read_value), "")
        if kind in types or (kind == "integer" and "number" in types):
            return read_value
    return value
