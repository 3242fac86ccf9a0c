"""The routes, and what becomes of errors in them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

import edgec
from edgec.errors import EdgecError
from edgec.runtime.request import Request as Generation
from edgec.runtime.server import answers
from edgec.runtime.server.access import Access
from edgec.runtime.server.bodies import JsonRoute
from edgec.runtime.server.calls import Call, api_error, unused_fields
from edgec.runtime.server.chat import ChatAnswer, prepare_chat
from edgec.runtime.server.completions import CompletionAnswer, prepare_completion
from edgec.runtime.server.errors import ApiError, error_response
from edgec.runtime.server.fields import HEADER, Body, passed_over
from edgec.runtime.server.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationRequest,
    TokenizeRequest,
)
from edgec.runtime.server.service import Served, Service
from edgec.runtime.server.stream import ClientGoneError, EventStream, unless_gone
from edgec.runtime.server.validation import first_problem

__all__ = ["create_app"]

PAGE = Path(__file__).parent / "page"
# The page runs its own scripts only, whatever a model writes into it.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class PageFiles(StaticFiles):
    """The page's files, each with the page's headers: any of them can be opened by itself."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(PAGE_HEADERS)
        return response


PATIENCE = 1.0
"""Seconds that a stream waits for its first piece before it begins."""
PING, PING_SECONDS = b": ping\n\n", 10.0


def create_app(service: Service) -> FastAPI:
    """The server as an ASGI application. Until the service has a model it answers with 503."""
    # FastAPI's own pages for the schema load scripts from elsewhere.
    app = FastAPI(
        title="edgec", version=edgec.__version__, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.router.route_class = JsonRoute
    app.add_middleware(Access, service=service)
    app.mount("/page", PageFiles(directory=PAGE))
    _handle_errors(app)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        text = await run_in_threadpool((PAGE / "index.html").read_bytes)
        return Response(text, media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)

    @app.get("/health")
    async def health() -> dict[str, str]:
        service.require_model()
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service, service.require_model())]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        served = service.require_model()
        _check_model(served, name)
        return _model(service, served)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request, body: ChatRequest) -> Any:
        served, log = _begin(service, request, body)
        try:
            calls = await unless_gone(request.receive, prepare_chat(service, served, body))
            if body.logprobs:
                await run_in_threadpool(lambda: served.grammars.vocabulary)
            running = _submit(served, calls, _scope(service, request, body))
            answer = ChatAnswer(service, served, body, running, log)
            return await _answer(request, body, answer, running, log)
        except ClientGoneError:
            return _gone(log)

    @app.post("/v1/completions", response_model=None)
    async def completions(request: Request, body: CompletionRequest) -> Any:
        served, log = _begin(service, request, body)
        try:
            calls = await unless_gone(request.receive, prepare_completion(service, served, body))
            if body.logprobs is not None:
                await run_in_threadpool(lambda: served.grammars.vocabulary)
            running = _submit(served, calls, _scope(service, request, body))
            answer = CompletionAnswer(service, served, body, calls, running, log)
            return await _answer(request, body, answer, running, log)
        except ClientGoneError:
            return _gone(log)

    @app.post("/tokenize", response_model=None)
    def tokenize(request: Request, body: TokenizeRequest) -> Response:
        served = service.require_model()
        _pass_over(service, request, body)
        ids = served.model.tokenizer.encode(body.content, add_special_tokens=body.add_special)
        return JSONResponse({"tokens": _pieces(served, ids) if body.with_pieces else ids})

    @app.post("/detokenize", response_model=None)
    def detokenize(request: Request, body: DetokenizeRequest) -> Response:
        served = service.require_model()
        _pass_over(service, request, body)
        text = served.model.tokenizer.decode(body.tokens, skip_special_tokens=False)
        return JSONResponse({"content": text})

    return app


def _begin(
    service: Service, request: Request, body: GenerationRequest
) -> tuple[Served, dict[str, Any]]:
    """The model, and the log line with what the request says of itself."""
    served = service.require_model()
    if service.options.strict:
        _check_model(served, body.model)
    _pass_over(service, request, body, unused_fields(served, body))
    log: dict[str, Any] = request.state.log
    log |= {"stream": bool(body.stream)}
    for name in ("user", "session_id"):
        if (value := getattr(body, name)) is not None:
            log[name] = value
    return served, log


def _pass_over(service: Service, request: Request, body: Body, unused: Sequence[str] = ()) -> None:
    """Names the fields that are passed over, see `fields`, to the client and the operator."""
    names = service.notices.header([*passed_over(body), *unused])
    request.state.headers += [(HEADER.encode(), names.encode())] if names else []


def _scope(service: Service, request: Request, body: GenerationRequest) -> str | None:
    """Who shares the state of prompts with this request: those of the same key and user."""
    key = request.state.key
    if service.options.share_cache or (key is None and body.user is None):
        return None
    return json.dumps([key, body.user])


def _submit(served: Served, calls: Sequence[Call], scope: str | None) -> list[Generation]:
    """Starts all calls or none.

    Raises:
        ApiError: the engine does not take them, or never can.
    """
    if len(calls) > (most := served.engine.max_queue):
        raise ApiError(
            400, f"{len(calls)} choices are more than the {most} requests that may wait here "
            "(--max-queue)", param="n", code="invalid_value",
        )  # fmt: skip
    running: list[Generation] = []
    try:
        for call in calls:
            running.append(call.submit(served, scope))
    except ApiError:
        for each in running:
            each.cancel()
        raise
    return running


async def _answer(
    request: Request,
    body: GenerationRequest,
    answer: ChatAnswer | CompletionAnswer,
    running: Sequence[Generation],
    log: dict[str, Any],
) -> Any:
    """The whole answer, or a stream. What fails within the first second has an HTTP status of its
    own; after it the stream begins, with its first piece or without."""
    first = None
    try:
        if not body.stream:
            return JSONResponse(await unless_gone(request.receive, answer.whole()))
        events = answer.events()
        first = asyncio.ensure_future(_next(events))
        await unless_gone(request.receive, _wait(first, PATIENCE))
        if first.done():
            first.result()
    except BaseException:
        for each in running:
            if not each.done:
                each.cancel()
        if first is not None:
            first.cancel()
        raise

    return EventStream(_with_pings(first, events), running, log)


async def _with_pings(
    first: asyncio.Future[bytes | None], events: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """The events, and comments while there are none: proxies give up what is silent."""
    pending = first
    try:
        while True:
            await _wait(pending, PING_SECONDS)
            if not pending.done():
                yield PING
                continue
            if (event := pending.result()) is None:
                return
            yield event
            pending = asyncio.ensure_future(_next(events))
    finally:
        pending.cancel()


async def _next(events: AsyncIterator[bytes]) -> bytes | None:
    return await anext(events, None)


async def _wait(pending: asyncio.Future[Any], seconds: float) -> None:
    await asyncio.wait({pending}, timeout=seconds)


def _gone(log: dict[str, Any]) -> Response:
    """For the log: nobody receives this. 499 is what nginx calls it."""
    log["cancelled"] = True
    return Response(status_code=499)


def _check_model(served: Served, name: str | None) -> None:
    if name is not None and name != served.name:
        raise ApiError(
            404, f"there is no model {name!r} here, but {served.name!r}", param="model",
            code="model_not_found",
        )  # fmt: skip


def _model(service: Service, served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": service.created,
        "owned_by": "edgec",
        "meta": {
            "n_ctx": served.context,
            "n_vocab": served.model.vocab_size,
            "n_params": served.model.program.manifest.model.parameters,
        },
    }


def _pieces(served: Served, ids: Sequence[int]) -> list[dict[str, Any]]:
    """llama.cpp's pieces: text where a token is whole characters, else its bytes."""
    pieces = []
    for token in ids:
        text, data = answers.token_text(served, token)
        pieces.append({"id": token, "piece": data if "\ufffd" in text else text})
    return pieces


def _handle_errors(app: FastAPI) -> None:
    """Every error becomes OpenAI's object with its four keys."""

    def answer(request: Request, error: ApiError, headers: Any = None) -> Response:
        request.state.log["error"] = error.code
        return error_response(error, headers)

    @app.exception_handler(ApiError)
    async def of_ours(request: Request, error: ApiError) -> Response:
        return answer(request, error)

    @app.exception_handler(EdgecError)
    async def of_engine(request: Request, error: EdgecError) -> Response:
        return answer(request, api_error(error))

    @app.exception_handler(RequestValidationError)
    async def of_body(request: Request, error: RequestValidationError) -> Response:
        return answer(request, first_problem(error))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        codes = {404: "unknown_url", 405: "method_not_allowed"}
        what = {
            404: f"there is nothing at {request.url.path}",
            405: f"{request.url.path} does not take {request.method}",
            400: "the body cannot be read as JSON",
        }
        message = what.get(error.status_code, error.detail)
        code = codes.get(error.status_code, "bad_request")
        return answer(request, ApiError(error.status_code, message, code=code), error.headers)

    @app.exception_handler(Exception)
    async def of_nobody(request: Request, error: Exception) -> Response:
        logging.getLogger("edgec.serve").error("a request failed", exc_info=error)
        return answer(request, api_error(error))
