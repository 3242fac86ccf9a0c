"""Logits of one artifact on two devices, call by call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from edgec.artifact import Artifact
from edgec.runtime import Session

PROMPTS = (1, 31, 32, 33, 300)
FOLLOW_UP = 17
STEPS = 4


@dataclass(frozen=True)
class Difference:
    """`error`: the largest of any logit, over the range of the logits it is among."""

    error: float
    same_tokens: bool
    agreement: float


@pytest.fixture(scope="session")
def compare() -> Callable[..., Difference]:
    """`compare(a, b)`: prompts of every kind and steps after them, on two sessions."""

    def run(
        expected: Session, actual: Session, prompts: tuple[int, ...] = PROMPTS, steps: int = STEPS
    ) -> Difference:
        random = np.random.default_rng(0)
        vocabulary = expected.artifact.manifest.model.vocab_size
        errors, same = [], []

        def note(wanted: np.ndarray, got: np.ndarray) -> int:
            errors.append(float(np.abs(wanted - got).max() / np.ptp(wanted)))
            same.append(int(wanted.argmax()) == int(got.argmax()))
            return int(wanted.argmax())

        for count in prompts:
            expected.reset()
            actual.reset()
            for length in (count, FOLLOW_UP):
                prompt = [int(token) for token in random.integers(0, vocabulary, length)]
                token = note(expected.prefill(prompt), actual.prefill(prompt))
                for _ in range(steps):
                    token = note(expected.decode(token), actual.decode(token))
        return Difference(max(errors), all(same), sum(same) / len(same))

    return run


@pytest.fixture
def on(compile_once: Callable[..., Artifact]) -> Callable[..., Session]:
    """`on(device, name, model, **options)`: a session on an artifact compiled once."""

    def open_session(device: str, name: str, model: str, **options: object) -> Session:
        return Session(compile_once(name, model, **options), device=device)

    return open_session
