"""A web page that was not meant to reach the server does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.server.conftest import Server
from tests.server.test_bad_input import error_of

from edgec.artifact import Artifact
from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.options import ServerOptions
from edgec.runtime.server.origin import check_host, check_origin

HELLO = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def open_server(
    start_server: Callable[..., Server], tiny_dense_artifact: Artifact
) -> Iterator[Server]:
    """Used by a page of another server, under another name, by two keys' owners."""
    server = start_server(
        tiny_dense_artifact,
        *("--allowed-host", "box.lan", "--cors-origin", "https://ui.example"),
        *("--api-key", "secret", "--api-key", "other"),
    )
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("localhost:8000", True), ("127.0.0.1:8000", True), ("[::1]:8000", True), ("[::1]", True),
        ("10.1.2.3", True), ("LOCALHOST", True), ("app.localhost:80", True), ("localhost.", True),
        ("evil.example:8000", False), ("evil.example", False), ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False), ("evil-localhost", False), ("", False), ("a:b:c", False),
    ],
)  # fmt: skip
def test_names(host: str, taken: bool) -> None:
    def is_taken(options: ServerOptions) -> bool:
        try:
            check_host(options, {b"host": host.encode()})
        except ApiError as error:
            assert error.status == 403
            return False
        return True

    assert is_taken(ServerOptions()) == taken
    assert is_taken(ServerOptions(host="::1")) == taken
    assert is_taken(ServerOptions(host="0.0.0.0"))  # who knows by which names
    assert is_taken(ServerOptions(host="0.0.0.0", allowed_hosts=("box.lan",))) == taken
    assert is_taken(ServerOptions(allowed_hosts=("*",)))
    if (name := host.partition(":")[0]) and host.count(":") < 2:
        assert is_taken(ServerOptions(allowed_hosts=(name.upper(),)))


@pytest.mark.parametrize(
    ("origin", "host", "taken"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://127.0.0.1:3000", "127.0.0.1:8000", False),
        ("http://localhost:8000", "127.0.0.1:8000", False),
        ("https://box.lan", "box.lan", True),  # a proxy with TLS
        ("https://box.lan:443", "box.lan", True),
        ("http://evil.example", "127.0.0.1:8000", False),
        ("null", "127.0.0.1:8000", False),
        ("http://[", "127.0.0.1:8000", False),
    ],
)
def test_pages(origin: str, host: str, taken: bool) -> None:
    headers = {b"origin": origin.encode(), b"host": host.encode()}
    options = ServerOptions()
    if taken:
        check_origin(options, headers)
    else:
        with pytest.raises(ApiError, match="--cors-origin"):
            check_origin(options, headers)
    check_origin(ServerOptions(cors_origins=("*",)), headers)
    check_origin(ServerOptions(cors_origins=(origin + "/",)), headers)


def test_rebinding(server: Server) -> None:
    for path in ("/", "/health", "/v1/models"):
        with server.http as http:
            answer = http.get(path, headers={"Host": "evil.example:8000"})
            assert error_of(answer, 403)["code"] == "host_not_allowed"
            answer = http.get(path, headers={"Origin": "http://evil.example"})
            assert error_of(answer, 403)["code"] == "origin_not_allowed"
            assert "access-control-allow-origin" not in answer.headers
    answer = server.post("/v1/chat/completions", HELLO, headers={"Origin": "null"})
    assert error_of(answer, 403)["code"] == "origin_not_allowed"
    same = server.post("/v1/chat/completions", HELLO, headers={"Origin": server.url})
    assert same.status_code == 200
    assert "access-control-allow-origin" not in same.headers


def test_allowed(open_server: Server) -> None:
    headers = {"Host": "box.lan", "Origin": "https://ui.example", "Authorization": "bearer other"}
    answer = open_server.post("/v1/chat/completions", HELLO, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://ui.example"
    assert answer.headers["vary"] == "Origin"
    with open_server.http as http:
        # The page must be able to read why it was refused.
        answer = http.get("/v1/models", headers={"Origin": "https://ui.example"})
        assert error_of(answer, 401)
        assert answer.headers["access-control-allow-origin"] == "https://ui.example"
        answer = http.get("/health", headers={"Origin": "https://other.example"})
        assert error_of(answer, 403)


def test_preflight(open_server: Server) -> None:
    headers = {
        "Origin": "https://ui.example", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }  # fmt: skip
    with open_server.http as http:
        answer = http.options("/v1/chat/completions", headers=headers)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "https://ui.example"
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "POST" in answer.headers["access-control-allow-methods"]
        answer = http.options("/health")
        assert answer.status_code == 204
        assert "GET" in answer.headers["allow"]
        answer = http.options("/health", headers={**headers, "Origin": "https://evil.example"})
        assert answer.status_code == 403


@pytest.mark.parametrize("key", ["Bearer secret", "bearer other", "BEARER  secret"])
def test_keys(open_server: Server, key: str) -> None:
    with open_server.http as http:
        assert http.get("/v1/models", headers={"Authorization": key}).status_code == 200


def test_head_and_slashes(server: Server) -> None:
    with server.http as http:
        for path in ("/", "/health", "/metrics", "/page/app.js"):
            answer = http.head(path)
            assert answer.status_code == 200
            assert answer.content == b""
        assert http.head("/health").headers["content-length"] == "15"
        assert error_of(http.get("/v1/nothing/"), 404)
        assert http.get("/v1/models/").json() == http.get("/v1/models").json()
        for path in ("/", "/page/index.html", "/page/app.js"):
            assert "script-src 'self'" in http.get(path).headers["content-security-policy"]
    answer: Any = server.post("/v1/chat/completions/", HELLO)
    assert answer.status_code == 200
