"""Text generation on one sequence: the runtime's front door."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec.artifact import Artifact
from edgec.errors import InputError
from edgec.runtime.config import GenerationConfig
from edgec.runtime.generation import Generation
from edgec.runtime.model import LoadedModel
from edgec.runtime.phases import PhaseCounters, SequencePhase
from edgec.runtime.prompt import Prompt, encode_prompt, prepare
from edgec.runtime.results import GenerationResult, StreamChunk
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
        self._turn = 0

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
        **options: Any,
    ) -> GenerationResult:
        """Generates to the end.

        Args:
            prompt: Text, chat messages (objects with `role` and `content`), or token ids.
            streamer: Gets the ids through `put` as they come, then `end`.
            chat_template_kwargs: More variables for the chat template (`tools`, ...).
            options: Fields of `GenerationConfig`, over the model's own defaults.

        Raises:
            InputError: a bad prompt or option, or more tokens than the context holds.
            DeviceError: the device failed; the session refuses to go on until `reset`.
        """
        ids, config, started = self._prepare(prompt, chat_template_kwargs, options)
        if streamer is not None:
            streamer.put(np.array([ids], np.int64))
        result = None
        for chunk in self._stream(ids, config, started):
            result = chunk.result
            if streamer is not None:
                streamer.put(np.array([chunk.token], np.int64))
        if streamer is not None:
            streamer.end()
        assert result is not None
        return result

    def stream(
        self,
        prompt: Prompt,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Generator[StreamChunk, None, None]:
        """Generates a chunk for each token; the last has the `GenerationResult`.

        Arguments and errors are those of `generate`. Bad input is refused at once; computing
        starts with the first chunk. The generator can be closed at any point: what was generated
        until then stays in the state.
        """
        return self._stream(*self._prepare(prompt, chat_template_kwargs, options))

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
        """
        self._turn += 1
        return self.sequence.extend(list(tokens)).logits()

    def decode(self, token: int) -> npt.NDArray[np.float32]:
        """Appends one token to the state and returns the logits f32[V] after it."""
        self._turn += 1
        return self.sequence.step(token).logits()

    def reset(self) -> None:
        """Forgets everything seen; also recovers from a failed step."""
        self._turn += 1
        self.sequence.reset()

    def close(self) -> None:
        """Frees the session's state at once. The model is freed with its last session."""
        self._turn += 1
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

    def _prepare(
        self,
        prompt: Prompt,
        chat_template_kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> tuple[list[int], GenerationConfig, float]:
        """Refuses bad input before anything is computed."""
        started = time.perf_counter()
        ids, config = prepare(self.model, prompt, chat_template_kwargs, options)
        if self.sequence.interrupted:
            # The prompt is a full prompt, so nothing is lost by starting afresh.
            self.sequence.reset()
        self.sequence.check_tokens(ids)
        return ids, config, started

    def _stream(
        self, ids: list[int], config: GenerationConfig, started: float
    ) -> Generator[StreamChunk, None, None]:
        self._turn += 1
        turn = self._turn
        sequence = self.sequence
        try:
            cached = sequence.keep(ids)
            generation = Generation(
                self.model.tokenizer, ids, cached, config, sequence.vocab_size, started
            )
            step = sequence.extend(ids[cached:], checkpoint=True)
            while True:
                ahead = sequence.step(step) if generation.runs_ahead else None
                chunk = generation.accept(step)
                yield chunk
                if chunk.finish_reason is not None:
                    return
                if turn != self._turn:
                    raise InputError(
                        "this stream cannot go on: its session has been used for something else",
                        "use session.share() for two at a time",
                    )
                generation.resume()
                step = ahead or sequence.step(chunk.token)
        finally:
            if turn == self._turn:
                sequence.pause()
