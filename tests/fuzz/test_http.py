"""Mutated requests against a running server: every answer is one of ours, and none is a 500."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.fuzz.cases import mutate_bytes, mutate_json
from tests.server.conftest import Server, start_server

from edgec.artifact import Artifact

__all__ = ["start_server"]  # the fixture

pytestmark = pytest.mark.xdist_group("server")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
WEATHER = {
    "name": "get_weather", "description": "The weather", "strict": True,
    "parameters": {
        "type": "object", "required": ["city"], "additionalProperties": False,
        "properties": {"city": {"type": "string", "maxLength": 9}, "days": {"type": "integer"}},
    },
}  # fmt: skip
SCHEMA = {
    "type": "object", "required": ["a", "b"], "$defs": {"n": {"type": "number", "maximum": 9}},
    "properties": {
        "a": {"$ref": "#/$defs/n"}, "b": {"enum": ["x", 1, None]},
        "c": {"type": "array", "items": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}},
        "d": {"type": "string", "pattern": "^[a-z]{1,3}$"}, "e": {"format": "date"},
    },
}  # fmt: skip
BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}),
    (CHAT, {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "a"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function",
                 "function": {"name": "get_weather", "arguments": "{\"city\": \"Rome\"}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        ],
        "tools": [{"type": "function", "function": WEATHER}], "tool_choice": "auto",
        "parallel_tool_calls": False, "max_completion_tokens": 3, "stream": True,
        "stream_options": {"include_usage": True},
    }),
    (CHAT, {
        "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "temperature": 0.5,
        "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 1, "n": 2, "stop": ["x", "y"],
        "logprobs": True, "top_logprobs": 2, "presence_penalty": 0.5, "frequency_penalty": 0.5,
        "repetition_penalty": 1.1, "logit_bias": {"5": -100}, "user": "u", "session_id": "s",
        "cache_prompt": True, "ignore_eos": False, "chat_template_kwargs": {"x": 1},
    }),
    (CHAT, {
        "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
        },
    }),
    (CHAT, {
        "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4,
        "tools": [{"type": "function", "function": WEATHER}], "tool_choice": "required",
    }),
    (CHAT, {
        "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4,
        "grammar": {"syntax": "lark", "definition": "start: \"a\" b+\nb: /[0-9]{1,3}/"},
    }),
    (COMPLETIONS, {
        "prompt": "In the", "max_tokens": 2, "echo": True, "n": 1, "best_of": 1, "suffix": "",
        "grammar": {"syntax": "regex", "definition": "(a|b)*c{1,4}"},
    }),
    (COMPLETIONS, {"prompt": [[1, 2], [3]], "max_tokens": 2, "logprobs": 1, "stream": True}),
    ("/tokenize", {"content": "In the beginning", "add_special": True, "with_pieces": True}),
    ("/detokenize", {"tokens": [1, 2, 3, 1000]}),
]  # fmt: skip
LONGEST = 30


@pytest.fixture(scope="module")
def target(start_server: Callable[..., Server], tiny_dense_artifact: Artifact) -> Iterator[Server]:
    server = start_server(tiny_dense_artifact, "--timeout", "10", "--client-timeout", "5")
    yield server
    assert server.stop() == 0


def mutants(seed: int) -> Iterator[tuple[str, bytes]]:
    """Bodies: of JSON that was changed at up to three places, or at some bytes."""
    draw = random.Random(seed)
    while True:
        path, body = draw.choice(BODIES)
        for _ in range(draw.randint(1, 3)):
            body = mutate_json(draw, body)
        data = json.dumps(body).encode()
        yield path, mutate_bytes(draw, data) if draw.random() < 0.25 else data


def check_bodies(server: Server, seed: int, count: int) -> None:
    given = mutants(seed)
    with server.http as http:
        for _ in range(count):
            path, body = next(given)
            case = f"{path} {body[:2000]!r}"
            started = time.monotonic()
            answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code in (200, 400, 404, 413, 422, 504), f"{case}\n{answer.text}"
            assert time.monotonic() - started < LONGEST, case
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert set(error) == {"message", "type", "param", "code"}, case
                assert len(error["message"]) < 10_000, case
            elif answer.headers["content-type"] == "text/event-stream":
                assert answer.text.endswith("data: [DONE]\n\n"), case
                assert '"internal_error"' not in answer.text, f"{case}\n{answer.text}"
                assert '"device_error"' not in answer.text, f"{case}\n{answer.text}"
            assert http.get("/health").status_code == 200, case
    assert "Traceback" not in "".join(server.errors)


def test_bodies(target: Server) -> None:
    check_bodies(target, 15, 80)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_many_bodies(target: Server, seed: int) -> None:
    check_bodies(target, 1_000 + seed, 500)


REQUESTS = [
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: close\r\n\r\n",
    (b"OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
    b"Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n"),
    (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 17\r\nConnection: close\r\n\r\n{\"content\": \"a b\"}"),
    (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b"8\r\n{\"conten\r\n9\r\nt\": \"ab\"}\r\n0\r\n\r\n"),
    (b"GET /page/app.js HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-9\r\n"
    b"If-None-Match: \"x\"\r\nConnection: close\r\n\r\n"),
    (b"GET /v1/models/a%2fb%ff?x=1&y HTTP/1.1\r\nHost: localhost\r\n"
    b"Authorization: Bearer x\r\nCookie: a=b\r\nConnection: close\r\n\r\n"),
]  # fmt: skip


def check_requests(server: Server, seed: int, count: int) -> None:
    draw = random.Random(seed)
    where = urlsplit(server.url)
    for _ in range(count):
        data = mutate_bytes(draw, draw.choice(REQUESTS))
        answer = b""
        with socket.create_connection((where.hostname or "", where.port or 0), 30) as client:
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while piece := client.recv(65536):
                    answer += piece
            except ConnectionError:
                pass
        for line in answer.split(b"\r\n"):
            assert not line.startswith(b"HTTP/1.1 5"), f"{data!r}\n{answer[:1000]!r}"
        with server.http as http:
            assert http.get("/health").status_code == 200, f"{data!r}"
    assert "Traceback" not in "".join(server.errors)


def test_requests(target: Server) -> None:
    check_requests(target, 15, 50)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_many_requests(target: Server, seed: int) -> None:
    check_requests(target, 2_000 + seed, 500)


DEEP = 100_000
HUGE = "9" * 5_000


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    "body",
    ["[" * DEEP, '{"a":' * DEEP, '{"messages":' + "[" * DEEP + "]" * DEEP + "}",
     '{"prompt":' + "[" * 500 + "]" * 500 + "}", f'{{"max_tokens":{HUGE}}}',
     f'{{"prompt":[{HUGE}],"messages":{HUGE},"tokens":[{HUGE}],"content":{HUGE}}}',
     f'{{"prompt":"a","logit_bias":{{"{HUGE}":1}}}}', '{"prompt":[1e999]}', '{"prompt":[NaN]}',
     '{"prompt":"a","seed":1e400}', '"\\ud800"', '{"prompt":"\\ud800"}', '{"content":"\\udfff"}',
     '{"tokens":[2147483647,0,-1]}', '{"tokens":[2147483647]}', '{"\\ud800":1}', "\x00", "nul",
     '{"prompt":"a","user":"\\ud800","max_tokens":1}', '{"prompt":"a","stop":"\\ud800"}'],
    ids=range(20),
)  # fmt: skip
def test_extremes(target: Server, path: str, body: str) -> None:
    answer = target.post(path, body)
    assert answer.status_code in (200, 400, 413, 422), answer.text
    with target.http as http:
        assert http.get("/health").status_code == 200
    assert "Traceback" not in "".join(target.errors)
