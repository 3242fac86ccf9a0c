"""HTTP connections with limits, around uvicorn's: how many, and how long one may say nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import time
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgec.runtime.server.errors import ApiError

__all__ = ["LimitedConnection", "most_connections", "watch_accept"]

RESERVE = 128
"""Open files that the server keeps for itself: weights, processes of templates and grammars."""
FEWEST = 8
QUIET = 60.0
"""Seconds between two lines about the same trouble."""


def most_connections(wanted: int) -> int:
    """How many connections there may be: what is wanted, or what the limit of files allows."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(FEWEST, files - RESERVE))


class LimitedConnection(H11Protocol):
    """A connection that must bring the head of a request in time.

    Where there are too many, the one that has waited longest for a request is closed for a new
    one. If all are at work, the new one is refused.

    Args:
        seconds: From the opening, or from the end of an answer, to the end of the next head.
        most: How many connections there may be.
        options: uvicorn's own.
    """

    def __init__(self, seconds: float, most: int, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = seconds
        self._most = most
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self._most and not close_idle(self.connections, self):
            self._refuse(
                ApiError(503, "too many connections", code="too_many_connections", retry_after=1)
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    @property
    def idle(self) -> bool:
        """Whether no request is being dealt with."""
        return self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    @property
    def since(self) -> float:
        """When it became idle, as of `time.monotonic`."""
        return self._since

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, msg, code="invalid_http"))

    def _watch(self) -> None:
        """Runs the timer while no request is being dealt with, and no longer."""
        if not self.idle:
            self._stop_timer()
        elif self._timer is None:
            self._since = time.monotonic()
            self._timer = self.loop.call_later(self._seconds, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.conn.trailing_data[0]:  # the beginning of a head
            self._refuse(ApiError(408, "the request did not come in time", code="request_timeout"))
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answers, unless another answer has begun, and closes."""
        self._stop_timer()
        begun = self.cycle is not None and not self.cycle.response_complete
        if begun:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not (begun and self.cycle.response_started):
            body = json.dumps(error.body()).encode()
            lines = [
                f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                "Connection: close",
                *([f"Retry-After: {error.retry_after}"] if error.retry_after else []),
            ]
            self.transport.write("\r\n".join([*lines, "\r\n"]).encode() + body)
        self.transport.close()


def close_idle(connections: set[Any], but: Any = None) -> bool:
    """Closes the connection that has been idle for longest; whether there was one."""
    idle = [each for each in connections if each is not but and each.idle]
    if not idle:
        return False
    oldest = min(idle, key=lambda each: each.since)
    oldest.transport.abort()
    return True


def watch_accept(loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
    """Makes room when no connection can be accepted, and says so once a minute at most."""
    said = -QUIET

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said
        if "accept()" not in context.get("message", ""):
            loop.default_exception_handler(context)
            return
        close_idle(connections)
        if time.monotonic() >= said + QUIET:
            said = time.monotonic()
            logging.getLogger("edgec.serve").warning(
                "connections cannot be accepted: %s", context.get("exception")
            )

    loop.set_exception_handler(handle)
