"""Whatever comes in, the answer has the right status and OpenAI's form, and the server goes on."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from tests.server.conftest import MISCHIEF, Server

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def error_of(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "x-request-id" in answer.headers
    return error


@pytest.mark.parametrize("body", ["", "{", "nonsense", "[]", '"text"', "[" * 100_000, b"\xff\xfe"])
def test_malformed_json(server: Server, body: Any) -> None:
    error_of(server.post(CHAT, body), 400)


def test_not_said_to_be_json(server: Server) -> None:
    answer = server.post(
        CHAT, json.dumps({"messages": HELLO}), headers={"Content-Type": "text/plain"}
    )
    assert "application/json" in error_of(answer, 400)["message"]


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("max_tokens", "4", "max_tokens"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", True, "max_tokens"),
        ("temperature", "hot", "temperature"),
        ("temperature", -1, "temperature"),
        ("top_p", 1.5, "top_p"),
        ("n", 1000, "n"),
        ("stop", ["a", 5], "stop"),
        ("stop", ["a"] * 2000, "stop"),
        ("stop", "", "stop"),
        ("stream", "yes", "stream"),
        ("logit_bias", {"99999": 1}, "logit_bias"),
        ("top_logprobs", 3, "top_logprobs"),
        ("max_tokens", -2, "max_tokens"),
        ("max_completion_tokens", 0, "max_completion_tokens"),
        ("mirostat", 2, "mirostat"),
        ("typical_p", 0.5, "typical_p"),
        ("functions", [{"name": "f"}], "functions"),
        ("function_call", {"name": "f"}, "function_call"),
        ("web_search_options", {}, "web_search_options"),
        ("guided_choice", [], "guided_choice"),
        ("guided_regex", "(", "grammar"),
        ("grammar", 'root ::= "yes"', "grammar"),
        ("modalities", ["audio"], "modalities.0"),
        ("messages", [], "messages"),
        ("messages", "Hello", "messages"),
        ("messages", [{"role": "king", "content": "x"}], "messages.0.role"),
        ("messages", [{"role": "user"}], "messages.0.content"),
        ("messages", [{"role": "user", "content": "x", "audio": {"id": "a"}}], "messages.0.audio"),
        ("messages", [{"role": "user", "content": 5}], "messages.0.content"),
        ("chat_template_kwargs", {"messages": []}, "chat_template_kwargs"),
        ("chat_template_kwargs", {"self": 1}, "chat_template_kwargs"),
        ("chat_template_kwargs", {"add_generation_prompt": False}, "chat_template_kwargs"),
        ("logit_bias", {"9" * 5000: 1}, "logit_bias"),
        ("tools", [{"type": "function", "function": {"name": "f"}}], "tools"),
        ("tool_choice", "required", "tool_choice"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}, "tool_choice"),
        ("session_id", "", "session_id"),
        ("grammar", {"syntax": "regex", "definition": "(a"}, "grammar"),
        ("grammar", {"syntax": "lark", "definition": "start: nowhere"}, "grammar"),
        ("response_format", {"type": "xml"}, "response_format"),
    ],
)
def test_wrong_fields(server: Server, field: str, value: Any, param: str) -> None:
    answer = server.post(CHAT, {"messages": HELLO, "max_tokens": 4, field: value})
    error = error_of(answer, 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_missing_field(server: Server) -> None:
    assert error_of(server.post(CHAT, {}), 400)["param"] == "messages"
    assert error_of(server.post("/v1/completions", {}), 400)["param"] == "prompt"
    assert error_of(server.post("/tokenize", {"content": 4}), 400)["param"] == "content"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_no_images(server: Server, kind: str) -> None:
    content = [{"type": "text", "text": "What is it?"}, {"type": kind, kind: {"url": "data:,"}}]
    answer = server.post(CHAT, {"messages": [{"role": "user", "content": content}]})
    error = error_of(answer, 400)
    assert error["param"] == "messages.0.content"
    assert "text only" in error["message"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "wish"},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#/nowhere"},
        {"type": "object", "required": ["a"], "properties": {"a": False}},
    ],
)
def test_impossible_schema(server: Server, schema: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = server.post(CHAT, {"messages": HELLO, "response_format": form, "max_tokens": 8})
    assert error_of(answer, 400)["code"] == "invalid_json_schema"


def test_too_long(server: Server) -> None:
    words = [{"role": "user", "content": "word " * 3000}]
    error = error_of(server.post(CHAT, {"messages": words}), 400)
    assert error["code"] == "context_length_exceeded"
    assert "1024" in error["message"]
    answer = server.post("/v1/completions", {"prompt": [[1], [1] * 1024]})
    assert error_of(answer, 400)["code"] == "context_length_exceeded"
    error_of(server.post("/v1/completions", {"prompt": ""}), 400)
    error_of(server.post("/v1/completions", {"prompt": [70_000]}), 400)


def test_unknown_places(server: Server) -> None:
    with server.http as http:
        assert error_of(http.get("/v1/nothing"), 404)["code"] == "unknown_url"
        assert error_of(http.get(CHAT), 405)["code"] == "method_not_allowed"
        assert error_of(http.get("/v1/models/other"), 404)["code"] == "model_not_found"
        assert error_of(http.get("/page/../conftest.py"), 404)


@pytest.mark.parametrize("key", [None, "Bearer", "Bearer wrong", "secret", "Bearer sécret"])
def test_key(tool_server: Server, key: str | None) -> None:
    headers = [] if key is None else [(b"Authorization", key.encode())]
    with tool_server.http as http:
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            answer = http.get(path, headers=headers)
            assert error_of(answer, 401)["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/health", "/", "/page/app.js"):
            assert http.get(path, headers=headers).status_code == 200


def test_oversize_body(tool_server: Server) -> None:
    messages = [{"role": "user", "content": "x" * 30_000}]
    headers = {"Authorization": "Bearer secret"}
    answer = tool_server.post(CHAT, {"messages": messages}, headers=headers)
    assert error_of(answer, 413)["code"] == "request_too_large"

    def endless() -> Any:
        for _ in range(100):
            yield b"x" * 1000

    with tool_server.http as http:
        assert http.post(CHAT, content=endless(), headers=headers).status_code == 413


def test_body_that_does_not_come(tool_server: Server) -> None:
    where = urlsplit(tool_server.url)
    assert where.hostname
    with socket.create_connection((where.hostname, where.port or 0), timeout=20) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
        client.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_queue_is_full(tool_server: Server) -> None:
    # There is memory for one sequence, and one request may wait.
    headers = {"Authorization": "Bearer secret"}
    body = {"prompt": "In the", "max_tokens": 900, "ignore_eos": True}

    def ask() -> httpx2.Response:
        return tool_server.post("/v1/completions", body, headers=headers)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ask)]
        tool_server.wait_metrics(decoding=1)
        running.append(pool.submit(ask))
        tool_server.wait_metrics(queued_requests=1)
        answer = ask()
        assert error_of(answer, 429)["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) > 0
        assert [each.result().status_code for each in running] == [200, 200]


def test_more_choices_than_may_ever_wait(tool_server: Server) -> None:
    headers = {"Authorization": "Bearer secret"}
    for body in ({"prompt": "In the", "n": 2}, {"prompt": ["In the", "On a"]}):
        answer = tool_server.post("/v1/completions", {**body, "max_tokens": 1}, headers=headers)
        assert "2 choices" in error_of(answer, 400)["message"]


def test_template_that_misbehaves(
    start_server: Callable[..., Server], with_template: Callable[[str], Path]
) -> None:
    server = start_server(with_template(MISCHIEF), "--template-timeout", "3")

    def ask(word: str) -> httpx2.Response:
        body = {"messages": [{"role": "user", "content": word}], "max_tokens": 2}
        return server.post(CHAT, body)

    for word, status, code in (
        ("loop", 500, "template_failed"),
        ("memory", 500, "template_failed"),
        ("escape", 400, "chat_template_refused"),
        ("refuse", 400, "chat_template_refused"),
        ("long", 500, "template_failed"),
    ):
        started = time.monotonic()
        assert error_of(ask(word), status)["code"] == code
        assert time.monotonic() - started < 30
        assert ask("Hello").status_code == 200
    assert server.stop() == 0
