"""Large bodies: refused before work is done for them, and nobody waits for what is done."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Server
from tests.server.test_bad_input import error_of

from edgec.artifact import Artifact
from edgec.runtime.tokenizer import Tokenizer

CHAT = "/v1/chat/completions"
LARGE = 3_900_000


def chat(content: str, count: int = 1) -> str:
    return json.dumps({"messages": [{"role": "user", "content": content}] * count})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat("a" * LARGE)),
        (CHAT, chat("word " * (LARGE // 5))),
        (CHAT, chat("a", 100_000)),
        ("/v1/completions", json.dumps({"prompt": "a" * LARGE})),
        ("/tokenize", json.dumps({"content": " " * LARGE})),
    ],
    ids=["one word", "words", "messages", "completion", "tokenize"],
)
def test_what_cannot_fit_is_refused_unread(server: Server, path: str, body: str) -> None:
    error = error_of(server.post(path, body), 413)
    assert error["code"] == "request_too_large"
    assert "589824 bytes" in error["message"]  # 512 KiB and 64 bytes for each of 1,024 tokens


@pytest.mark.alone
def test_nobody_waits_for_a_large_body(
    start_server: Callable[..., Server], tiny_dense_artifact: Artifact
) -> None:
    """The worst /health while each of them is dealt with; it was 15 seconds."""
    server = start_server(tiny_dense_artifact, "--max-body", "8M")
    worst, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal worst
        with server.http as http:
            while not done.wait(0.02):
                started = time.monotonic()
                assert http.get("/health").status_code == 200
                worst = max(worst, time.monotonic() - started)

    watcher = threading.Thread(target=watch)
    watcher.start()
    answers: list[Any] = []
    try:
        for body in (chat("a" * LARGE), chat("word " * (LARGE // 5)), chat("a", 100_000)):
            answers.append(server.post(CHAT, body))
        ids = server.post("/tokenize", {"content": " word" * (LARGE // 5)}).json()["tokens"]
        text = server.post("/detokenize", {"tokens": ids}).json()["content"]
    finally:
        done.set()
        watcher.join()
    server.stop()
    assert {error_of(answer, 400)["code"] for answer in answers} == {"context_length_exceeded"}
    assert text == " word" * (LARGE // 5)
    assert worst < 3


def test_other_threads_run_while_a_text_is_encoded(repository: Path) -> None:
    """The encoder lets go of the interpreter's lock, so the server's loop goes on."""
    tokenizer = Tokenizer(repository / "models/bundled/tiny-dense")
    text, turns = "a" * 1_000_000, 0
    encoder = threading.Thread(target=tokenizer.encode, args=(text,))
    encoder.start()
    while encoder.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 20
    assert tokenizer.decode(tokenizer.encode("word " * 2_000)) == "word " * 2_000
