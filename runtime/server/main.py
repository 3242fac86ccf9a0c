"""Runs the server until a signal: the model loads behind it, running answers may end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, cast

import anyio.to_thread
import uvicorn

from edgec.errors import EdgecError, InputError
from edgec.runtime.engine import Engine
from edgec.runtime.server.app import create_app
from edgec.runtime.server.connections import LimitedConnection, most_connections, watch_accept
from edgec.runtime.server.grammar import WAITING
from edgec.runtime.server.options import ServerOptions
from edgec.runtime.server.service import Service

__all__ = ["batch_hint", "serve"]

BACKLOG = 64
GRACE = 1.0
"""Seconds for answers to end with an error when the server stops at once."""

_STOP = (signal.SIGINT, signal.SIGTERM)


def serve(load: Callable[[], Engine], options: ServerOptions) -> None:
    """Listens, loads the model, and serves until SIGTERM or Ctrl-C.

    Args:
        load: Makes the engine; called in another thread while the server already answers.

    Raises:
        InputError: the address cannot be had.
        EdgecError: the model cannot be loaded.
    """
    listening = _listen(options)
    service = Service(options)
    server = _Server(service, load)
    host, port = listening.getsockname()[:2]
    print(f"edgec: http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr)
    try:
        server.run(sockets=[listening])
    finally:
        server.finish()
    if server.failure is not None:
        raise server.failure


class _Server(uvicorn.Server):
    """uvicorn, which on a signal lets the engine end its work."""

    def __init__(self, service: Service, load: Callable[[], Engine]) -> None:
        options = service.options
        most = most_connections(options.max_connections)
        connection = partial(LimitedConnection, options.client_timeout, most)
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http=cast(Any, connection),
                ws="none",
                loop="asyncio",
                # asyncio complains of a full table of files once for each of so many.
                backlog=BACKLOG,
                log_config=None,
                log_level="error",  # clients can bring about any number of warnings
                access_log=False,
                lifespan="off",
                # The engine ends every answer by then; this is for clients that do not read.
                timeout_graceful_shutdown=int(options.shutdown_timeout) + 5,
                server_header=False,
            )
        )
        self.failure: BaseException | None = None
        self._service = service
        self._load = load
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Many may wait for a grammar; others need threads too.
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2 * WAITING
        loop = asyncio.get_running_loop()
        self._loop = loop
        watch_accept(loop, self.server_state.connections)
        self._loading = loop.create_task(self._load_model())

    async def _load_model(self) -> None:
        try:
            self._engine = await asyncio.get_running_loop().run_in_executor(None, self._load)
            served = self._service.serve(self._engine)
            if served.template is not None:
                await served.template.start()
            print(f"edgec: {served.name} is ready", file=sys.stderr)
            if hint := batch_hint(self._engine.model.program.manifest.batch_sizes):
                print(f"edgec: {hint}", file=sys.stderr)
        except EdgecError as error:
            self.failure = error
            self.should_exit = True
        except Exception as error:
            logging.getLogger("edgec.serve").exception("the model cannot be loaded")
            self.failure = error
            self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own handling, but a signal that was served is not raised again at the end: the
        server has stopped as it was asked to, and that is success."""
        before = {each: signal.signal(each, self.handle_exit) for each in _STOP}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True
        if not self._service.stopping:
            print("edgec: stopping; once more to stop at once", file=sys.stderr)
            self._service.stop(self._service.options.shutdown_timeout)
            return
        self._service.stop(0)  # answers end with an error
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, GRACE, self._force)
        # Neither a device nor a loading model keeps the process.
        last = threading.Timer(10 * GRACE, os._exit, (1,))
        last.daemon = True
        last.start()

    def _force(self) -> None:
        """Leaves clients that do not read, without a traceback for each."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.force_exit = True

    def finish(self) -> None:
        """Frees what is left."""
        if self._engine is not None:
            self._engine.close()
        self._service.log.close()


def batch_hint(sizes: Sequence[int]) -> str:
    """A remark for the operator on the artifact's batch sizes; nothing if there are any.

    The factor was measured with 4 clients: docs/server.md.
    """
    if max(sizes) > 1:
        return ""
    return (
        "this artifact computes one sequence at a time; compiled with --batch 1,4 it serves "
        "several clients almost twice as fast"
    )


def _listen(options: ServerOptions) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        return socket.create_server((options.host, options.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise InputError(
            f"cannot listen on {options.host}:{options.port}: {error.strerror}",
            "choose another --port",
        ) from None
