"""Work on every request before and after its route: who may ask, limits, key, log line."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgec.runtime.server.errors import ApiError, error_response
from edgec.runtime.server.origin import (
    check_host,
    check_origin,
    cors_headers,
    preflight_headers,
)
from edgec.runtime.server.service import Service

__all__ = ["Access"]

PUBLIC = ("/", "/health", "/page/")
"""Without a key: what a load balancer and a browser need before they have one."""


class Access:
    """ASGI middleware. A route adds to the log line through `scope["state"]["log"]`, and to
    the answer's headers through `scope["state"]["headers"]`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        scope = _normal(scope)
        asked = dict(scope["headers"])
        cors = cors_headers(self._service.options, asked)
        method = scope["method"]
        if method == "HEAD":  # uvicorn, which has the scope as it was, leaves out the body
            scope["method"] = "GET"
        request_id = f"req_{secrets.token_hex(12)}"
        log: dict[str, Any] = {}
        scope.setdefault("state", {})
        headers: list[tuple[bytes, bytes]] = []
        scope["state"] |= {"log": log, "request_id": request_id, "headers": headers}
        scope["state"]["most_messages"] = self._service.most_messages

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    *cors,
                    *headers,
                ]
            await self._send_in_time(send, message)

        try:
            await self._admit(scope, asked, receive, send_and_note, log)
        except ClientTooSlowError:
            log["cancelled"] = True
        finally:
            seconds = time.perf_counter() - started
            self._service.metrics.finished(scope["path"], status, seconds)
            self._service.log.write(
                {
                    "time": round(time.time(), 3),
                    "request_id": request_id,
                    "client": (scope.get("client") or ("",))[0],
                    "method": method,
                    "path": scope["path"],
                    # As nginx has it: the client went before there was an answer.
                    "status": status or 499,
                    "ms": round(seconds * 1e3, 3),
                    **log,
                }
            )

    async def _admit(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        send: Send,
        log: MutableMapping[str, Any],
    ) -> None:
        try:
            check_host(self._service.options, headers)
            check_origin(self._service.options, headers)
            if scope["method"] == "OPTIONS":
                answer = preflight_headers(headers)
                await send({"type": "http.response.start", "status": 204, "headers": answer})
                await send({"type": "http.response.body", "body": b""})
                return
            scope["state"]["key"] = self._check_key(scope["path"], headers)
            body = await self._read_body(headers, receive)
        except ApiError as error:
            log["error"] = error.code
            await error_response(error)(scope, receive, send)
            return
        if body is None:
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    def _check_key(self, path: str, headers: Mapping[bytes, bytes]) -> int | None:
        """The number of the key that was sent; None where none is needed."""
        keys = self._service.options.api_keys
        if not keys or path in PUBLIC[:2] or path.startswith(PUBLIC[2]):
            return None
        given = headers.get(b"authorization", b"")
        scheme, _, secret = given.partition(b" ")
        if scheme.lower() == b"bearer":
            # All are compared, so that the time says nothing.
            right = [hmac.compare_digest(secret.strip(), key.encode()) for key in keys]
            if any(right):
                return right.index(True)
        what = "wrong API key" if given else "no API key"
        raise ApiError(
            401, f"{what}: send the header 'Authorization: Bearer KEY'", code="invalid_api_key"
        )

    async def _read_body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None when the client went."""
        limit = self._service.max_body
        length = headers.get(b"content-length", b"0")
        too_large = len(length) > 18 or (length.isdigit() and int(length) > limit)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._service.options.client_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    size += len(message.get("body", b""))
                    # A client that is still sending does not read the answer: what it sends is
                    # thrown away for a while.
                    too_large = too_large or size > limit
                    if not too_large:
                        chunks.append(message.get("body", b""))
                    if not message.get("more_body") or size > 16 * limit:
                        break
        except TimeoutError:
            if not too_large:
                raise ApiError(
                    408, "the request's body did not come in time", code="request_timeout"
                ) from None
        if too_large:
            raise ApiError(
                413, f"the request's body is larger than {limit} bytes", code="request_too_large"
            )
        return b"".join(chunks)

    async def _send_in_time(self, send: Send, message: Message) -> None:
        """Sends; a client that does not read for too long is given up."""
        try:
            async with asyncio.timeout(self._service.options.client_timeout):
                await send(message)
        except TimeoutError:
            raise ClientTooSlowError from None


def _normal(scope: Scope) -> Scope:
    """A copy whose path has no slash at its end."""
    path: str = scope["path"]
    return {**scope, "path": path.rstrip("/") or "/"}


class ClientTooSlowError(OSError):
    """A client that does not read what it asked for; to a stream, one that has gone."""
