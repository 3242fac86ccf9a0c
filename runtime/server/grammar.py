"""Structured output: what must match becomes a mask over tokens, in another process.

llguidance (https://github.com/guidance-ai/llguidance) does the work, in native code that a
grammar can drive into a crash. So it runs in `grammar_worker`, which has a child for each grammar.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
import subprocess
import sys
import threading
from array import array
from collections.abc import Sequence
from functools import cached_property
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import DeviceError, InputError
from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.grammar_worker import ENDED, FAILED, MAY_END, SPACE, STEP
from edgec.runtime.server.json_schema import prepared
from edgec.runtime.server.schemas import Grammar, JsonSchemaFormat, ResponseFormat
from edgec.runtime.tokenizer import Tokenizer

__all__ = ["SPACE", "GrammarCompiler", "GrammarFilter"]

AT_ONCE, WAITING = 4, 48
"""Grammars that are compiled at once, and with those that wait for it."""
PATIENCE = 30
"""Seconds after which a child that neither answers nor ends is given up. It has limits of its own,
in seconds of a processor: this is for a machine that stands still."""


class GrammarFilter:
    """Masks the tokens that a grammar does not allow next. For one generation."""

    def __init__(self, child: _Child, eos: Sequence[int]) -> None:
        self._child = child
        self._number = next(child.numbers)
        self._eos = list(eos)
        self._seen = 0
        self._ended = False

    def copy(self) -> GrammarFilter:
        """One for another generation, which starts afresh."""
        return GrammarFilter(self._child, self._eos)

    def mask(self, tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
        """See `TokenFilter`.

        Raises:
            InputError: the grammar has become too complex.
        """
        allowed = np.zeros(len(logits), np.bool_)
        may_end = self._ended
        if not self._ended:
            flags, packed = self._child.step(self._number, tokens[self._seen :])
            bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
            known = min(len(bits), len(logits))  # a vocabulary may be padded past the tokenizer's
            allowed[:known] = bits[:known]
            self._ended, may_end = bool(flags & ENDED), bool(flags & MAY_END)
        self._seen = len(tokens)
        if may_end:
            allowed[self._eos] = True
        logits[~allowed] = -np.inf


class GrammarCompiler:
    """Makes filters for a model's tokens. Its process starts when it is first needed, and again if
    it has ended. All methods can be called from any thread; they wait.

    Args:
        vocab_size: The length of the model's logits.
        eos: The ids that end a text.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: Sequence[int]) -> None:
        self._ids = tokenizer
        self._vocab_size = vocab_size
        self._eos = tuple(eos)
        self._process: _Process | None = None
        self._lock = threading.Lock()
        self._places = threading.Semaphore(WAITING)
        self._turns = threading.Semaphore(AT_ONCE)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The process's report about the tokens."""
        with self._lock:
            return self._running().vocabulary

    def close(self) -> None:
        """Ends the process; generations that need it fail."""
        with self._lock:
            if self._process is not None:
                self._process.close()

    def marker(self, text: str) -> str:
        """A tool call's marker in Lark: the token where it is one, else its text."""
        index = self._ids.id_of(text)
        if index is not None and index in self.vocabulary.special:
            return f"<[{index}]>"
        return json.dumps(text)

    def piece(self, token: int) -> bytes:
        """The bytes of a token, which may be a part of a character."""
        return self.vocabulary.piece(token)

    def from_format(self, form: ResponseFormat | None) -> GrammarFilter | None:
        """A filter for a `response_format`; None for plain text."""
        if isinstance(form, JsonSchemaFormat):
            return self.from_schema(form.json_schema.schema_)
        if form is not None and form.type == "json_object":
            return self.from_schema({"type": "object"})
        return None

    def from_schema(self, schema: dict[str, Any]) -> GrammarFilter:
        """A filter for JSON that a schema allows."""
        try:
            text = json.dumps(prepared(schema, "response_format"))
        except RecursionError:
            raise _refused("response_format", "invalid_json_schema", "too deep") from None
        return self._compile("schema", text, "response_format", "invalid_json_schema")

    def from_grammar(self, grammar: Grammar) -> GrammarFilter:
        """A filter for a grammar of the user's."""
        return self._compile(grammar.syntax, grammar.definition, "grammar", "invalid_grammar")

    def from_tools(self, lark: str) -> GrammarFilter:
        """A filter for tool calls, see `tool_grammar`."""
        return self._compile("lark", lark, "tools", "invalid_json_schema")

    def _compile(self, kind: str, text: str, param: str, code: str) -> GrammarFilter:
        try:
            request = f"{kind}:{text}".encode()
        except UnicodeEncodeError:
            raise _refused(param, code, "has half of a character (a lone surrogate)") from None
        if not self._places.acquire(blocking=False):
            raise ApiError(
                429, "too many grammars wait to be compiled", code="queue_full", retry_after=1
            )
        try:
            with self._turns:
                child, why = self._ask(request)
        finally:
            self._places.release()
        if child is None:
            raise _refused(param, code, why)
        return GrammarFilter(child, self._eos or self.vocabulary.eos)

    def _ask(self, request: bytes) -> tuple[_Child | None, str]:
        """A child that follows the grammar, or why there is none."""
        with self._lock:
            # A process that has ended may not be known to have.
            child = self._running().child() or self._running().child()
        if child is None:
            raise DeviceError("the process for structured output has ended")
        try:
            refused = child.compile(request)
        except (EOFError, OSError):
            refused = "too large or too deep: its compiler ran out of time, memory or stack"
        return (None, refused) if refused else (child, "")

    def _running(self) -> _Process:
        """The process. The caller holds the lock."""
        if self._process is None or not self._process.alive:
            hello = {
                "tokenizer": self._ids.to_json(),
                "vocab_size": self._vocab_size,
                "eos": self._eos,
            }
            self._process = _Process(json.dumps(hello).encode())
        return self._process


class Vocabulary:
    """The bytes of each token, as llguidance has them.

    Args:
        about: `eos` and `special`, lists of ids.
        lengths: u32 for each token.
        data: The bytes of all tokens, one after the other.
    """

    def __init__(self, about: dict[str, list[int]], lengths: bytes, data: bytes) -> None:
        self.eos = tuple(about["eos"])
        self.special = frozenset(about["special"])
        self._ends = np.cumsum(np.frombuffer(lengths, np.uint32), dtype=np.int64)
        self._data = data

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        start = self._ends[token - 1] if token else 0
        return self._data[start : self._ends[token]]


class _Process:
    """A running `grammar_worker`.

    Raises:
        DeviceError: it cannot be started.
    """

    def __init__(self, hello: bytes) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "edgec.runtime.server.grammar_worker"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server
            )
        try:
            with Connection(self._socket.dup().detach()) as pipe:
                pipe.send_bytes(hello)
                about, lengths, data = (pipe.recv_bytes() for _ in range(3))
        except (EOFError, OSError):
            self.close()
            raise DeviceError("the process for structured output does not start") from None
        self.vocabulary = Vocabulary(json.loads(about), lengths, data)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def child(self) -> _Child | None:
        """A new child; None if the process has ended."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._socket, [b"+"], [theirs.fileno()])
            return _Child(ours)
        except (EOFError, OSError):
            ours.close()
            self.close()
            return None

    def close(self) -> None:
        self._socket.close()
        self._popen.kill()
        self._popen.wait()


class _Child:
    """A process that follows one grammar, for any number of generations. It ends with this.

    Raises:
        EOFError, OSError: it does not begin.
    """

    def __init__(self, ours: socket.socket) -> None:
        self.numbers = itertools.count()
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, direction, struct.pack("@ll", PATIENCE, 0))
        self._pipe = Connection(ours.detach())
        self._pipe.recv_bytes()

    def compile(self, request: bytes) -> str:
        """Why the grammar is refused; nothing if it is not.

        Raises:
            EOFError, OSError: it broke its process.
        """
        self._pipe.send_bytes(request)
        return self._pipe.recv_bytes().decode()

    def step(self, number: int, tokens: Sequence[int]) -> tuple[int, bytes]:
        """The flags and the mask after these tokens more; see `grammar_worker`.

        Raises:
            InputError: the grammar has become too complex.
        """
        try:
            self._pipe.send_bytes(STEP.pack(number) + array("i", tokens).tobytes())
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError):
            answer = bytes([FAILED])
        if answer[0] & FAILED:
            raise InputError(
                "the grammar cannot be followed further: at this place it is too complex",
                "use fewer optional or repeated parts",
            )
        return answer[0], answer[1:]


def _refused(param: str, code: str, why: str) -> ApiError:
    # What follows is the parser's own state.
    why = " ".join(why.partition("<state>")[0].split())[:500]
    return ApiError(400, f"{param}: {why}", param=param, code=code)
