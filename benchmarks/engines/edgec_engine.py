"""edgec, on the CPU."""

from __future__ import annotations

import time

import edgec
from edgec.runtime import Session
from edgec.runtime.bench import decode


class Engine:
    """An artifact in a session. A step is queued before the last one's token is read."""

    settings = "local-task, KV cache in the dtype of the artifact"

    def __init__(self, model: str, threads: int, context: int) -> None:
        self.session = Session(model, device="cpu", threads=threads)
        self.vocabulary = self.session.artifact.manifest.model.vocab_size

    def measure(self, prompt: list[int], steps: list[int], depth: int) -> float:
        sequence = self.session.sequence
        self.session.reset()
        if depth:
            sequence.extend([1 + i % 200 for i in range(depth)]).token()
        started = time.perf_counter()
        if prompt:
            sequence.extend(prompt).token()
        decode(sequence, steps)
        return time.perf_counter() - started


def version() -> str:
    """edgec's."""
    return edgec.__version__
