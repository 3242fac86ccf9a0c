"""Tool calls that are written in JSON: where they end in a stream, and what they say.

A mark of the end, or of the next call, may stand in a string of the arguments. So the end is looked
for behind the JSON value.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["ArgsReader", "JsonReader", "WholeReader"]

Found = list[tuple[str, Any]]
"""Names and arguments."""
Partial = tuple[str, str] | None
"""The name and the text of the arguments of a call that was cut."""

PYTHON_TAG = "<|python_tag|>"
"""Llama's marker of a call; of a built-in tool at first, later before any."""
_STRUCTURE = re.compile(r'[{}\[\]"]')
_IN_STRING = re.compile(r'["\\]')
_BETWEEN = " \n\r\t;,"
_DECODER = json.JSONDecoder(strict=False)  # models write line ends in strings as they are
_BEGINNING = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*(?:,\s*"(?:arguments|parameters)"\s*:\s*(.*))?',
    re.DOTALL,
)
_HEAD = re.compile(r"\s*([^\s\[\]{}]+)\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\]\s*|(?=\{))")
_NOTHING = re.compile(r'null|""|(?=\[TOOL_CALLS\])')


class _Scanner:
    """Finds the end of a JSON object or array in text that grows."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._depth = 0
        self._in_string = False

    def end(self, text: str) -> int | None:
        """The position behind the value; None: it goes on."""
        while found := (_IN_STRING if self._in_string else _STRUCTURE).search(text, self._at):
            mark, at = found[0], found.end()
            if mark == "\\":
                if at == len(text):
                    self._at = found.start()
                    return None
                at += 1
            elif mark == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if mark in "{[" else -1
            self._at = at
            if self._depth <= 0 and not self._in_string:
                return at
        self._at = len(text)
        return None


class JsonReader:
    """One call: objects with a name and arguments, or arrays of them, then the end mark.

    Args:
        close: The end mark; empty: the call ends with its last value.
    """

    def __init__(self, close: str) -> None:
        self._close = close
        self._at = 0
        self._values = 0
        self._scanner: _Scanner | None = None
        self._lost = False

    def end(self, text: str) -> int | None:
        """The position behind the call that `text` begins with; None: it is not clear yet."""
        while True:
            if self._scanner is not None:
                if (at := self._scanner.end(text)) is None:
                    return None
                self._scanner, self._at = None, at
                self._values += 1
            at = self._at
            while at < len(text) and text[at] in _BETWEEN:
                at += 1
            rest = text[at : at + max(2, len(self._close))]
            # [TOOL_CALLS] begins as an array does.
            array = rest[:1] == "[" and (not self._values or rest[1:2] not in ("", "T"))
            if (rest[:1] == "{" or array) and not self._lost:
                self._scanner = _Scanner(at)
                continue
            if not self._close:
                return None if rest in ("", "[") else self._at if self._values else len(text)
            if rest != self._close and self._close.startswith(rest):
                return None
            self._lost = True  # no value: only the mark can end it
            if (found := text.find(self._close, at)) >= 0:
                return found + len(self._close)
            self._at = max(at, len(text) - len(self._close) + 1)
            return None

    def read(self, text: str) -> Found:
        """The calls of a text; without the end mark too.

        Raises:
            ValueError, LookupError or TypeError: it is none.
        """
        return read_objects(text.strip().removesuffix(self._close or "\0"))

    def cut(self, text: str) -> tuple[Found, Partial]:
        """The whole calls of a text that was cut, and the last one."""
        return cut_objects(text)


class WholeReader(JsonReader):
    """Calls that are all of the text, as Llama writes them."""

    def __init__(self) -> None:
        super().__init__("")

    def end(self, text: str) -> int | None:
        """None: only the end of the text ends it."""
        return None


class ArgsReader(JsonReader):
    """One call as Mistral writes it since its tokenizer 11: `NAME[CALL_ID]ID[ARGS]{...}`.

    The form before, an array of objects, is read too.
    """

    def __init__(self) -> None:
        super().__init__("")
        self._arguments: _Scanner | None = None

    def end(self, text: str) -> int | None:
        """See `JsonReader.end`."""
        if self._arguments is not None:
            return self._arguments.end(text)
        if (start := text.lstrip()[:1]) in ("", "{"):
            return super().end(text) if start else None
        if start == "[" and not _starts(text, "[TOOL_CALLS]", "[ARGS]"):
            return super().end(text)
        if (head := _HEAD.match(text)) is None:
            at = text.find("[TOOL_CALLS]")
            return at if at >= 0 else None
        if nothing := _NOTHING.match(text, head.end()):
            return nothing.end()
        rest = text[head.end() :]
        if rest[:1] not in ("{", "[") or _starts(rest, "[TOOL_CALLS]"):
            at = text.find("[TOOL_CALLS]", head.end())
            return at if at >= 0 else None
        self._arguments = _Scanner(head.end())
        return self._arguments.end(text)

    def read(self, text: str) -> Found:
        """See `JsonReader.read`."""
        if text.lstrip().startswith(("{", "[")):
            return read_objects(text)
        if (head := _HEAD.match(text)) is None:
            raise ValueError("no name")
        return [(head[1], arguments_of(text[head.end() :].strip()))]

    def cut(self, text: str) -> tuple[Found, Partial]:
        """See `JsonReader.cut`."""
        if text.lstrip().startswith(("{", "[")):
            return cut_objects(text)
        if (head := _HEAD.match(text)) is None:
            name = re.match(r"\s*([^\s\[\]{}]+)", text)
            return [], (name[1], "") if name else None
        return [], (head[1], text[head.end() :])


def _starts(text: str, *marks: str) -> bool:
    """Whether text starts with one of the marks, as far as it goes."""
    text = text.lstrip()
    return any(text.startswith(mark[: len(text)]) for mark in marks)


def read_objects(text: str) -> Found:
    """The calls of JSON text: an object, an array of them, or several with `;` or space between.

    Raises:
        ValueError, LookupError or TypeError: it is something else.
    """
    values: list[Any] = []
    at = 0
    try:
        while at < len(text):
            if text[at] in _BETWEEN:
                at += 1
                continue
            if text.startswith(PYTHON_TAG, at):
                at += len(PYTHON_TAG)
                continue
            value, at = _DECODER.raw_decode(text, at)
            values += value if isinstance(value, list) else [value]
    except RecursionError:
        raise ValueError("too deep") from None
    return [
        (call["name"], arguments_of(call.get("arguments", call.get("parameters"))))
        for call in values
    ]  # fmt: skip


def arguments_of(given: Any) -> Any:
    """Arguments as an object: they may be JSON in a string, and nothing is none.

    Raises:
        ValueError: text that is no JSON.
    """
    if isinstance(given, str):
        given = _DECODER.decode(given) if given.strip() else None
    return {} if given is None or given == "" else given


def cut_objects(text: str) -> tuple[Found, Partial]:
    """The whole calls that a text begins with, and the one in which it was cut."""
    found: Found = []
    at = 0
    while at < len(text):
        if text[at] in _BETWEEN + "[":
            at += 1
        elif text.startswith(PYTHON_TAG, at):
            at += len(PYTHON_TAG)
        else:
            try:
                value, at = _DECODER.raw_decode(text, at)
                call = value.get("arguments", value.get("parameters"))
                found.append((value["name"], arguments_of(call)))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                return found, _begun(text, at)
    return found, None


def _begun(text: str, at: int) -> Partial:
    if (begun := _BEGINNING.match(text, at)) is None:
        return None
    arguments = begun[2] or ""
    end = _Scanner(0).end(arguments) if arguments[:1] in ("{", "[") else None
    return json.loads(begun[1], strict=False), arguments[:end]
