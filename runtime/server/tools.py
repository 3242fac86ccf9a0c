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
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgec.runtime.server.json_calls import PYTHON_TAG, ArgsReader, JsonReader, WholeReader
from edgec.runtime.server.schemas import FunctionDefinition
from edgec.runtime.server.xml_calls import XmlReader

__all__ = ["FORMATS", "ToolCall", "ToolFormat", "ToolParser", "detect_format"]

Functions = Mapping[str, FunctionDefinition]


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for. `arguments` is JSON text, as OpenAI has it."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")

    def to_dict(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


def short_id() -> str:
    """An id as Mistral's templates want it: nine letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


class CallReader(Protocol):
    """Reads one call, whose text may come in pieces."""

    def end(self, text: str) -> int | None:
        """The position behind the call that `text` begins with; None: it is not clear yet.

        Args:
            text: All that came since the call began: what the last `end` saw, and more.
        """
        ...

    def read(self, text: str) -> list[tuple[str, Any]]:
        """Names and arguments. Raises ValueError, LookupError or TypeError when it is no call."""
        ...

    def cut(self, text: str) -> tuple[list[tuple[str, Any]], tuple[str, str] | None]:
        """The whole calls of a text that was cut, and name and arguments' text of the last."""
        ...


@dataclass(frozen=True)
class ToolFormat:
    """How calls are written.

    Args:
        begin: The text that starts a call; empty: the whole text is one, and starts with `{`.
        close: The text that may end it; empty: none.
        reader: Makes what reads the text after `begin`.
        markers: Those parts of it that may be special tokens, which decoded text does not show.
        bare: What else starts a call of a function, and is part of it.
        new_id: Makes the id of a call.
    """

    begin: str
    close: str
    reader: Callable[[Functions], CallReader]
    markers: tuple[str, ...] = ()
    bare: Callable[[str], str] | None = None
    new_id: Callable[[], str] | None = None


class ToolParser:
    """Splits streamed text into content and calls. Text that is no good call is content.

    Args:
        functions: The tools that may be called, by name.
        forced: The text is nothing but calls.
    """

    def __init__(self, form: ToolFormat, functions: Functions, *, forced: bool = False) -> None:
        self._form = form
        self._functions = functions
        self._forced = forced
        bare = [form.bare(name) for name in functions] if form.bare else []
        self._begins = [each for each in (form.begin, *bare) if each]
        self._text = ""  # not passed on yet
        self._begin = ""  # space and mark before the text of a call, for the case that it is none
        self._reader: CallReader | None = None
        self._plain = False  # nothing after this can be a call
        self._calls = 0

    def feed(self, text: str) -> Iterator[str | ToolCall]:
        """Adds text and yields what is clear now."""
        self._text += text
        while self._text:
            if self._reader is not None:
                if (end := self._reader.end(self._text)) is None:
                    return
                body, self._text = self._text[:end], self._text[end:]
                yield from self._read(body)
                continue
            content, self._text = self._split()
            if content:
                yield content
            if self._reader is None:
                return

    def finish(self, *, cut: bool = False) -> Iterator[str | ToolCall]:
        """The text that is left, now that no more follows.

        Args:
            cut: The text ends where it does because it became too long. A call that was begun is
                a call all the same, with the arguments as far as they go.
        """
        while self._reader is not None:
            text = self._text
            if cut:
                self._text = ""
                yield from self._cut(text)
            elif (found := self._good(text)) is not None:
                self._text, self._reader = "", None
                yield from self._made(found)
            elif (at := text.find(self._form.close)) >= 0 and self._form.close:
                # Of no call the mark is the end: what follows may be one.
                end = at + len(self._form.close)
                self._text = text[end:]
                yield from self._read(text[:end])
                yield from self.feed("")
            else:
                self._text, self._reader = "", None
                yield self._begin + text
        text, self._text = self._text, ""
        if cut and self._forced:
            if not self._calls and len(self._functions) == 1:
                yield self._call(next(iter(self._functions)), "")
        elif text.strip() or (text and not self._calls):
            yield text

    def _split(self) -> tuple[str, str]:
        """Content that can be passed on, and the text to keep; enters a call where one begins.

        Space before a call is no content, so space is kept until it is clear what follows.
        """
        text = self._text
        if self._plain:
            return text, ""
        if not self._form.begin:
            start = text.lstrip()
            if not start or PYTHON_TAG.startswith(start):
                return "", text
            self._plain = not start.startswith(("{", PYTHON_TAG))
            if self._plain:
                return text, ""
            self._enter("")
            return "", text
        hits = [(at, begin) for begin in self._begins if (at := text.find(begin)) >= 0]
        if hits:
            at, begin = min(hits)
            content, skipped = text[:at].rstrip(), at
            if begin == self._form.begin:
                skipped += len(begin)
            self._enter(text[len(content) : skipped])
            return content, text[skipped:]
        held = max(_overlap(text, begin) for begin in self._begins)
        content = text[: len(text) - held].rstrip()
        return content, text[len(content) :]

    def _enter(self, begin: str) -> None:
        self._begin, self._reader = begin, self._form.reader(self._functions)

    def _good(self, body: str) -> list[tuple[str, Any]] | None:
        assert self._reader is not None
        try:
            found = self._reader.read(body)
            good = all(name in self._functions and isinstance(args, dict) for name, args in found)
            json.dumps([args for _, args in found], allow_nan=False)
        except (ValueError, LookupError, TypeError):
            return None
        return found if found and good else None

    def _read(self, body: str) -> Iterator[str | ToolCall]:
        found, begin = self._good(body), self._begin
        self._reader = None
        if found is None:
            yield begin + body
        else:
            yield from self._made(found)

    def _cut(self, text: str) -> Iterator[str | ToolCall]:
        assert self._reader is not None
        found, partial = self._reader.cut(text)
        self._reader = None
        yield from self._made([each for each in found if each[0] in self._functions])
        if partial is not None and partial[0] in self._functions:
            yield self._call(*partial)
        elif not self._forced and not found:
            yield self._begin + text

    def _made(self, found: list[tuple[str, Any]]) -> Iterator[ToolCall]:
        for name, args in found:
            text = json.dumps(args, ensure_ascii=False)
            # Escapes may write halves of characters, which no answer can hold.
            yield self._call(
                name, text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            )

    def _call(self, name: str, arguments: str) -> ToolCall:
        self._calls += 1
        if self._form.new_id is None:
            return ToolCall(name, arguments)
        return ToolCall(name, arguments, self._form.new_id())


def _overlap(text: str, mark: str) -> int:
    """The longest end of `text` that is a true beginning of `mark`."""
    sizes = range(min(len(mark) - 1, len(text)), 0, -1)
    return next((size for size in sizes if mark.startswith(text[-size:])), 0)


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


_TAGS = ("<tool_call>", "</tool_call>")
FORMATS = {
    "hermes": ToolFormat(*_TAGS, lambda functions: JsonReader("</tool_call>"), _TAGS),
    "xml": ToolFormat(*_TAGS, XmlReader, _TAGS, bare=lambda name: f"<function={name}>"),
    "mistral": ToolFormat(
        "[TOOL_CALLS]", "", lambda functions: JsonReader(""), ("[TOOL_CALLS]",), new_id=short_id
    ),
    "mistral_args": ToolFormat(
        "[TOOL_CALLS]", "", lambda functions: ArgsReader(),
        ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"), new_id=short_id,
    ),
    "llama3": ToolFormat("", "", lambda functions: WholeReader(), (PYTHON_TAG,)),
}  # fmt: skip
