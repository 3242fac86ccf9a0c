"""Text generation on one sequence: the runtime's front door."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterable, Mapping
from collections.abc import Sequence as Seq
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec.artifact import Artifact
from edgec.errors import InputError
from edgec.runtime.chat import Message
from edgec.runtime.config import DEFAULT_MAX_NEW_TOKENS, GenerationConfig
from edgec.runtime.generation import generate_chunks
from edgec.runtime.model import LoadedModel
from edgec.runtime.phases import PhaseCounters, SequencePhase
from edgec.runtime.results import GenerationResult, StreamChunk
from edgec.runtime.sequence import Sequence

__all__ = ["Prompt", "Session", "Streamer"]

Prompt = str | Seq[Message] | Seq[int] | npt.NDArray[np.integer[Any]]
"""Text, chat messages, or token ids."""


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
        if isinstance(artifact, LoadedModel):
            if device is not None or threads is not None:
                raise InputError("a loaded model has its device and threads already")
            self.model = artifact
        else:
            self.model = LoadedModel.load(artifact, device, threads)
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
        if isinstance(prompt, str):
            return _not_empty(self.model.tokenizer.encode(prompt))
        # Bytes would pass for ids.
        items: list[Any] = _not_empty([prompt] if isinstance(prompt, bytes) else list(prompt))
        if all(isinstance(item, Mapping) for item in items):
            if self.model.chat_template is None:
                raise InputError("this model has no chat template", "give the prompt as text")
            text = self.model.chat_template.render(items, **(chat_template_kwargs or {}))
            return _not_empty(self.model.tokenizer.encode(text, add_special_tokens=False))
        if all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in items):
            return [int(item) for item in items]
        raise InputError("prompt: must be text, a list of chat messages, or a list of token ids")

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
        """What the session's sequence is doing, or did last."""
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
        config = self.model.defaults.updated(options)
        ids = self.encode(prompt, chat_template_kwargs)
        self.sequence.check_tokens(ids)
        room = self.sequence.context - len(ids)
        limit = config.max_new_tokens
        if options.get("max_new_tokens") is None:
            # Nobody asked for so many: what fits will do.
            limit = max(1, min(limit or DEFAULT_MAX_NEW_TOKENS, room))
        assert limit is not None
        if limit > room:
            raise InputError(
                f"a prompt of {len(ids)} tokens and {limit} new ones are beyond the context of "
                f"{self.sequence.context}",
                "shorten the prompt, lower max_new_tokens, or compile with a larger --ctx-size",
            )
        least = min(config.min_new_tokens, limit)
        config = dataclasses.replace(config, max_new_tokens=limit, min_new_tokens=least)
        return ids, config, started

    def _stream(
        self, ids: list[int], config: GenerationConfig, started: float
    ) -> Generator[StreamChunk, None, None]:
        self._turn += 1
        turn = self._turn
        try:
            cached = self._reuse(ids)
            chunks = generate_chunks(
                self.sequence, self.model.tokenizer, ids, cached, config, started
            )
            for chunk in chunks:
                yield chunk
                if turn != self._turn and chunk.finish_reason is None:
                    raise InputError(
                        "this stream cannot go on: its session has been used for something else",
                        "use session.share() for two at a time",
                    )
        except KeyboardInterrupt:
            # The next prompt is a full prompt, so nothing is lost by starting afresh.
            if self.sequence.phase is SequencePhase.POISONED:
                self.sequence.reset()
            raise
        finally:
            if turn == self._turn:
                self.sequence.pause()

    def _reuse(self, ids: list[int]) -> int:
        """Brings the state back to the longest prefix of `ids` that it can keep.

        At least one token is left to compute: it is what yields the logits.
        """
        held = self.sequence.tokens
        limit = min(len(held), len(ids) - 1)
        common = next((i for i in range(limit) if held[i] != ids[i]), limit)
        if common == len(held) or self.sequence.can_truncate:
            self.sequence.truncate(common)
            return common
        self.sequence.reset()
        return 0


def _not_empty(items: list[Any]) -> list[Any]:
    if not items:
        raise InputError("empty prompt", "give at least one token of text")
    return items
