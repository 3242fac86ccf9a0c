"""Answers that come in pieces, and clients that go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgec.runtime.request import Request
from edgec.runtime.results import StreamChunk
from edgec.runtime.server.calls import api_error

__all__ = ["ClientGoneError", "EventStream", "event", "merge", "unless_gone"]

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"
HEADERS = [
    # No charset: the specification has it always UTF-8, and clients compare the type.
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the pieces
]


class ClientGoneError(Exception):
    """The client went away before its answer was complete."""


def event(data: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return (
        b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away first.

    Args:
        receive: After the body was read: says next that the client has gone.

    Raises:
        ClientGoneError: it has.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def merge(requests: Sequence[Request]) -> AsyncIterator[tuple[int, StreamChunk]]:
    """The chunks of several generations as they come, with the number of theirs."""
    if len(requests) == 1:
        async for chunk in requests[0]:
            yield 0, chunk
        return
    nexts = {asyncio.ensure_future(_next(r)): i for i, r in enumerate(requests)}
    try:
        while nexts:
            done, _ = await asyncio.wait(nexts, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index = nexts.pop(task)
                if (new := task.result()) is not None:
                    nexts[asyncio.ensure_future(_next(requests[index]))] = index
                    yield index, new
    finally:
        for task in nexts:
            task.cancel()


async def _next(request: Request) -> StreamChunk | None:
    return await anext(request, None)


class EventStream(Response):
    """An answer of server-sent events.

    Args:
        events: The events; an error in them becomes the last one.
        requests: The generations they come from: cancelled if the client goes.
        log: The log line's fields.
    """

    def __init__(
        self, events: AsyncIterator[bytes], requests: Sequence[Request], log: dict[str, Any]
    ) -> None:
        super().__init__()
        self._events = events
        self._requests = requests
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send(send))
        except (ClientGoneError, OSError):
            self._log["cancelled"] = True
        finally:
            for request in self._requests:
                if not request.done:
                    request.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        try:
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except OSError:
            raise
        except Exception as error:
            problem = api_error(error)
            self._log["error"] = problem.code
            await send(
                {"type": "http.response.body", "body": event(problem.body()), "more_body": True}
            )
            if problem.status == 500:
                raise
        await send({"type": "http.response.body", "body": DONE, "more_body": False})
