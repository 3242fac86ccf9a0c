"""Many clients, clients that go, logs, metrics, and the end of the server."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.server.conftest import Server

from edgec.artifact import Artifact

ENDLESS = {"prompt": "In the", "max_tokens": 900, "ignore_eos": True, "temperature": 0}


def test_eight_clients_get_what_each_gets_alone(server: Server) -> None:
    def ask(number: int) -> str:
        # Of different lengths, so that prompts and steps of different requests meet.
        words = "And it came to pass in those days " * (number * number)
        with server.http as http:
            body = {
                "prompt": f"{number} {words}", "max_tokens": 24, "temperature": 0,
                "cache_prompt": number % 2 == 0, "ignore_eos": True,
            }  # fmt: skip
            answer = http.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            text: str = answer.json()["choices"][0]["text"]
            return text

    alone = [ask(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            assert list(pool.map(ask, range(8))) == alone


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_goes_stops_the_generation(server: Server, stream: bool) -> None:
    before = server.metrics()['edgec_generations_total{end="cancelled"}']
    with socket.create_connection(_address(server)) as client:
        body = json.dumps({**ENDLESS, "max_tokens": 1000, "stream": stream})
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        if stream:
            assert b"200 OK" in client.recv(4096)
        else:
            server.wait_metrics(decoding=1)
    server.wait_metrics(decoding=0, prefilling=0)
    assert server.metrics()['edgec_generations_total{end="cancelled"}'] == before + 1


def test_client_that_does_not_read(tool_server: Server) -> None:
    """It gets what fits in the buffers; then its generation ends, and others go on."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect(_address(tool_server))
        body = json.dumps({**ENDLESS, "stream": True, "logprobs": 5})
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += "Authorization: Bearer secret\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        tool_server.wait_metrics(decoding=1)
        tool_server.wait_metrics(decoding=0)
        answer = tool_server.post(
            "/v1/completions", {**ENDLESS, "max_tokens": 4},
            headers={"Authorization": "Bearer secret"},
        )  # fmt: skip
        assert answer.status_code == 200


def test_log_line(server: Server) -> None:
    body = {**ENDLESS, "max_tokens": 8, "user": "me", "session_id": "s"}
    answer = server.post("/v1/completions", body)
    line = server.log(answer.headers["x-request-id"])
    usage = answer.json()["usage"]
    assert line["path"] == "/v1/completions"
    assert line["status"] == 200
    assert line["user"] == "me"
    assert line["session_id"] == "s"
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["completion_tokens"] == 8
    assert line["finish_reason"] == ["length"]
    assert list(line["phases"]) == ["waiting_ms", "prefill_ms", "decode_ms"]
    assert sum(line["phases"].values()) <= line["ms"] + 1
    wrong = server.post("/v1/completions", {"bogus": 1})
    assert server.log(wrong.headers["x-request-id"])["error"] == "unknown_parameter"


def test_metrics(server: Server) -> None:
    before = server.metrics()
    answer = server.post("/v1/completions", {**ENDLESS, "max_tokens": 5})
    usage = answer.json()["usage"]
    after = server.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("edgec_completion_tokens_total") == 5
    assert grown("edgec_prompt_tokens_total") == usage["prompt_tokens"]
    assert grown("edgec_time_to_first_token_seconds_count") == 1
    assert grown('edgec_requests_total{path="/v1/completions",status="200"}') == 1
    assert after["process_resident_memory_bytes"] > 1e7
    assert after["edgec_state_bytes"] <= after["edgec_state_budget_bytes"]


def test_tokenize(server: Server) -> None:
    text = "In the beginning — “¿qué?” 🙂"
    tokens = server.post("/tokenize", {"content": text}).json()["tokens"]
    assert server.post("/detokenize", {"tokens": tokens}).json() == {"content": text}
    pieces = server.post("/tokenize", {"content": text, "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == tokens
    data = b"".join(
        p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces
    )
    assert data.decode() == text
    assert any(isinstance(piece["piece"], list) for piece in pieces)  # a part of a character


def test_loading(start_server: Callable[..., Server], tiny_dense_artifact: Artifact) -> None:
    """Until the model is there, 503 and when to come again; then SIGTERM ends a server in peace."""
    server = start_server(tiny_dense_artifact, wait=False)
    answers = set()
    end = time.monotonic() + 60
    with server.http as http:
        while (answer := http.get("/health")).status_code != 200:
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "model_loading"
            assert int(answer.headers["retry-after"]) > 0
            answers.add(answer.status_code)
            assert time.monotonic() < end
        assert answers == {503}
        assert answer.json() == {"status": "ok"}
    # A stream that runs is finished; what comes later is refused.
    texts: list[Any] = []

    def read() -> None:
        with server.http as http:
            body = {**ENDLESS, "max_tokens": 300, "stream": True}
            with http.stream("POST", "/v1/completions", json=body) as stream:
                texts.extend(stream.iter_lines())

    reader = threading.Thread(target=read)
    reader.start()
    while not texts:
        time.sleep(0.01)
    with server.http as kept:
        assert kept.get("/health").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        reader.join(60)
    assert texts[-2:] == ["data: [DONE]", ""]
    assert '"finish_reason":"length"' in texts[-4]
    assert server.process.wait(30) == 0


def test_streams_end_at_the_shutdown_timeout(
    start_server: Callable[..., Server], tiny_dense_artifact: Artifact
) -> None:
    server = start_server(tiny_dense_artifact, "--shutdown-timeout", "0")
    body = {**ENDLESS, "stream": True}
    with server.http as http, http.stream("POST", "/v1/completions", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGINT)
        rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""]
    assert '"code":"server_stopping"' in rest[-4]
    assert server.process.wait(30) == 0


def _address(server: Server) -> tuple[str, int]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return host, int(port)
