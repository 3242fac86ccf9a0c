"""Grammars in a process of their own: the masks are llguidance's, and no grammar can do harm."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from tests.server.conftest import Server
from tests.server.test_bad_input import error_of

from edgec.errors import InputError
from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.grammar import SPACE, GrammarCompiler
from edgec.runtime.server.schemas import Grammar
from edgec.runtime.tokenizer import Tokenizer

SIZE, EOS = 2048, (2045, 2047)
BOOK = {
    "type": "object",
    "properties": {"title": {"enum": ["Job", "Ruth"]}, "good": {"type": "boolean"}},
    "required": ["title", "good"],
    "additionalProperties": False,
}


def ref_chain(links: int) -> dict[str, Any]:
    """Objects, each with the next one as its property."""
    rules: dict[str, Any] = {f"d{links}": {"type": "string"}}
    for i in range(links):
        properties = {"a": {"$ref": f"#/$defs/d{i + 1}"}}
        rules[f"d{i}"] = {"type": "object", "properties": properties, "required": ["a"]}
    return {"$defs": rules, "$ref": "#/$defs/d0"}


def bare_chain(links: int) -> dict[str, Any]:
    rules: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(links)}
    return {"$defs": {**rules, f"d{links}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def nested(levels: int, key: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {key: [schema]} if key.endswith("Of") else {"type": "array", key: schema}
    return schema


def lark_rules(count: int) -> str:
    rules = [f'r{i}: "x" r{i + 1}' for i in range(count)]
    return "\n".join(["start: r0", *rules, f'r{count}: "y"'])


def lark_terminals(count: int) -> str:
    rules = [f'T{i}: "x" T{i + 1}' for i in range(count)]
    return "\n".join(["start: T0", *rules, f'T{count}: "y"'])


@pytest.fixture(scope="module")
def tokenizer(repository: Path) -> Tokenizer:
    return Tokenizer(repository / "models/bundled/tiny-dense")


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(tokenizer, SIZE, EOS)
    yield compiler
    compiler.close()


@pytest.mark.parametrize(
    "grammar",
    [ref_chain(2_000), bare_chain(20_000), nested(200, "items"), nested(200, "anyOf"),
     lark_rules(20_000), lark_terminals(20_000), "(" * 50_000 + "a" + ")" * 50_000,
     "((a{1,1000}){1,1000}){1,1000}"],
    ids=["refs", "bare refs", "items", "anyOf", "rules", "terminals", "parentheses", "counts"],
)  # fmt: skip
def test_deep_grammars_are_refused_or_followed(compiler: GrammarCompiler, grammar: Any) -> None:
    """Neither the process that asks nor the next grammar notices one that breaks its compiler."""
    try:
        if isinstance(grammar, dict):
            made = compiler.from_schema(grammar)
        else:
            syntax: Any = "lark" if grammar.startswith("start") else "regex"
            made = compiler.from_grammar(Grammar(syntax=syntax, definition=grammar))
        made.mask([], np.zeros(SIZE, np.float32))
    except ApiError as error:
        assert error.status == 400
        assert error.code in ("invalid_json_schema", "invalid_grammar")
    except InputError:
        pass
    logits = np.zeros(SIZE, np.float32)
    compiler.from_schema(BOOK).mask([], logits)
    assert 0 < np.isfinite(logits).sum() < SIZE


def test_chain_that_overflows_the_stack_is_refused(compiler: GrammarCompiler) -> None:
    with pytest.raises(ApiError, match="time, memory or stack"):
        compiler.from_schema(ref_chain(10_000))
    compiler.from_schema(ref_chain(100))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": -(10**30)},
        {"type": "integer", "maximum": 10**30},
        {"type": "object", "properties": {"\ud800": {"type": "string"}}},
        {"const": "\ud800"},
        {"type": "string", "pattern": "(?<=a)b"},
        {"type": "string", "pattern": "("},
        {"type": ["wish", 1]},
        {"type": "array", "minItems": 10**12},
        {"multipleOf": 0},
        {"enum": []},
    ],
)
def test_what_llguidance_refuses_is_the_users_fault(
    compiler: GrammarCompiler, schema: dict[str, Any]
) -> None:
    try:
        compiler.from_schema(schema)
    except ApiError as error:
        assert error.status == 400
        assert "<state>" not in error.message


def test_half_a_character_in_a_grammar(compiler: GrammarCompiler) -> None:
    for syntax in ("regex", "lark"):
        definition = "\ud800" if syntax == "regex" else 'start: "\ud800"'
        with pytest.raises(ApiError, match="half of a character"):
            compiler.from_grammar(Grammar.model_construct(syntax=syntax, definition=definition))


def test_masks_are_llguidances(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    """Over 20 texts that the grammar allows, two of them at a time."""
    reference = LLTokenizer(tokenizer.to_json(), n_vocab=SIZE, eos_token=list(EOS))
    grammar = LLMatcher.grammar_from_json_schema(BOOK, defaults=SPACE)
    choice = random.Random(5)
    made = compiler.from_schema(BOOK)
    ended = 0
    for _ in range(10):
        pairs: list[tuple[Any, Any, list[int]]] = [
            (made.copy(), LLMatcher(reference, grammar, log_level=0), []) for _ in range(2)
        ]
        for _ in range(40):
            for ours, theirs, tokens in pairs:
                if tokens:
                    theirs.consume_token(tokens[-1])
                allowed = np.zeros(SIZE, bool)
                if theirs.is_stopped():
                    ended += 1
                else:
                    mask = np.frombuffer(theirs.compute_bitmask(), np.uint8)
                    allowed = np.unpackbits(mask, bitorder="little")[:SIZE].astype(bool)
                if theirs.is_stopped() or theirs.is_accepting():
                    allowed[list(EOS)] = True
                logits = np.zeros(SIZE, np.float32)
                ours.mask(tokens, logits)
                assert (np.isfinite(logits) == allowed).all()
                tokens.append(choice.choice(np.flatnonzero(allowed).tolist()))
    assert ended


def test_the_end_leaves_end_of_text_only(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    made = compiler.from_grammar(Grammar(syntax="regex", definition="ab"))
    ids = tokenizer.encode("ab", add_special_tokens=False)
    for _ in range(2):
        logits = np.zeros(SIZE, np.float32)
        made.mask(ids, logits)
        assert np.flatnonzero(np.isfinite(logits)).tolist() == list(EOS)


def test_a_killed_child_fails_its_own_generation(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    one, other = compiler.from_schema(BOOK), compiler.from_schema(BOOK)
    newest = max(_children(compiler._process._popen.pid))  # type: ignore[union-attr]
    os.kill(newest, signal.SIGSEGV)
    logits = np.zeros(SIZE, np.float32)
    with pytest.raises(InputError, match="cannot be followed"):
        other.mask([], logits)
    one.mask([], logits)


def test_children_end_with_their_generations(compiler: GrammarCompiler) -> None:
    assert compiler._process
    parent = compiler._process._popen.pid
    made = [compiler.from_schema(BOOK) for _ in range(5)]
    assert len(_children(parent)) >= 5
    del made
    _until(lambda: not _children(parent))


def test_the_process_starts_again(compiler: GrammarCompiler) -> None:
    compiler.from_schema(BOOK)
    assert compiler._process
    before = compiler._process._popen.pid
    os.kill(before, signal.SIGKILL)
    compiler.from_schema(BOOK).mask([], np.zeros(SIZE, np.float32))
    assert compiler._process._popen.pid != before


def test_pieces(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Noé — “¿qué?” 🙂", add_special_tokens=False)
    assert b"".join(map(compiler.piece, ids)).decode() == "Noé — “¿qué?” 🙂"
    assert compiler.piece(0) == LLTokenizer(tokenizer.to_json()).decode_bytes([0])


def _children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return list(map(int, text.split()))


def _until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- over HTTP

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def with_schema(schema: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {"messages": HELLO, "response_format": form, "max_tokens": 40, "temperature": 0}


def test_one_request_does_not_end_the_server(server: Server) -> None:
    """A stream that runs beside it goes on to its end."""
    body = {"prompt": "In the", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with server.http as http, http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        error = error_of(server.post(CHAT, with_schema(ref_chain(5_000))), 400)
        assert error["code"] == "invalid_json_schema"
        lark = {"syntax": "lark", "definition": lark_rules(20_000)}
        error = error_of(server.post(CHAT, {"messages": HELLO, "grammar": lark}), 400)
        assert error["code"] == "invalid_grammar"
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    assert server.process.poll() is None


def test_limits_met_while_generating(server: Server) -> None:
    """The request is at fault: no 503, nothing to try again, nothing of the parser's state."""
    properties = {f"p{i}": {"type": "integer"} for i in range(2_000)}
    answer = server.post(CHAT, with_schema({"type": "object", "properties": properties}))
    error = error_of(answer, 400)
    assert "retry-after" not in answer.headers
    assert "row" not in error["message"]
    assert len(error["message"]) < 300
