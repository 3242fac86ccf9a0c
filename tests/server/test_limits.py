"""Limits that cannot be seen from outside in time: a client that takes nothing, a missing extra."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

from starlette.types import Receive, Scope, Send

from edgec.runtime.request import Request
from edgec.runtime.results import StreamChunk
from edgec.runtime.server.access import Access
from edgec.runtime.server.options import ServerOptions
from edgec.runtime.server.service import Service
from edgec.runtime.server.stream import EventStream, event, merge


def test_client_that_takes_nothing_ends_its_generation() -> None:
    records: list[dict[str, Any]] = []
    service = Service(ServerOptions(client_timeout=0.05))
    service.log.write = records.append  # type: ignore[method-assign]
    request = Request("req-1", 1, lambda: None)
    request.deliver(StreamChunk("text", 1))

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        async def events() -> Any:
            async for _, chunk in merge([request]):
                yield event({"text": chunk.text})

        await EventStream(events(), [request], scope["state"]["log"])(scope, receive, send)

    async def run() -> None:
        given = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            return given.pop() if given else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()  # a buffer that stays full

        scope = {"type": "http", "path": "/v1/completions", "method": "POST", "headers": []}
        await asyncio.wait_for(Access(application, service)(scope, receive, send), 10)

    asyncio.run(run())
    service.log.close()
    assert request.cancelled
    assert records[0]["cancelled"] is True


def test_without_the_extra() -> None:
    """The runtime imports without fastapi, and `serve` says what to install."""
    program = """
import sys
class Absent:
    def find_spec(self, name, *more):
        if name in ("fastapi", "uvicorn", "starlette", "llguidance", "prometheus_client"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import edgec.runtime, edgec.runtime.server
edgec.runtime.Engine
from edgec.cli import main
sys.argv = ["edgec", "serve", "x.edgec"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'edgec[serve]'" in done.stderr
    assert "fastapi" in done.stderr
