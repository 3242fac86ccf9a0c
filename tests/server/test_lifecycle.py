"""Many clients, clients that go, logs, metrics, and the end of the server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from tests.server.conftest import Server

from edgec.artifact import Artifact
from edgec.runtime.server import app
from edgec.runtime.server.log import RequestLog
from edgec.runtime.server.main import batch_hint
from edgec.runtime.server.options import ServerOptions
from edgec.runtime.server.service import Service

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
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        )
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
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        )
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
    assert server.log(wrong.headers["x-request-id"])["error"] == "missing_required_parameter"


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


def test_loading() -> None:
    """Until the model is there, 503 and when to come again."""
    service = Service(ServerOptions())
    transport = httpx2.ASGITransport(app.create_app(service))

    async def ask() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/health")

    answer = asyncio.run(ask())
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_loading"
    assert int(answer.headers["retry-after"]) > 0


def test_sigterm_ends_a_server_in_peace(
    start_server: Callable[..., Server], tiny_dense_artifact: Artifact
) -> None:
    server = start_server(tiny_dense_artifact)
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


def test_an_artifact_without_batch_sizes_is_told_of(server: Server) -> None:
    assert "--batch 1,4" in "".join(server.errors)
    assert batch_hint((1, 4)) == ""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(
    start_server: Callable[..., Server], tiny_dense_artifact: Artifact, sent: signal.Signals
) -> None:
    """The streams end with an error; nothing but our own words is on stderr."""
    server = start_server(tiny_dense_artifact)
    lines: list[str] = []

    def read() -> None:
        body = {**ENDLESS, "stream": True, "max_tokens": 1000}
        with server.http as http, http.stream("POST", "/v1/completions", json=body) as stream:
            lines.extend(stream.iter_lines())

    readers = [threading.Thread(target=read) for _ in range(12)]
    for each in readers:
        each.start()
    server.wait_metrics(decoding=8)
    server.process.send_signal(sent)
    time.sleep(0.2)
    server.process.send_signal(sent)
    started = time.monotonic()
    assert server.process.wait(30) == 0
    assert time.monotonic() - started < 20
    for each in readers:
        each.join(10)
    assert any('"code":"server_stopping"' in line for line in lines)
    assert "Traceback" not in "".join(server.errors)
    assert "CancelledError" not in "".join(server.errors)


def test_a_stream_begins_before_its_first_token(
    start_server: Callable[..., Server], tiny_dense_artifact: Artifact
) -> None:
    """Behind a queue too: its headers come while the one before it still runs."""
    server = start_server(tiny_dense_artifact, "--memory", "2200K", "--shutdown-timeout", "0")
    body = {**ENDLESS, "stream": True, "max_tokens": 1000}
    running = threading.Event()

    def occupy() -> None:
        with server.http as http, contextlib.suppress(httpx2.HTTPError):
            while not running.is_set():
                http.post("/v1/completions", json={**body, "stream": False})

    others = [threading.Thread(target=occupy) for _ in range(12)]
    for each in others:
        each.start()
    server.wait_metrics(decoding=1)
    with server.http as http, http.stream("POST", "/v1/completions", json=body) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert server.metrics()["edgec_queued_requests"] > 0
    running.set()
    server.stop()
    for each in others:
        each.join(30)


def test_pings_while_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "PING_SECONDS", 0.1)

    async def run() -> list[bytes]:
        async def events() -> Any:
            await asyncio.sleep(0.35)
            yield b"data: 1\n\n"
            yield b"data: 2\n\n"

        given = events()
        first = asyncio.ensure_future(app._next(given))
        return [data async for data in app._with_pings(first, given)]

    data = asyncio.run(run())
    assert data[:2] == [b": ping\n\n"] * 2  # a comment, by the standard of server-sent events
    assert data[-2:] == [b"data: 1\n\n", b"data: 2\n\n"]


def test_prompts_of_others_are_not_told_of(server: Server) -> None:
    """Neither in usage nor in timings: reuse stays within a key and user."""
    text = "The secret word of the house of Alice is a long one, which nobody must guess. " * 2

    def cached(**who: str) -> int:
        body = {"prompt": text, "max_tokens": 1, "temperature": 0, **who}
        answer = server.post("/v1/completions", body).json()
        told: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert answer["timings"]["cache_n"] == told
        return told

    assert cached(user="alice", session_id="one") == 0
    assert cached(user="alice") > 0
    assert cached(user="bob") == 0
    assert cached(user="carol", session_id="one") == 0
    assert cached() == 0
    assert cached() > 0


def test_prompts_are_shared_where_that_is_wanted(
    start_server: Callable[..., Server], tiny_dense_artifact: Artifact
) -> None:
    keys = ("--api-key", "a", "--api-key", "b")
    for flags, shared in (((), False), (("--share-cache",), True)):
        server = start_server(tiny_dense_artifact, *keys, *flags)
        used = []
        for key in "ab":
            body = {"prompt": "word " * 100, "max_tokens": 1, "user": f"user of {key}"}
            headers = {"Authorization": f"Bearer {key}"}
            answer = server.post("/v1/completions", body, headers=headers)
            used.append(answer.json()["timings"]["cache_n"])
        assert used[0] == 0
        assert (used[1] > 0) == shared
        server.stop()


def test_log_is_ascii_and_goes_on() -> None:
    """Nothing in it controls a terminal; a line that cannot be written is not the last one."""

    class Full(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    log = RequestLog(stream)
    log.write({"user": "lost"})
    while not log._dropped:
        time.sleep(0.01)
    stream.full = False
    user = "a\x9b31m\u2028\u202eé\ud800"
    log.write({"user": user})
    log.write({"user": "b"})
    log.close()
    lines = list(map(json.loads, stream.getvalue().splitlines()))
    assert stream.getvalue().isascii()
    assert lines == [{"user": user, "dropped": 1}, {"user": "b"}]


def _address(server: Server) -> tuple[str, int]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return host, int(port)
