"""Connections that say nothing, or too little, keep nobody from the server."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.server.conftest import Server

from edgec.artifact import Artifact

HALF = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "


def connect(server: Server, data: bytes = b"") -> socket.socket:
    where = urlsplit(server.url)
    assert where.hostname
    client = socket.create_connection((where.hostname, where.port or 0), timeout=20)
    client.sendall(data)
    return client


def rest(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    data = b""
    try:
        while piece := client.recv(4096):
            data += piece
    except ConnectionResetError:
        pass
    return data


@pytest.fixture(scope="module")
def narrow(start_server: Callable[..., Server], tiny_dense_artifact: Artifact) -> Iterator[Server]:
    flags = ("--client-timeout", "2", "--max-connections", "20", "--shutdown-timeout", "0")
    server = start_server(tiny_dense_artifact, *flags)
    yield server
    server.stop()


def test_a_head_that_does_not_come(narrow: Server) -> None:
    started = time.monotonic()
    with connect(narrow, HALF) as client:
        answer = rest(client)
    assert time.monotonic() - started < 15
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "request_timeout"


def test_a_head_that_drips(narrow: Server) -> None:
    """Each byte is no new beginning."""
    started = time.monotonic()
    with connect(narrow, HALF) as client:
        try:
            while time.monotonic() < started + 15:
                client.sendall(b"a")
                time.sleep(0.1)
        except OSError:
            pass
    assert time.monotonic() - started < 10


def test_nothing_at_all(narrow: Server) -> None:
    with connect(narrow) as client:
        assert rest(client) == b""


def test_a_second_head_that_does_not_come(narrow: Server) -> None:
    whole = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with connect(narrow, whole + HALF) as client:
        answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


@pytest.mark.parametrize("data", [HALF, b""])
def test_many_half_open_connections(narrow: Server, data: bytes) -> None:
    """The newest is served: one that has waited for longest goes."""
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(narrow, data))
            if _ % 10 == 9:
                with narrow.http as http:
                    assert http.get("/health").status_code == 200


def test_too_many_at_work(narrow: Server) -> None:
    """Connections at work are not closed for others, which are told so."""
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    )
    with ExitStack() as stack:
        # Their bodies do not come: they are at work until the timeout.
        for _ in range(20):
            client = stack.enter_context(connect(narrow, head))
            assert client.recv(4096).startswith(b"HTTP/1.1 100 ")
        with connect(narrow, b"GET /health HTTP/1.0\r\n\r\n") as client:
            assert b"too_many_connections" in rest(client)
    time.sleep(0.2)
    with narrow.http as http:
        assert http.get("/health").status_code == 200


def test_more_connections_than_files(tiny_dense_artifact: Artifact) -> None:
    """With 256 open files and 300 silent clients the server answers, and its log stays short."""

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    command = [
        sys.executable, "-c", "from edgec.cli import main; main()", "serve",
        str(tiny_dense_artifact.path), "--port", "0", "--shutdown-timeout", "0",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=few_files,
        env={**os.environ},
    )  # fmt: skip
    assert process.stderr
    server = Server(process, process.stderr.readline().split()[1])
    try:
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(connect(server, HALF))
            for _ in range(3):
                with server.http as http:
                    assert http.get("/health").status_code in (200, 503)
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert len(said) < 2_000


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02",
     b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"a" * 200_000],
)  # fmt: skip
def test_what_is_no_http(narrow: Server, data: bytes) -> None:
    with connect(narrow, data) as client:
        answer = rest(client)
    if answer:  # a client that still sends may see a reset in place of it
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 "))
        error: dict[str, Any] = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
