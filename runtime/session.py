"""Text generation on one sequence: the runtime's front door."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from collections.abc import Sequence as Seq
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec.artifact import Artifact
from edgec.errors import InputError
from edgec.runtime.core import Core, Job
from edgec.runtime.model import LoadedModel
from edgec.runtime.phases import PhaseCounters, SequencePhase
from edgec.runtime.prompt import Prompt, Task, encode_prompt, prepare
from edgec.runtime.results import GenerationResult, StreamChunk, TokenLogprobs
from edgec.runtime.sampling import TokenFilter
from edgec.runtime.sequence import Sequence

__all__ = ["Prompt", "Session", "Streamer"]


class Streamer(Protocol):
    """Receives ids as they are generated, like transformers' streamers: first the prompt's
    i64[1, n], then i64[1] for each token."""

    def put(self, value: Any) -> None: ...

    def end(self) -> None: ...


class Session:
    """Generates text with a compiled model, and keeps the state of what it has seen.

    A prompt is always the full prompt. What the state already holds of it is not computed again:
    a conversation that grows costs only its new tokens (`usage.cached_tokens` says how many were
    saved). Sessions that share a model (`share`, or `Session(other.model)`) have their weights
    in memory once. A session is not safe to use from two threads at once; two sessions are.

    Args:
        artifact: An artifact's folder, an opened `Artifact`, or a `LoadedModel` to share.
        device: `cpu`, `vulkan`, `cuda`, or a target in full; None: the cpu, or the artifact's
            only program.
        threads: CPU worker threads. IREE takes it once for the process.

    Raises:
        ArtifactError: the artifact is missing, damaged, or made for another IREE release.
        InputError: no program for `device`, or `threads` cannot be had.
        DeviceError: the device is absent, lacks what the program needs, or has no memory.
    """

    def __init__(
        self,
        artifact: str | Path | Artifact | LoadedModel,
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.model = LoadedModel.of(artifact, device, threads)
        self.sequence = Sequence(self.model.program)
        self._uses = 0

    @property
    def artifact(self) -> Artifact:
        """The compiled artifact, with its manifest."""
        return self.model.artifact

    def share(self) -> Session:
        """A new session, with its own empty state, on the same loaded model."""
        return Session(self.model)

    def generate(
        self,
        prompt: Prompt,
        *,
        streamer: Streamer | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        token_filter: TokenFilter | None = None,
        logprobs: int | None = None,
        score_prompt: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> GenerationResult:
        """Generates to the end.

        Args:
            prompt: Text, chat messages (objects with `role` and `content`), or token ids.
            streamer: Gets the ids through `put` as they come, then `end`.
            chat_template_kwargs: More variables for the chat template (`tools`, ...).
            token_filter: Narrows each next token, see `TokenFilter`.
            logprobs: Log-probabilities in the result and with each chunk: of each token and of
                this many of the most probable ones. None: neither.
            score_prompt: Whether the result's `prompt_logprobs` say how probable the prompt's own
                tokens were. Each is a decode step, nothing is reused, and `max_new_tokens` may
                be 0.
            timeout: Seconds, from now, after which `RequestTimeout` is raised. For a result that
                ends gently there is the option `max_time`.
            options: Fields of `GenerationConfig`, over the model's own defaults.

        Raises:
            InputError: a bad prompt or option, or more tokens than the context holds.
            DeviceError: the device failed; the session refuses to go on until `reset`.
            RequestTimeout: not done within `timeout`; what was computed stays in the state.
        """
        task = self._prepare(
            prompt,
            chat_template_kwargs=chat_template_kwargs,
            token_filter=token_filter,
            logprobs=logprobs,
            score_prompt=score_prompt,
            timeout=timeout,
            options=options,
        )
        if streamer is not None:
            streamer.put(np.array([task.ids], np.int64))
        consumer = _Chunks()
        for chunk in self._stream(task, consumer):
            if streamer is not None:
                streamer.put(np.array([chunk.token], np.int64))
        if streamer is not None:
            streamer.end()
        assert consumer.result is not None
        return consumer.result

    def stream(
        self,
        prompt: Prompt,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        token_filter: TokenFilter | None = None,
        logprobs: int | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Generator[StreamChunk, None, None]:
        """Generates a chunk for each token; the last has the `GenerationResult`.

        Arguments and errors are those of `generate`. Bad input is refused at once; computing
        starts with the first chunk. The generator can be closed at any point: what was generated
        until then stays in the state.
        """
        task = self._prepare(
            prompt,
            chat_template_kwargs=chat_template_kwargs,
            token_filter=token_filter,
            logprobs=logprobs,
            score_prompt=False,
            timeout=timeout,
            options=options,
        )
        return self._stream(task, _Chunks())

    def encode(
        self, prompt: Prompt, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """The prompt as token ids, as `generate` sees it.

        Raises:
            InputError: it is empty, of another kind, or the model has no chat template.
        """
        return encode_prompt(self.model, prompt, chat_template_kwargs)

    def prefill(self, tokens: Iterable[int]) -> npt.NDArray[np.float32]:
        """Appends tokens to the state and returns the logits f32[V] after the last.

        With `decode`, the level below `generate`, for tests and benchmarks: no tokenizer, no
        sampling, no reuse of what the state holds. Start with `reset`.

        Raises:
            InputError: no tokens, an id outside the vocabulary, or more than the context holds.
            DeviceError: the device failed; the session refuses to go on until `reset`.
        """
        self._uses += 1
        return self.sequence.extend(list(tokens)).logits()

    def decode(self, token: int) -> npt.NDArray[np.float32]:
        """Appends one token to the state and returns the logits f32[V] after it.

        Raises:
            InputError: an id outside the vocabulary, or the context is full.
            DeviceError: the device failed; the session refuses to go on until `reset`.
        """
        self._uses += 1
        return self.sequence.step(token).logits()

    def reset(self) -> None:
        """Forgets everything seen; also recovers from a failed step."""
        self._uses += 1
        self.sequence.reset()

    def close(self) -> None:
        """Frees the session's state at once. The model is freed with its last session."""
        self._uses += 1
        self.sequence.retire()

    @property
    def phase(self) -> SequencePhase:
        """The present or last activity of the session's sequence."""
        return self.sequence.phase

    @property
    def counters(self) -> Mapping[SequencePhase, PhaseCounters]:
        """Calls, tokens, seconds and bytes, by phase, since the session was made."""
        return self.sequence.counters

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _prepare(self, prompt: Prompt, **asked: Any) -> Task:
        """Refuses bad input before anything is computed."""
        task = prepare(self.model, prompt, **asked)
        if self.sequence.interrupted:
            # The prompt is a full prompt, so nothing is lost by starting afresh.
            self.sequence.reset()
        self.sequence.check_tokens(task.ids)
        return task

    def _stream(self, task: Task, consumer: _Chunks) -> Generator[StreamChunk, None, None]:
        self._uses += 1
        use = self._uses
        try:
            core = Core(self.model, _OneSequence(self.sequence), isolated=False)
            job = Job(task, consumer, cache_prompt=not task.score_prompt)
            core.waiting.append(job)
            while core.busy:
                core.step()
                while consumer.chunks:
                    chunk = consumer.chunks.popleft()
                    yield chunk
                    if chunk.finish_reason is None and use != self._uses:
                        raise InputError(
                            "this stream cannot go on: its session has been used for something "
                            "else",
                            "use session.share() for two at a time",
                        )
                    if job.generation is not None:
                        job.generation.resume()
        finally:
            if use == self._uses:
                self.sequence.pause()


class _Chunks:
    """The consumer of a session's generation: holds what a step gave until it is taken."""

    cancelled = False

    def __init__(self) -> None:
        self.chunks: deque[StreamChunk] = deque()
        self.result: GenerationResult | None = None
        self.prompt_logprobs: list[TokenLogprobs] = []

    def deliver(self, chunk: StreamChunk) -> None:
        self.chunks.append(chunk)
        self.result = chunk.result

    def end(self, outcome: GenerationResult | BaseException) -> None:
        if isinstance(outcome, BaseException):
            raise outcome
        self.result = outcome


class _OneSequence:
    """The session's own sequence, for every prompt."""

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence

    def acquire(
        self, prompt: Seq[int], session_id: str | None, reuse: bool, scope: str | None
    ) -> tuple[Sequence, int]:
        if reuse:
            return self._sequence, self._sequence.keep(prompt)
        self._sequence.forget()
        return self._sequence, 0

    def release(self, sequence: Sequence, session_id: str | None, keep: bool) -> None:
        sequence.pause()
