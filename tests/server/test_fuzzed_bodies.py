"""Bodies made from good ones by chance: the answer is an answer or an error, never a 500."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tests.fuzz.cases import mutate_json
from tests.server.conftest import Server
from tests.server.test_openai import WEATHER

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
MESSAGES: list[Any] = [
    {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
    {"role": "user", "content": "Hello", "name": "n"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "r"},
    {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
]
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 0, "exclusiveMaximum": 9},
        "b": {
            "anyOf": [{"type": "string", "format": "date", "maxLength": 9}, {"$ref": "#/$defs/D"}]
        },
        "c": {"oneOf": [{"const": 1}, {"enum": ["x", None]}]},
    },
    "required": ["a"],
    "$defs": {"D": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
}
SAMPLING = {
    "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 1, "n": 1, "stop": ["x"],
    "presence_penalty": 1, "frequency_penalty": 1, "repetition_penalty": 1.1, "min_tokens": 1,
    "logit_bias": {"5": 1}, "stop_token_ids": [7], "user": "u", "session_id": "s",
    "metadata": {"a": "b"}, "stream": False, "stream_options": {"include_usage": True},
}  # fmt: skip
BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": MESSAGES, **SAMPLING, "chat_template_kwargs": {"a": 1}}),
    (CHAT, {"messages": MESSAGES, "tools": [WEATHER], "tool_choice": "required"}),
    (CHAT, {"messages": MESSAGES[:2], "response_format": {
        "type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}}),
    (TEXT, {"prompt": "In the", **SAMPLING, "logprobs": 2, "echo": True}),
    (TEXT, {"prompt": [[5, 6], [7]], "logprobs": 2, "guided_choice": ["a", "b"]}),
    ("/tokenize", {"content": "In the", "with_pieces": True, "add_special": True}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]  # fmt: skip


def check(server: Server, number: int) -> None:
    chance = random.Random(number)
    path, body = chance.choice(BODIES)
    mutated = body
    for _ in range(chance.randint(1, 3)):
        mutated = mutate_json(chance, mutated)
    if isinstance(mutated, dict) and path in (CHAT, TEXT):
        mutated.setdefault("max_tokens", 3)
    text = json.dumps(mutated)
    headers = {"Authorization": f"Bearer {server.key}"}
    answer = server.post(path, text, headers=headers)
    assert answer.status_code in (200, 400, 404, 413, 429), (number, text[:1000], answer.text[:500])
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("start", range(0, 120, 40))
def test_no_body_breaks_the_server(tool_server: Server, start: int) -> None:
    for number in range(start, start + 40):
        check(tool_server, number)


@pytest.mark.slow
def test_no_body_breaks_the_server_in_thousands(tool_server: Server) -> None:
    for number in range(1000, 4000):
        check(tool_server, number)
    assert not [line for line in tool_server.errors if "Traceback" in line]


HALF = "a\ud83d"


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": HALF}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]},
        {"messages": [{"role": "user", "content": "x", HALF: HALF}]},
        {HALF: {HALF: [HALF]}},
        {"user": HALF, "session_id": HALF, "metadata": {HALF: HALF}},
        {"stop": HALF},
        {"chat_template_kwargs": {HALF: HALF}},
        {"model": HALF},
        {"tools": [{**WEATHER, "function": {**WEATHER["function"], "description": HALF}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {
            "properties": {HALF: {"enum": [HALF]}}}}}], "tool_choice": "required"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "properties": {HALF: {"const": HALF}}, "required": [HALF]}}}},
        {"grammar": {"syntax": "lark", "definition": f'start: "{HALF}"'}},
        {"guided_choice": [HALF]},
    ],
)  # fmt: skip
def test_halves_of_characters(tool_server: Server, fields: dict[str, Any]) -> None:
    headers = {"Authorization": "Bearer secret"}
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, **fields}
    answer = tool_server.post(CHAT, json.dumps(body), headers=headers)
    assert answer.status_code == 200, answer.text


def test_half_of_a_character_is_a_replacement_character(server: Server) -> None:
    def ids(text: bytes) -> Any:
        answer = server.post("/tokenize", b'{"content": "' + text + b'"}')
        return answer.json()["tokens"]

    whole = ids("a\ufffd".encode())
    assert ids(rb"a\ud83d") == ids(rb"a\uDE00") == ids(b"a\xed\xa0\xbd") == whole
    assert ids(rb"a\ud83d\ude00") == ids("a😀".encode())


@pytest.mark.parametrize(
    "text",
    [
        '{"messages": [], "seed": 1e999}', '{"messages": [], "x": NaN}', '{"x": -Infinity}',
        '{"x": ' + "[" * 300 + "]" * 300 + "}", '{"x": ' + "9" * 5000 + "}",
        '{"x": ' + "[" * 100_000, b"\xff\xfe{\x00}\x00", b'{"a": "\xff"}',
    ],
)  # fmt: skip
def test_what_is_no_json(server: Server, text: Any) -> None:
    answer = server.post(CHAT, text)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in ("invalid_json", "bad_request")
