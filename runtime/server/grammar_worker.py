"""The process that compiles grammars and follows them.

Its standard input is a socket. There it reads the vocabulary and answers with the bytes of each
token. Then each message is a socket for one grammar. The process forks, and its child serves that
grammar with limits of memory, time and stack: a grammar can end its own process and no other.
The vocabulary's tables are built once and shared by all children.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import sys
from array import array
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

__all__ = ["ENDED", "FAILED", "MAY_END", "STEP", "main"]

STEP = struct.Struct("<I")
"""How a step begins: the number of the generation. Its new tokens follow, as i32."""
MAY_END, ENDED, FAILED = 1, 2, 4
"""Bits of the first byte of an answer to a step. The mask follows, a bit for each token."""

MEMORY = 256 * 2**20
"""Bytes of address space that a grammar may take beside the tables."""
STACK = 8 * 2**20
COMPILE_SECONDS, STEP_SECONDS = 10.0, 0.5
"""Seconds of a processor. All streams wait for a step."""

# JSON may hold any space between its parts, and a small model may never end it.
SPACE: JsonCompileOptions = {
    "whitespace_pattern": r"( |\n {0,8})?",
    # oneOf is taken as anyOf, as llama.cpp and xgrammar do: branches as a rule exclude each other.
    "coerce_one_of": True,
}


def main() -> None:
    """Makes a child for each grammar until the other end of the socket is closed."""
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Where memory is short, the system ends this process and not the server.
    Path("/proc/self/oom_score_adj").write_text("1000")
    control = socket.socket(fileno=os.dup(0))
    pipe = Connection(0)
    tokenizer = _read_vocabulary(pipe)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for children
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not descriptors:
            return
        if os.fork() == 0:
            control.close()
            pipe.close()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            _serve(tokenizer, Connection(descriptors[0]))
            os._exit(0)
        os.close(descriptors[0])


def _read_vocabulary(pipe: Connection) -> LLTokenizer:
    hello = json.loads(pipe.recv_bytes())
    size, eos = hello["vocab_size"], hello["eos"]
    tokenizer = LLTokenizer(hello["tokenizer"], n_vocab=size, eos_token=eos or None)
    pieces = [tokenizer.decode_bytes([token]) for token in range(size)]
    special = [token for token in range(size) if tokenizer.is_special_token(token)]
    pipe.send_bytes(json.dumps({"eos": tokenizer.eos_tokens, "special": special}).encode())
    pipe.send_bytes(array("I", map(len, pieces)).tobytes())
    pipe.send_bytes(b"".join(pieces))
    return tokenizer


def _serve(tokenizer: LLTokenizer, pipe: Connection) -> None:
    """Compiles the grammar that comes first, then follows it for any number of generations."""
    try:
        pipe.send_bytes(b"")  # what ends this process from here on is the grammar
        with _Limited(COMPILE_SECONDS):
            first, refused = _compile(tokenizer, pipe.recv_bytes())
        pipe.send_bytes(refused.encode())
        followed: dict[int, LLMatcher] = {}
        while not refused:
            request = pipe.recv_bytes()
            with _Limited(STEP_SECONDS):
                number = STEP.unpack_from(request)[0]
                matcher = followed.get(number) or first.deep_copy()
                followed[number] = matcher
                answer = _step(matcher, array("i", request[STEP.size :]))
            pipe.send_bytes(answer)
    except (EOFError, OSError):  # nobody wants more
        return


class _Limited:
    """The system ends this process if the block takes more than some seconds of a processor."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, self._seconds)

    def __exit__(self, *exception: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _compile(tokenizer: LLTokenizer, request: bytes) -> tuple[LLMatcher, str]:
    """A matcher, and why it is of no use, if it is not."""
    kind, _, text = request.decode().partition(":")
    try:
        match kind:
            case "schema":
                grammar = LLMatcher.grammar_from_json_schema(text, defaults=SPACE)
            case "regex":
                grammar = LLMatcher.grammar_from_regex(text)
            case _:
                grammar = LLMatcher.grammar_from_lark(text)
    except Exception as error:
        return LLMatcher(tokenizer, "", log_level=0), str(error) or type(error).__name__
    limits = LLParserLimits(max_grammar_size=500_000)
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()  # that nothing can match shows here at the latest
    if matcher.is_error() or (matcher.is_stopped() and not matcher.is_accepting()):
        return matcher, matcher.get_error() or "nothing matches it"
    return matcher, ""


def _step(matcher: LLMatcher, tokens: array[int]) -> bytes:
    """Takes tokens; says what may come next."""
    for token in tokens:
        if not matcher.is_stopped():
            matcher.consume_token(token)
    mask = b"" if matcher.is_stopped() else matcher.compute_bitmask()
    ended = matcher.is_stopped()
    flags = ENDED * ended | MAY_END * (ended or matcher.is_accepting())
    return bytes([FAILED if matcher.is_error() else flags]) + mask


if __name__ == "__main__":
    main()
    sys.exit()
