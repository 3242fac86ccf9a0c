"""Many sequences on one model: requests from any thread, computed on one."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from edgec.artifact import Artifact
from edgec.errors import EngineClosed, InputError, QueueFull
from edgec.runtime.config import check_integer, check_number
from edgec.runtime.core import Core, Counters, Job
from edgec.runtime.device import check_process, forked
from edgec.runtime.model import LoadedModel
from edgec.runtime.pool import PoolCounters, SequencePool
from edgec.runtime.prompt import Prompt, encode_prompt, prepare
from edgec.runtime.request import Request
from edgec.runtime.sampling import TokenFilter
from edgec.runtime.state import state_bytes

__all__ = ["DEFAULT_MAX_QUEUE", "DEFAULT_SEQUENCES", "DEFAULT_TTL", "Engine", "EngineStats"]

_T = TypeVar("_T")

DEFAULT_SEQUENCES = 8
"""The default number of sequences that there is memory for."""
DEFAULT_TTL = 600.0
"""The default of the seconds for which an inactive sequence is kept."""
DEFAULT_MAX_QUEUE = 64
"""The default number of requests that may wait."""


@dataclass(frozen=True)
class EngineStats:
    """Figures about an engine: its present work, and its totals since it was made.

    Args:
        queued: Requests that wait for memory.
        prefilling: Sequences whose prompt is being computed.
        decoding: Sequences that generate.
        inactive: Sequences that are kept for a follow-up.
        state_bytes: Device memory of all sequences.
        state_budget: What that may be at most, in bytes.
        sequence_bytes: What one sequence takes.
        requests: How many were submitted and taken.
        rejected: How many were not, because the queue was full.
        completed: Generations that came to their end.
        cancelled: Generations that were cancelled.
        failed: Generations that ended with an error.
        timed_out: Generations that ran out of their `timeout`.
        prompt_tokens: Tokens of prompts that were computed.
        cached_tokens: Tokens of prompts that a state held already.
        generated_tokens: Tokens that were handed to requests.
        prefill_calls: Calls of the prefill program, each a chunk of one prompt.
        decode_tokens: Tokens computed by decode steps.
        decode_calls: Calls of the decode programs; fewer than tokens where they are batched.
        sequences_created: Sequences that were given memory.
        sequences_reused: How often an inactive sequence was continued.
        sequences_copied: How often the beginning of a sequence was copied for another.
        sequences_evicted: Inactive sequences that were freed for others' memory.
        sequences_expired: Inactive sequences that were freed after their time to live.
        sequences_retired: Sequences whose memory was freed, for whatever reason.
    """

    queued: int
    prefilling: int
    decoding: int
    inactive: int
    state_bytes: int
    state_budget: int
    sequence_bytes: int
    requests: int
    rejected: int
    completed: int
    cancelled: int
    failed: int
    timed_out: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    prefill_calls: int
    decode_tokens: int
    decode_calls: int
    sequences_created: int
    sequences_reused: int
    sequences_copied: int
    sequences_evicted: int
    sequences_expired: int
    sequences_retired: int

    def to_dict(self) -> dict[str, int]:
        """Plain JSON types, with the same keys."""
        return dataclasses.asdict(self)


class Engine:
    """Generates for many requests at once, with the state of all of them under a budget.

    One thread of the engine's own runs the model: prompts in chunks, alternating with the decode
    steps of all sequences that generate, so that no stream waits for more than one chunk of
    another's prompt. Finished sequences stay, inactive, and a later prompt that begins as one of
    them is computed from there on. All methods can be called from any thread.

        with Engine("model.edgec") as engine:
            requests = [engine.submit(prompt, max_new_tokens=32) for prompt in prompts]
            print([request.result().text for request in requests])

    Args:
        artifact: An artifact's folder, an opened `Artifact`, or a `LoadedModel` to share.
        device: `cpu`, `vulkan`, `cuda`, or a target in full; None: the cpu, or the artifact's
            only program.
        threads: CPU worker threads. IREE takes it once for the process.
        memory: Bytes of device memory for the state of all sequences; None: enough for 8.
            A sequence takes the manifest's `memory.state_per_sequence`, and its checkpoint.
        ttl: Seconds for which an inactive sequence is kept; 0: not at all; None: until its
            memory is needed.
        max_queue: How many requests may wait to be admitted, at least 1.

    Raises:
        ArtifactError: the artifact is missing, damaged, or made for another IREE release.
        InputError: no program for `device`, `threads` cannot be had, or `memory` does not hold
            one sequence.
        DeviceError: the device is absent, lacks what the program needs, or has no memory.
    """

    def __init__(
        self,
        artifact: str | Path | Artifact | LoadedModel,
        device: str | None = None,
        threads: int | None = None,
        *,
        memory: int | None = None,
        ttl: float | None = DEFAULT_TTL,
        max_queue: int = DEFAULT_MAX_QUEUE,
    ) -> None:
        check_integer("max_queue", max_queue, 1)
        if ttl is not None:
            check_number("ttl (seconds)", ttl, 0.0)
        if memory is not None:
            check_number("memory (bytes)", memory, 0.0)
        self.model = LoadedModel.of(artifact, device, threads)
        if memory is None:
            memory = DEFAULT_SEQUENCES * state_bytes(self.model.program.manifest.state)
        self._pool = SequencePool(self.model.program, memory, ttl)
        self._core = Core(self.model, self._pool, isolated=True)
        self.max_queue = max_queue
        self._numbers = itertools.count(1)
        self._requests = self._rejected = 0
        self._inbox: list[Job] = []
        self._calls: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._closing = False
        self._drain_until = 0.0
        self._thread = threading.Thread(target=self._run, name="edgec-engine", daemon=True)
        self._thread.start()
        _open.add(self)
        _close_at_exit()

    @property
    def artifact(self) -> Artifact:
        """The compiled artifact, with its manifest."""
        return self.model.artifact

    def submit(
        self,
        prompt: Prompt,
        *,
        session_id: str | None = None,
        cache_prompt: bool = True,
        cache_scope: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        token_filter: TokenFilter | None = None,
        logprobs: int | None = None,
        score_prompt: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> Request:
        """Asks for a generation and returns at once; the prompt is encoded on this thread.

        Args:
            prompt: Text, chat messages (objects with `role` and `content`), or token ids; always
                the full prompt.
            session_id: Names a conversation. Its latest sequence is preferred for reuse, is kept
                even if this request is cancelled, and can be saved.
            cache_prompt: Whether to use what inactive sequences hold of the prompt, and to keep
                this one for others. If not, its state is freed as soon as it ends.
            cache_scope: Who shares what is kept: prefixes are reused, and conversations named,
                within one scope only. None is a scope too.
            chat_template_kwargs: More variables for the chat template (`tools`, ...).
            token_filter: Narrows each next token, see `TokenFilter`.
            logprobs: Log-probabilities with each chunk: of its token and of this many of the most
                probable ones. None: neither.
            score_prompt: Whether `Request.prompt_logprobs` is to say how probable the prompt's own
                tokens were (with `logprobs`, which are the most probable ones, too). Each is a
                decode step, nothing is reused or kept, and `max_new_tokens` may be 0.
            timeout: Seconds, from now, after which the request ends with `RequestTimeout`. For
                a result that ends gently there is the option `max_time`.
            options: Fields of `GenerationConfig`, over the model's own defaults.

        Raises:
            InputError: a bad prompt or option, or more tokens than the context holds.
            QueueFull: too many requests wait already.
            EngineClosed: the engine is closing or closed.

        The request itself may end with `DeviceError` (its computation failed; others go on),
        `RequestTimeout`, `EngineClosed`, or what `token_filter` raised.
        """
        check_process()
        task = prepare(
            self.model,
            prompt,
            chat_template_kwargs=chat_template_kwargs,
            token_filter=token_filter,
            logprobs=logprobs,
            score_prompt=score_prompt,
            timeout=timeout,
            options=options,
        )
        with self._changed:
            if self._closing:
                raise EngineClosed("the engine is closed")
            waiting = len(self._inbox) + len(self._core.waiting)
            if waiting >= self.max_queue:
                self._rejected += 1
                raise QueueFull(f"{waiting} requests wait already", "try again later")
            request = Request(f"req-{next(self._numbers)}", len(task.ids), self._poke)
            job = Job(
                task,
                request,
                name=f"request {request.id}",
                session_id=session_id,
                cache_prompt=cache_prompt and not score_prompt,
                cache_scope=cache_scope,
            )
            self._requests += 1
            self._inbox.append(job)
            self._changed.notify()
        return request

    def encode(
        self, prompt: Prompt, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """The prompt as token ids, as `submit` sees it.

        Raises:
            InputError: it is empty, of another kind, or the model has no chat template.
        """
        return encode_prompt(self.model, prompt, chat_template_kwargs)

    def stats(self) -> EngineStats:
        """Figures about the present work and the totals. Cheap, and does not wait for the model."""
        with self._changed:
            running = tuple(self._core.running)
            prefilling = sum(job.prefilling for job in running)
            counters: Counters = self._core.counters
            pool: PoolCounters = self._pool.counters
            return EngineStats(
                queued=len(self._inbox) + len(self._core.waiting),
                prefilling=prefilling,
                decoding=len(running) - prefilling,
                inactive=self._pool.inactive,
                state_bytes=self._pool.state_bytes,
                state_budget=self._pool.budget,
                sequence_bytes=self._pool.sequence_bytes,
                requests=self._requests,
                rejected=self._rejected,
                **vars(counters),
                **{f"sequences_{name}": value for name, value in vars(pool).items()},
            )

    def save(self, session_id: str, path: str | Path, *, cache_scope: str | None = None) -> None:
        """Writes the inactive sequence of a conversation into a file, for `restore`.

        Raises:
            InputError: no inactive sequence of that name, or the file cannot be written.
            EngineClosed: the engine is closed.
        """
        self._call(lambda: self._save(session_id, Path(path), cache_scope))

    def restore(self, path: str | Path, session_id: str, *, cache_scope: str | None = None) -> int:
        """Brings a saved sequence back as the inactive one of a conversation.

        Returns:
            How many tokens it holds.

        Raises:
            InputError: no such file, damaged, of another artifact, or no memory for it now.
            EngineClosed: the engine is closed.
        """
        return self._call(lambda: self._pool.restore(Path(path), session_id, cache_scope))

    def _save(self, session_id: str, path: Path, scope: str | None) -> None:
        sequence = self._pool.find(session_id, scope)
        if sequence is None:
            raise InputError(f"session {session_id!r}: nothing inactive is kept for it")
        sequence.save(path)

    def _call(self, function: Callable[[], _T]) -> _T:
        """Runs a function on the model's thread, between two steps."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        check_process()
        with self._changed:
            if self._closing:
                raise EngineClosed("the engine is closed")
            self._calls.append(run)
            self._changed.notify()
        return future.result()

    def close(self, drain: float = 0.0) -> None:
        """Takes no more requests, ends those there are, and frees all state. Can be called again.

        Args:
            drain: Seconds to let running and waiting requests finish first; those that do not
                end with `EngineClosed`. Another call can shorten it.
        """
        _open.discard(self)
        if forked():
            return  # the thread and what it holds are the parent's
        with self._changed:
            until = time.monotonic() + drain
            self._drain_until = min(self._drain_until, until) if self._closing else until
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _poke(self) -> None:
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        """The model's thread."""
        try:
            while self._collect():
                self._core.step()
        finally:
            # Also after an error of the engine's own: nobody must wait for ever.
            with self._changed:
                self._closing = True
                calls, self._calls = self._calls, []
                self._core.waiting.extend(self._inbox)
                self._inbox.clear()
            for call in calls:
                call()
            self._core.stop(EngineClosed("the engine was closed before the request was done"))
            self._pool.clear()

    def _collect(self) -> bool:
        """Takes in what was submitted; waits while there is nothing to do. False: to end."""
        while True:
            with self._changed:
                self._core.waiting.extend(self._inbox)
                self._inbox.clear()
                calls, self._calls = self._calls, []
                if not calls:
                    busy = self._core.busy
                    if self._closing and (not busy or time.monotonic() >= self._drain_until):
                        return False
                    if busy:
                        return True
                    seconds = self._pool.next_expiry()
                    if seconds is None or seconds > 0:
                        self._changed.wait(seconds and min(seconds, threading.TIMEOUT_MAX))
            # Without the lock: others must not wait for the device or a disk to ask or to cancel.
            for call in calls:
                call()
            self._pool.expire()


_open: weakref.WeakSet[Engine] = weakref.WeakSet()


@functools.cache
def _close_at_exit() -> None:
    """No engine's thread must run into the end of the interpreter, with work on the device."""

    def close_all() -> None:
        for engine in tuple(_open):
            engine.close()

    atexit.register(close_all)
