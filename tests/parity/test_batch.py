"""One decode step of several sequences gives each what it gets alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgec.runtime import Engine
from edgec.runtime.sequence import Sequence, step_together


@pytest.fixture
def qwen3(make_pair: Callable[..., Any]) -> Any:
    return make_pair("qwen3")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_rows_of_a_batch_are_sequences(
    qwen3: Any, relative_error: Callable[..., float], count: int
) -> None:
    program = qwen3.session.model.program
    prompts = [qwen3.ids(3 + 29 * n, seed=n) for n in range(count)]
    sequences = [Sequence(program) for _ in prompts]
    steps = [s.extend(p) for s, p in zip(sequences, prompts, strict=True)]
    for round_ in range(3):
        tokens = [step.token() for step in steps]
        # By turns a token that lies on the device, one that comes from the host, and one unread.
        feeds = [
            step if (at + round_) % 3 == 2 else token
            for at, (step, token) in enumerate(zip(steps, tokens, strict=True))
        ]
        steps = step_together(list(zip(sequences, feeds, strict=True)))
        for prompt, token, step in zip(prompts, tokens, steps, strict=True):
            prompt.append(token)
            expected = qwen3.eager_logits(prompt)[-1]
            assert relative_error(step.logits(), expected) < 1e-5
            assert step.token() == expected.argmax()
    for sequence in sequences:
        sequence.retire()


def test_clients_at_once_get_what_each_gets_alone(qwen3: Any) -> None:
    prompts = [qwen3.ids(1 + 37 * n % 150, seed=n) for n in range(6)]
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0, "ignore_eos": True}
    with Engine(qwen3.session.model) as engine:
        requests = [engine.submit(prompt, **options) for prompt in prompts]
        results = [request.result(60) for request in requests]
        stats = engine.stats()
    for prompt, result in zip(prompts, results, strict=True):
        assert result.tokens == tuple(qwen3.greedy(prompt, 8))
    assert stats.decode_calls < stats.decode_tokens
