"""A manifest made by hand, and a program in Python whose every answer depends on all its input."""

from __future__ import annotations

import hashlib
import platform
from bisect import bisect_left
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.manifest import (
    SCHEMA_VERSION,
    Manifest,
    Memory,
    ModelInfo,
    ParameterFile,
    Program,
    Prompt,
    StateBuffer,
    entry_points,
)

EOS = 256
VOCAB = 259
ANY_CPU = {"architecture": platform.machine(), "cpu": "generic", "cpu_features": ""}


def make_manifest(
    *,
    context: int = 256,
    multiple_of: int = 32,
    longest: int = 64,
    kind: str = "attention",
    window: int = 0,
    switches: tuple[int, ...] = (),
    **changes: Any,
) -> Manifest:
    rows = context + multiple_of
    if window:
        kind, rows = "window", -(-(window - 1 + longest) // 32) * 32
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "digest": "0",
        "versions": {"edgec": "0.1.0", "iree": "3.13.0"},
        "model": ModelInfo(
            "fake", "", "Fake", "fake", VOCAB, context, context, 1, 1, 1, rope_switches=switches
        ),
        "options": {},
        "dtype": "f32",
        "quantization": {},
        "prompt": Prompt(multiple_of, multiple_of, longest),
        "entry_points": entry_points(VOCAB, changes.get("batch_sizes", (1,)), total=bool(switches)),
        "state": (StateBuffer("cache", kind, (rows, 1), "i32", window, window),),
        "programs": {"cpu": Program("cpu:host", "local-task", "cpu.vmfb", {}, ANY_CPU)},
        "parameters": ParameterFile("weights.irpa", "model", 0, 0),
        "memory": Memory(0, 4 * rows),
        "files": {},
    }
    return Manifest(**(fields | changes))


class FakeState:
    """Row by row what was written; None is a row that nobody wrote. With a window it is a ring."""

    def __init__(self, rows: int, window: int = 0, has_rows: bool = True) -> None:
        self.has_rows = has_rows
        self.rows: list[int | None] = [None] * rows
        self.window = window
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

    def checkpoint(self, length: int) -> None:
        self.saved = self.running
        seen = {p % len(self.rows) for p in range(max(0, length - self.window), length)}
        self.saved_rows = {row: self.rows[row] for row in seen} if self.window else {}

    def rollback(self) -> None:
        self.running = self.saved
        for row, token in self.saved_rows.items():
            self.rows[row] = token

    def read(self, rows: int) -> list[npt.NDArray[np.uint8]]:
        if self.has_rows:
            held = [-1 if token is None else token for token in self.rows[:rows]]
        else:
            held = [int(token) for token in self.running.split(",")[:-1]]
            held += [-1] * (len(self.rows) - len(held))
        return [np.array(held, np.int32).view(np.uint8)]

    def write(self, parts: Seq[npt.NDArray[np.uint8]], rows: int) -> None:
        held = parts[0].view(np.int32).tolist()
        if self.has_rows:
            self.rows[:rows] = [None if token < 0 else token for token in held]
        else:
            self.running = "".join(f"{token}," for token in held if token >= 0)


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

    A stale or padded row that is read, a wrong position, a token computed twice or rows for another
    total length change them.
    `script` gives the tokens to answer with instead, by position of the answer.
    """

    manifest: Manifest
    script: dict[int, int] = field(default_factory=dict)
    fail_at: int | None = None
    error: BaseException = field(default_factory=lambda: RuntimeError("device lost"))
    calls: list[tuple[str, int, int, int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def create_state(self) -> FakeState:
        spec = self.manifest.state[0]
        return FakeState(spec.shape[0], spec.window, spec.has_rows)

    def prefill(
        self,
        tokens: npt.NDArray[np.int32],
        start: int,
        length: int,
        state: FakeState,
        total: int,
    ) -> FakeOutput:
        assert tokens.dtype == np.int32
        assert tokens.shape[1] % self.manifest.prompt.multiple_of == 0
        assert self.manifest.prompt.min <= tokens.shape[1] <= self.manifest.prompt.max
        return self._run("prefill", tokens[0].tolist(), start, length, state, total)

    def decode(self, steps: Seq[tuple[Any, int, FakeState]]) -> list[FakeOutput]:
        self.batches.append(len(steps))
        return [
            self._run(
                "decode", [t if isinstance(t, int) else t.token()], start, 1, state, start + 1
            )
            for t, start, state in steps
        ]

    def _run(
        self,
        name: str,
        tokens: list[int],
        start: int,
        length: int,
        state: FakeState,
        total: int,
    ) -> FakeOutput:
        self.calls.append((name, start, length, len(tokens)))
        end, rows, window = start + length, len(state.rows), state.window
        assert window or start + len(tokens) <= rows, "written past the state"
        # Rows of a sequence past a switch are others.
        passed = bisect_left(self.manifest.model.rope_switches, total)
        tokens = [token + 1000 * passed for token in tokens]
        for position, token in enumerate(tokens, start):
            state.rows[position % rows] = token
        if self.fail_at is not None and start <= self.fail_at < start + length:
            raise self.error
        if window:
            # What the call's first token sees, to what its last one does.
            first = max(0, start - window + 1)
            history = f"{start}: {[state.rows[p % rows] for p in range(first, end)]}"
        elif self.manifest.state[0].kind == "attention":
            history = repr(state.rows[:end])
        else:
            state.running += "".join(f"{token}," for token in tokens[:length])
            history = state.running
        seed = int.from_bytes(hashlib.sha256(history.encode()).digest()[:8])
        scores = np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)
        if (answer := self.script.get(start + length)) is not None:
            scores[answer] = 100
        return FakeOutput(scores)
