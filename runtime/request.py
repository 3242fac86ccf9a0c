"""A request to an engine, as whoever asked sees it: chunks that another thread brings."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from edgec.runtime.device import check_process
from edgec.runtime.results import GenerationResult, StreamChunk, TokenLogprobs

__all__ = ["Request"]


class Request:
    """One generation on an `Engine`, made by `Engine.submit`.

    Iterating yields a `StreamChunk` for each token, the last with the finish reason and the
    result, either blocking (`for chunk in request`) or not (`async for chunk in request`). Each
    chunk is given once, to one consumer. What the engine is ahead is kept, so a slow consumer
    stalls nobody. If the generation fails, its error is raised after the chunks that came before.
    After `cancel` the iteration ends, without an error.

    As a context manager it cancels what is not finished when the block is left.
    """

    def __init__(self, id: str, prompt_tokens: int, on_cancel: Callable[[], None]) -> None:
        self.id = id
        """Unique within the engine, such as `req-17`."""
        self.prompt_tokens = prompt_tokens
        """How many tokens the prompt has."""
        self.prompt_logprobs: list[TokenLogprobs] = []
        """With `score_prompt`, those of each token of the prompt but the first, in order. Complete
        once the first chunk is there, or the end."""
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._chunks: deque[StreamChunk] = deque()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._cancelled = False
        self._result: GenerationResult | None = None
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether nothing more will be computed: finished, failed or cancelled."""
        return self._result is not None or self._error is not None

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called, whatever came of it."""
        return self._cancelled

    def cancel(self) -> None:
        """Says that nobody wants the rest. Returns at once; from any thread, at any time.

        The engine frees the state, or keeps it for reuse, before its next step. Chunks not taken
        yet are dropped.
        """
        with self._changed:
            if self._cancelled:
                return
            self._cancelled = True
            self._chunks.clear()
            self._wake()
        self._on_cancel()

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Waits for the end. Takes no chunks from a consumer that iterates.

        Args:
            timeout: Seconds to wait; the generation goes on when they have passed.

        Returns:
            The result; of a cancelled request what there was, with `finish_reason` "cancelled".

        Raises:
            TimeoutError: not done by then.
            EdgecError: the generation failed; see `Engine.submit`.
        """
        if not self.done:
            check_process()
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"request {self.id} is not done after {timeout} s")
            return self._outcome()

    async def wait(self) -> GenerationResult:
        """`result` for coroutines. Cancelling the task that waits does not cancel the request.

        Not to be mixed with `async for` in another task.
        """
        while (event := self._register(lambda: self.done)) is not None:
            await event.wait()
        return self._outcome()

    def __iter__(self) -> Request:
        return self

    def __next__(self) -> StreamChunk:
        if not self._ready():
            check_process()
        with self._changed:
            self._changed.wait_for(self._ready)
            chunk = self._take()
        if chunk is None:
            raise StopIteration
        return chunk

    def __aiter__(self) -> Request:
        return self

    async def __anext__(self) -> StreamChunk:
        while (event := self._register(self._ready)) is not None:
            await event.wait()
        with self._changed:
            chunk = self._take()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def __enter__(self) -> Request:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.done:
            self.cancel()

    # The engine's side, on its thread.

    def deliver(self, chunk: StreamChunk) -> None:
        """Hands a chunk to the consumer."""
        with self._changed:
            if not self._cancelled:
                self._chunks.append(chunk)
            if chunk.result is not None:
                self._result = chunk.result
            self._wake()

    def end(self, outcome: GenerationResult | BaseException) -> None:
        """Ends the request without a last chunk: cancelled or failed."""
        with self._changed:
            if isinstance(outcome, BaseException):
                self._error = outcome
            else:
                self._result = outcome
            self._wake()

    def _ready(self) -> bool:
        return bool(self._chunks) or self.done or self._cancelled

    def _take(self) -> StreamChunk | None:
        """The next chunk; None at the end. The caller holds the lock."""
        if self._chunks:
            return self._chunks.popleft()
        if self._error is not None and not self._cancelled:
            raise self._error
        return None

    def _outcome(self) -> GenerationResult:
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _register(self, ready: Callable[[], bool]) -> asyncio.Event | None:
        """An event that is set at the next change; None when there is nothing to wait for."""
        with self._changed:
            if ready():
                return None
            event = asyncio.Event()
            self._waiting = (asyncio.get_running_loop(), event)
            return event

    def _wake(self) -> None:
        """Tells whoever waits. The caller holds the lock."""
        self._changed.notify_all()
        if self._waiting is not None:
            (loop, event), self._waiting = self._waiting, None
            # A loop that was closed has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)
