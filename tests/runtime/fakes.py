"""A manifest made by hand, and a program in Python whose every answer depends on all its input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.manifest import (
    SCHEMA_VERSION,
    EntryPoint,
    Manifest,
    Memory,
    ModelInfo,
    ParameterFile,
    Program,
    Prompt,
    StateBuffer,
)

EOS = 256
VOCAB = 259


def make_manifest(
    *,
    context: int = 256,
    multiple_of: int = 32,
    longest: int = 64,
    kind: str = "attention",
    **changes: Any,
) -> Manifest:
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "digest": "0",
        "versions": {"edgec": "0.1.0", "iree": "3.13.0"},
        "model": ModelInfo("fake", "", "Fake", "fake", VOCAB, context, context, 1, 1, 1),
        "options": {},
        "dtype": "f32",
        "quantization": {},
        "prompt": Prompt(multiple_of, multiple_of, longest),
        "entry_points": {"prefill": EntryPoint((), ()), "decode": EntryPoint((), ())},
        "state": (StateBuffer("cache", kind, (context + multiple_of, 1), "i32"),),
        "programs": {"cpu": Program("cpu:host", "local-task", "cpu.vmfb", {}, {})},
        "parameters": ParameterFile("weights.irpa", "model", 0, 0),
        "memory": Memory(0, 4 * (context + multiple_of)),
        "files": {},
    }
    return Manifest(**(fields | changes))


class FakeState:
    """Row by row what was written; None is a row that nobody wrote."""

    def __init__(self, rows: int) -> None:
        self.rows: list[int | None] = [None] * rows
        self.running = ""

    @property
    def nbytes(self) -> int:
        return 4 * len(self.rows)

    def zero(self) -> None:
        self.rows = [None] * len(self.rows)
        self.running = ""

    def free(self) -> None:
        self.rows = []

    def copy_from(self, other: FakeState, rows: int) -> None:
        self.rows[:rows] = other.rows[:rows]
        self.running = other.running

    def checkpoint(self) -> None:
        self.saved = self.running

    def rollback(self) -> None:
        self.running = self.saved

    def read(self, rows: int) -> list[npt.NDArray[np.uint8]]:
        return [np.frombuffer(json.dumps([self.rows[:rows], self.running]).encode(), np.uint8)]

    def write(self, parts: Seq[npt.NDArray[np.uint8]], rows: int) -> None:
        self.rows[:rows], self.running = json.loads(bytes(parts[0]))


@dataclass
class FakeOutput:
    scores: npt.NDArray[np.float32]

    def wait(self) -> None:
        pass

    def token(self) -> int:
        return int(self.scores.argmax())

    def logits(self) -> npt.NDArray[np.float32]:
        return self.scores.copy()


@dataclass
class FakeProgram:
    """Logits are a hash of the whole history, as its state has it.

    A stale or padded row that is read, a wrong position or a token computed twice changes them.
    `script` gives the tokens to answer with instead, by position of the answer.
    """

    manifest: Manifest
    script: dict[int, int] = field(default_factory=dict)
    fail_at: int | None = None
    error: BaseException = field(default_factory=lambda: RuntimeError("device lost"))
    calls: list[tuple[str, int, int, int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def create_state(self) -> FakeState:
        return FakeState(self.manifest.state[0].shape[0])

    def prefill(
        self, tokens: npt.NDArray[np.int32], start: int, length: int, state: FakeState
    ) -> FakeOutput:
        assert tokens.dtype == np.int32
        assert tokens.shape[1] % self.manifest.prompt.multiple_of == 0
        assert self.manifest.prompt.min <= tokens.shape[1] <= self.manifest.prompt.max
        return self._run("prefill", tokens[0].tolist(), start, length, state)

    def decode(self, steps: Seq[tuple[Any, int, FakeState]]) -> list[FakeOutput]:
        self.batches.append(len(steps))
        return [
            self._run("decode", [t if isinstance(t, int) else t.token()], start, 1, state)
            for t, start, state in steps
        ]

    def _run(
        self, name: str, tokens: list[int], start: int, length: int, state: FakeState
    ) -> FakeOutput:
        self.calls.append((name, start, length, len(tokens)))
        assert start + len(tokens) <= len(state.rows), "written past the state"
        state.rows[start : start + len(tokens)] = tokens
        if self.fail_at is not None and start <= self.fail_at < start + length:
            raise self.error
        if self.manifest.state[0].kind == "attention":
            history = repr(state.rows[: start + length])
        else:
            state.running += "".join(f"{token}," for token in tokens[:length])
            history = state.running
        seed = int.from_bytes(hashlib.sha256(history.encode()).digest()[:8])
        scores = np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)
        if (answer := self.script.get(start + length)) is not None:
            scores[answer] = 100
        return FakeOutput(scores)
