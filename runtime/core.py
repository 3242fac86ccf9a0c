"""Which sequence computes next. No threads and no clock of its own: `Engine` drives it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from edgec.errors import DeviceError, EdgecError, RequestTimeout
from edgec.runtime.config import GenerationConfig
from edgec.runtime.generation import Generation
from edgec.runtime.model import LoadedModel
from edgec.runtime.pool import SequencePool
from edgec.runtime.request import Request
from edgec.runtime.results import GenerationResult
from edgec.runtime.sampling import TokenFilter, logprobs_of
from edgec.runtime.sequence import Sequence, step_together
from edgec.runtime.step import Step

__all__ = ["Counters", "Job", "Scheduler"]


@dataclass
class Counters:
    """What a scheduler has done so far. Tokens are true ones, without padding."""

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
    """A request with all that is needed to compute it, and how far it is."""

    request: Request
    ids: list[int]
    config: GenerationConfig
    session_id: str | None = None
    cache_prompt: bool = True
    cache_scope: str | None = None
    token_filter: TokenFilter | None = None
    logprobs: int | None = None
    score_prompt: bool = False
    """Whether the log-probabilities of the prompt's tokens are wanted, each by a decode step."""
    score_only: bool = False
    """Whether nothing is generated after that."""
    deadline: float | None = None
    """As of `time.perf_counter`."""
    started: float = field(default_factory=time.perf_counter)
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


class Scheduler:
    """Runs jobs by turns: one chunk of one prompt, then a step of every sequence that decodes.

    So a stream waits for one chunk at most, however long the prompts of others are. Where nobody
    waits so, calls are queued before the results of the turn before are read, wherever a sequence
    can run ahead of its tokens.
    """

    def __init__(self, model: LoadedModel, pool: SequencePool) -> None:
        self.counters = Counters()
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self._model = model
        self._pool = pool
        self._batch = max(model.program.manifest.batch_sizes)

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.waiting or self.running)

    def turn(self) -> None:
        """Admits what fits, queues one chunk and one step of each sequence, reads results."""
        self._drop()
        self._admit()
        prompt = next((job for job in self.running if job.prefilling), None)
        if prompt is not None and any(not job.prefilling for job in self.running):
            self._alternate(prompt)
            return
        for job in tuple(self.running):
            if job.step is not None and job.generation and not job.generation.runs_ahead:
                self._accept(job, job.step)
        ahead = [(job, job.step) for job in self.running if job.step is not None]
        decoding = [job for job in self.running if not job.prefilling]
        if prompt is not None:
            self._prefill(prompt)
        self._decode(decoding)
        for job, step in ahead:
            if job.generation is not None and job.sequence is not None:
                self._accept(job, step)

    def _alternate(self, prompt: Job) -> None:
        """A step of each stream, and then a chunk, each alone on the device.

        Calls of different sequences have no order there: a step beside a chunk takes as long as the
        chunk, and its stream would wait for two of them.
        """
        self._accept_all()  # what was queued before a prompt came
        self._decode([job for job in self.running if not job.prefilling])
        self._accept_all()
        if (chunk := self._prefill(prompt)) is not None:
            try:
                chunk.wait()
            except BaseException as error:
                self._fail(prompt, error)

    def _accept_all(self) -> None:
        for job in tuple(self.running):
            if job.step is not None:
                self._accept(job, job.step)

    def stop(self, error: EdgecError) -> None:
        """Ends all jobs with an error and frees their state."""
        for job in (*self.running, *self.waiting):
            self._end(job, error)

    def _drop(self) -> None:
        """Ends what nobody waits for any more, before anything is computed for it."""
        now = time.perf_counter()
        for job in (*self.running, *self.waiting):
            if job.request.cancelled:
                try:
                    generation = job.generation or self._generation(job, 0)
                except BaseException as error:
                    self._fail(job, error)
                    continue
                self.counters.cancelled += 1
                self._end(job, generation.result("cancelled"))
            elif job.deadline is not None and now >= job.deadline:
                self.counters.timed_out += 1
                waited = now - job.started
                self._end(
                    job, RequestTimeout(f"request {job.request.id}: not done after {waited:.1f} s")
                )

    def _admit(self) -> None:
        while self.waiting:
            job = self.waiting[0]
            try:
                acquired = self._pool.acquire(
                    job.ids, job.session_id, job.cache_prompt, job.cache_scope
                )
            except BaseException as error:
                self._fail(job, error)
                continue
            if acquired is None:
                return
            self.waiting.popleft()
            self.running.append(job)
            job.sequence, cached = acquired
            try:
                job.generation = self._generation(job, cached)
            except BaseException as error:
                self._fail(job, error)
                continue
            if job.score_prompt:
                job.token = job.ids[0]
            else:
                job.chunks = job.sequence.chunks(job.ids[cached:], checkpoint=job.cache_prompt)
            self.counters.cached_tokens += cached

    def _generation(self, job: Job, cached: int) -> Generation:
        return Generation(
            self._model.tokenizer,
            job.ids,
            cached,
            job.config,
            self._model.vocab_size,
            job.started,
            job.token_filter,
            job.logprobs,
        )

    def _prefill(self, job: Job) -> Step | None:
        """Queues a chunk; None if that failed."""
        assert job.sequence is not None and job.chunks is not None
        held = job.sequence.length
        try:
            step = next(job.chunks)
        except BaseException as error:
            self._fail(job, error)
            return None
        self.counters.prefill_calls += 1
        self.counters.prompt_tokens += job.sequence.length - held
        if job.sequence.length >= len(job.ids):
            job.chunks, job.step = None, step
        return step

    def _decode(self, jobs: list[Job]) -> None:
        """Queues a step of each, together where the program has a batched decode."""
        while jobs:
            group, jobs = jobs[: self._batch], jobs[self._batch :]
            steps = [
                (job.sequence, job.step or job.token) for job in group if job.sequence is not None
            ]
            try:
                results = step_together(steps)
            except BaseException as error:
                for job in group:
                    self._fail(job, error)
                continue
            self.counters.decode_calls += 1
            self.counters.decode_tokens += len(group)
            for job, step in zip(group, results, strict=True):
                job.step = step

    def _accept(self, job: Job, step: Step) -> None:
        """Takes the token of a step; waits for it."""
        assert job.generation is not None
        if job.score_prompt and self._score(job, step):
            return
        try:
            chunk = job.generation.accept(step)
        except BaseException as error:
            self._fail(job, error)
            return
        self.counters.generated_tokens += 1
        job.token = chunk.token
        if job.step is step:
            job.step = None
        if chunk.result is not None:
            self.counters.completed += 1
            # The state is free before anybody hears of the end.
            self._release(job, keep=job.cache_prompt)
        job.request.deliver(chunk)

    def _score(self, job: Job, step: Step) -> bool:
        """Takes from a step what it says of the prompt's next token; False: there is none."""
        assert job.generation is not None
        scored = job.request.prompt_logprobs
        left = len(job.ids) - 1 - len(scored)
        if left:
            token = job.ids[len(scored) + 1]
            try:
                scored.append(logprobs_of(step.logits(), token, job.logprobs or 0))
            except BaseException as error:
                self._fail(job, error)
                return True
            self.counters.prompt_tokens += 1
            job.token, job.step = token, None
        if left <= 1 and job.score_only:
            self.counters.completed += 1
            self._end(job, job.generation.result("length"))
            return True
        return left > 0

    def _fail(self, job: Job, error: BaseException) -> None:
        """Ends a job with an error, of whatever kind.

        A token filter, a grammar or a tokenizer may raise anything, also what is no Exception
        (KeyboardInterrupt, a panic of Rust's); this is not the main thread, so none of it is meant
        for the process.
        """
        self.counters.failed += 1
        if not isinstance(error, EdgecError):
            error = DeviceError(f"the generation failed: {type(error).__name__}: {error}")
        self._end(job, error)

    def _end(self, job: Job, outcome: GenerationResult | Exception) -> None:
        """Ends a job before its time. Only a named conversation outlives that."""
        self._release(job, keep=job.cache_prompt and job.session_id is not None)
        job.request.end(outcome)

    def _release(self, job: Job, keep: bool) -> None:
        if job in self.running:
            self.running.remove(job)
        else:
            self.waiting.remove(job)
        if job.sequence is not None:
            self._pool.release(job.sequence, job.session_id, keep)
            job.sequence = job.chunks = job.step = None
