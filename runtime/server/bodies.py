"""How a request's body is read: JSON in UTF-8 that a model and a template can take."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from edgec.runtime.server.errors import ApiError

__all__ = ["JsonRoute", "parse_json"]

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_MAY_HAVE_SURROGATES = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
DEEPEST = 200
"""Levels of arrays and objects: what works on a body may be recursive."""
_BROWSERS = (b"origin", b"sec-fetch-site")
"""Headers that every browser sends with a request of a web page's."""


class JsonRoute(APIRoute):
    """A route that reads bodies with `parse_json`.

    A body without Content-Type is read as JSON too, unless a browser sent it: a page of another
    site may send such a request without being asked, as it may send text or forms, so those stay
    refused.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            names = {name for name, _ in request.scope["headers"]}
            if b"content-type" not in names and not names.intersection(_BROWSERS):
                request.scope["headers"] = [
                    *request.scope["headers"],
                    (b"content-type", b"application/json"),
                ]
            request = _JsonRequest(request.scope, request.receive)
            await _check_count(request)
            return await handle(request)

        return handle_json


async def _check_count(request: Request) -> None:
    """Refuses a chat of too many messages before each of them is checked.

    Raises:
        ApiError: 400.
    """
    try:
        body = await request.json()
    except ValueError:
        return  # whoever reads it next says what is wrong
    messages = body.get("messages") if isinstance(body, dict) else None
    most = request.state.most_messages
    if isinstance(messages, list) and len(messages) > most:
        raise ApiError(
            400,
            f"this model's context does not hold {len(messages)} messages; at most {most}",
            param="messages",
            code="context_length_exceeded",
        )


class _JsonRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_parsed"):
            self._parsed = parse_json(await self.body())
        return self._parsed


def parse_json(body: bytes) -> Any:
    """JSON as RFC 8259 has it: no NaN and no infinity, also not by an exponent.

    A half of a surrogate pair, which is no character, becomes U+FFFD, in keys too: clients that
    cut text by UTF-16 units cut emoji in two.

    Raises:
        ValueError: it is something else.
    """
    # surrogatepass: the halves may also be written as bytes.
    text = body.decode("utf-8", "surrogatepass")
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(str(error), "", 0) from None
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise json.JSONDecodeError(f"nested more than {DEEPEST} levels deep", "", 0)
    return _whole_characters(value) if _MAY_HAVE_SURROGATES.search(text) else value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _depth(value: Any) -> int:
    level, depth = [value], -1
    while level:
        depth += 1
        nested = [each for each in level if isinstance(each, list | dict)]
        level = [
            inner for each in nested
            for inner in (each.values() if isinstance(each, dict) else each)
        ]  # fmt: skip
    return depth


def _whole_characters(value: Any) -> Any:
    """A copy without lone surrogates. Not recursive: values may be a thousand levels deep."""
    holder = [value]
    todo: list[tuple[Any, Any]] = [(holder, 0)]
    while todo:
        owner, key = todo.pop()
        each = owner[key]
        if isinstance(each, str):
            owner[key] = _SURROGATE.sub("\ufffd", each)
        elif isinstance(each, list):
            todo += [(each, number) for number in range(len(each))]
        elif isinstance(each, dict):
            owner[key] = new = {_SURROGATE.sub("\ufffd", k): v for k, v in each.items()}
            todo += [(new, name) for name in new]
    return holder[0]
