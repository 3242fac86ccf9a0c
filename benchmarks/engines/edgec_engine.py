"""edgec, on the CPU."""

from __future__ import annotations

from worker import in_steps

import edgec
from edgec.runtime import Session


class Engine:
    """An artifact in a session."""

    settings = "local-task, KV cache in the dtype of the artifact"

    def __init__(self, model: str, threads: int, context: int) -> None:
        self.session = Session(model, device="cpu", threads=threads)
        self.vocabulary = self.session.artifact.manifest.model.vocab_size

    def reset(self) -> None:
        self.session.reset()

    def prefill(self, tokens: list[int]) -> None:
        self.session.sequence.extend(tokens).token()

    def decode(self, token: int) -> None:
        self.session.sequence.step(token).token()

    def measure(self, prompt: list[int], steps: list[int], depth: int) -> float:
        return in_steps(self, prompt, steps, depth)


def version() -> str:
    """edgec's."""
    return edgec.__version__
