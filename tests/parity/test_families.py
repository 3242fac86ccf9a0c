"""Every family: logits and greedy tokens of every phase against eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgec.runtime import SequencePhase

TOLERANCE = 1e-4


@pytest.mark.parametrize("length", [1, 31, 32, 33, 500])
def test_prefill_then_decode(pair: Any, length: int, relative_error: Callable[..., float]) -> None:
    """Prompts around the multiple, and one of several chunks; then decoding after each."""
    ids = pair.ids(length + 8)
    expected = pair.eager_logits(ids)
    pair.session.reset()
    assert relative_error(pair.session.prefill(ids[:length]), expected[length - 1]) <= TOLERANCE
    for position in range(length, length + 8):
        logits = pair.session.decode(ids[position])
        assert relative_error(logits, expected[position]) <= TOLERANCE


def test_edgec_attends(pair: Any) -> None:
    """The model's own code, where edgec's operator does not fit, is right and slower."""
    assert pair.artifact.manifest.model.attention == "operator"


@pytest.mark.parametrize("length", [1, 33, 500])
def test_greedy_tokens(pair: Any, length: int) -> None:
    ids = pair.ids(length, seed=1)
    pair.session.reset()
    result = pair.session.generate(ids, max_new_tokens=64, temperature=0, ignore_eos=True)
    assert list(result.tokens) == pair.greedy(ids, 64)


@pytest.mark.parametrize(("first", "second"), [(7, 30), (33, 64), (100, 31), (130, 200)])
def test_follow_up_prefill(
    pair: Any, first: int, second: int, relative_error: Callable[..., float]
) -> None:
    """New tokens on an existing state, at any position, and decoding before and after."""
    ids = pair.ids(first + second + 5, seed=2)
    expected = pair.eager_logits(ids)
    pair.session.reset()
    pair.session.prefill(ids[:first])
    for position in range(first, first + 3):
        pair.session.decode(ids[position])
    pair.session.sequence.pause()
    logits = pair.session.prefill(ids[first + 3 : first + second])
    assert pair.session.phase is SequencePhase.FOLLOW_UP_PREFILL
    assert relative_error(logits, expected[first + second - 1]) <= TOLERANCE
    for position in range(first + second, first + second + 5):
        logits = pair.session.decode(ids[position])
        assert relative_error(logits, expected[position]) <= TOLERANCE


def test_second_generate_continues_the_first(pair: Any) -> None:
    ids = pair.ids(45, seed=3)
    pair.session.reset()
    first = pair.session.generate(ids, max_new_tokens=10, temperature=0, ignore_eos=True)
    longer = [*ids, *first.tokens, *pair.ids(20, seed=4)]
    second = pair.session.generate(longer, max_new_tokens=10, temperature=0, ignore_eos=True)
    assert second.usage.cached_tokens >= 32  # of 54, in whole blocks
    assert list(second.tokens) == pair.greedy(longer, 10)
