"""The core of generation: schedule, execute, accept. `Session` and `Engine` drive it.

It has no thread: `step` computes a little for every job, and returns. Whoever asked is a
`Consumer`, and where sequences come from is a `Sequences`: an engine's pool, or the one sequence of
a session.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from edgec.errors import DeviceError, EdgecError, RequestTimeout
from edgec.runtime.generation import Generation
from edgec.runtime.model import LoadedModel
from edgec.runtime.prompt import Task
from edgec.runtime.results import GenerationResult, StreamChunk, TokenLogprobs
from edgec.runtime.sampling import logprobs_of
from edgec.runtime.sequence import Sequence, step_together
from edgec.runtime.step import Step

__all__ = ["Consumer", "Core", "Counters", "Job", "Sequences"]

_T = TypeVar("_T")


class Consumer(Protocol):
    """Whoever asked for a generation."""

    prompt_logprobs: list[TokenLogprobs]

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the rest any more."""
        ...

    def deliver(self, chunk: StreamChunk) -> None:
        """Takes a chunk, the last one with the result."""
        ...

    def end(self, outcome: GenerationResult | BaseException) -> None:
        """Hears of an end without a last chunk: scored, cancelled or failed."""
        ...


class Sequences(Protocol):
    """The place that sequences come from, see `SequencePool`."""

    def acquire(
        self, prompt: Seq[int], session_id: str | None, reuse: bool, scope: str | None
    ) -> tuple[Sequence, int] | None: ...

    def release(self, sequence: Sequence, session_id: str | None, keep: bool) -> None: ...


@dataclass
class Counters:
    """A core's totals so far. Tokens are true ones, without padding."""

    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    timed_out: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefill_calls: int = 0
    decode_tokens: int = 0
    decode_calls: int = 0
    generated_tokens: int = 0


@dataclass(eq=False)
class Job:
    """A task with whoever asked for it, and how far it is."""

    task: Task
    consumer: Consumer
    name: str = "the generation"
    session_id: str | None = None
    cache_prompt: bool = True
    cache_scope: str | None = None
    sequence: Sequence | None = None
    generation: Generation | None = None
    chunks: Iterator[Step] | None = None
    """Queues the next chunk of the prompt; None once all are queued."""
    step: Step | None = None
    """The last call that was queued, as long as its token is not accepted."""
    token: int = 0
    """The last token that was accepted; the state holds it one step later."""

    @property
    def prefilling(self) -> bool:
        return self.sequence is not None and self.chunks is not None

    @property
    def runs_ahead(self) -> bool:
        return self.generation is not None and self.generation.runs_ahead


class Core:
    """Runs jobs step by step: one chunk of one prompt, then a step of every sequence that decodes.

    So a stream waits for one chunk at most, however long the prompts of others are. Where nobody
    waits so, calls are queued before the results of the ones before are read, wherever a sequence
    can run ahead of its tokens.

    Args:
        sequences: Where the sequences of jobs come from.
        isolated: Whether an error, of whatever kind, ends its own job only; otherwise `step`
            raises it, and the core is of no more use.
    """

    def __init__(self, model: LoadedModel, sequences: Sequences, *, isolated: bool) -> None:
        self.counters = Counters()
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self._model = model
        self._sequences = sequences
        self._isolated = isolated
        self._batch = max(model.program.manifest.batch_sizes)

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.waiting or self.running)

    def step(self) -> None:
        """Admits what fits, queues one chunk or one step of each sequence, accepts results."""
        self._drop()
        if self.waiting:
            self._admit()
        prompt: Job | None = None
        streams: list[Job] = []
        results: list[tuple[Job, Step]] = []
        decoding: list[Job] = []
        for job in self.running:
            if job.chunks is not None:
                prompt = prompt or job
                continue
            streams.append(job)
            if job.step is not None:
                results.append((job, job.step))
            if job.step is None or job.runs_ahead:
                decoding.append(job)
        if prompt is None:
            fresh = [job for job in decoding if job.step is None]
            self._decode(decoding)
            self._accept(results)
            if fresh:
                self._accept_queued([job for job in fresh if not job.runs_ahead])
        elif streams:
            self._alternate(prompt, streams)
        else:
            self._prefill(prompt)

    def _alternate(self, prompt: Job, streams: list[Job]) -> None:
        """A step of each stream, and then a chunk, each alone on the device.

        Calls of different sequences have no order there: a step beside a chunk takes as long as the
        chunk, and its stream would wait for two of them.
        """
        self._accept_queued(streams)  # what was queued before a prompt came
        self._decode([job for job in streams if job.sequence is not None])
        self._accept_queued(streams)
        if (chunk := self._prefill(prompt)) is not None:
            self._guarded([prompt], chunk.wait)

    def stop(self, error: EdgecError) -> None:
        """Ends all jobs with an error and frees their state."""
        for job in (*self.running, *self.waiting):
            self._end(job, error)

    def _drop(self) -> None:
        """Ends what nobody waits for any more, before anything is computed for it."""
        for job in (*self.running, *self.waiting):
            if job.consumer.cancelled:
                generation = job.generation or self._guarded([job], self._generation, job, 0)
                if generation is not None:
                    self.counters.cancelled += 1
                    self._end(job, generation.result("cancelled"))
            elif (
                job.task.deadline is not None and (now := time.perf_counter()) >= job.task.deadline
            ):
                self.counters.timed_out += 1
                waited = now - job.task.started
                self._end(job, RequestTimeout(f"{job.name}: not done after {waited:.1f} s"))

    def _admit(self) -> None:
        while self.waiting:
            job = self.waiting[0]
            if self._guarded([job], self._start, job) is False:
                return

    def _start(self, job: Job) -> bool:
        """Gives a job a sequence; False: there is none until another job ends."""
        task = job.task
        acquired = self._sequences.acquire(
            task.ids, job.session_id, job.cache_prompt, job.cache_scope
        )
        if acquired is None:
            return False
        self.waiting.popleft()
        self.running.append(job)
        job.sequence, cached = acquired
        job.generation = self._generation(job, cached)
        if task.score_prompt:
            job.token = task.ids[0]
        else:
            job.chunks = job.sequence.chunks(task.ids[cached:], checkpoint=job.cache_prompt)
        self.counters.cached_tokens += cached
        return True

    def _generation(self, job: Job, cached: int) -> Generation:
        task = job.task
        return Generation(
            self._model.tokenizer,
            prompt=task.ids,
            cached=cached,
            config=task.config,
            vocab_size=self._model.vocab_size,
            started=task.started,
            token_filter=task.token_filter,
            logprobs=task.logprobs,
            prompt_logprobs=job.consumer.prompt_logprobs,
        )

    def _prefill(self, job: Job) -> Step | None:
        """Queues a chunk; None if that failed."""
        assert job.sequence is not None and job.chunks is not None
        held = job.sequence.length
        step = self._guarded([job], next, job.chunks)
        if step is not None:
            self.counters.prefill_calls += 1
            self.counters.prompt_tokens += job.sequence.length - held
            if job.sequence.length >= len(job.task.ids):
                job.chunks, job.step = None, step
        return step

    def _decode(self, jobs: list[Job]) -> None:
        """Queues a step of each, together where the program has a batched decode."""
        while jobs:
            group, jobs = jobs[: self._batch], jobs[self._batch :]
            steps = [
                (job.sequence, job.step or job.token) for job in group if job.sequence is not None
            ]
            results = self._guarded(group, step_together, steps)
            if results is None:
                continue
            self.counters.decode_calls += 1
            self.counters.decode_tokens += len(group)
            for job, step in zip(group, results, strict=True):
                job.step = step

    def _accept_queued(self, jobs: Iterable[Job]) -> None:
        """Takes the tokens of the last steps of jobs."""
        self._accept([(job, job.step) for job in jobs if job.step is not None])

    def _accept(self, results: list[tuple[Job, Step]]) -> None:
        """Takes the tokens of steps; waits for them."""
        for job, step in results:
            if job.sequence is not None:  # otherwise it has failed since
                self._guarded([job], self._advance, job, step)

    def _advance(self, job: Job, step: Step) -> None:
        """Takes what a step says of a job's text, or of its prompt."""
        assert job.generation is not None
        if job.task.score_prompt and self._score(job, step):
            return
        for chunk in job.generation.accept([step]):
            self.counters.generated_tokens += 1
            job.token = chunk.token
            if job.step is step:
                job.step = None
            if chunk.result is not None:
                self.counters.completed += 1
                # The state is free before anybody hears of the end.
                self._release(job, keep=job.cache_prompt)
            job.consumer.deliver(chunk)

    def _score(self, job: Job, step: Step) -> bool:
        """Takes from a step what it says of the prompt's next token; False: there is none."""
        assert job.generation is not None
        scored, ids = job.consumer.prompt_logprobs, job.task.ids
        left = len(ids) - 1 - len(scored)
        if left:
            token = ids[len(scored) + 1]
            scored.append(logprobs_of(step.logits(), token, job.task.logprobs or 0))
            self.counters.prompt_tokens += 1
            job.token, job.step = token, None
        if left <= 1 and job.task.score_only:
            self.counters.completed += 1
            self._end(job, job.generation.result("length"))
            return True
        return left > 0

    def _guarded(self, jobs: Seq[Job], act: Callable[..., _T], *arguments: Any) -> _T | None:
        """The result of `act`; None where an error of the jobs' own ended them.

        A token filter, a grammar or a tokenizer may raise anything, also what is no Exception
        (KeyboardInterrupt, a panic of Rust's). Isolated means not on the main thread, so none of it
        is meant for the process.
        """
        try:
            return act(*arguments)
        except BaseException as error:
            if not self._isolated:
                raise
            known = isinstance(error, EdgecError)
            what = f"the generation failed: {type(error).__name__}: {error}"
            for job in jobs:
                self.counters.failed += 1
                self._end(job, error if known else DeviceError(what))
            return None

    def _end(self, job: Job, outcome: GenerationResult | BaseException) -> None:
        """Ends a job before its time. Only a named conversation outlives that."""
        self._release(job, keep=job.cache_prompt and job.session_id is not None)
        job.consumer.end(outcome)

    def _release(self, job: Job, keep: bool) -> None:
        if job in self.running:
            self.running.remove(job)
        else:
            self.waiting.remove(job)
        if job.sequence is not None:
            self._sequences.release(job.sequence, job.session_id, keep)
            job.sequence = job.chunks = job.step = None
