"""Sampling against transformers' own processors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from edgec.errors import DeviceError, InputError
from edgec.runtime import GenerationConfig
from edgec.runtime.sampling import Sampler, candidates, penalize_repetition

VOCAB = 3000


def logits_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)


def reference(logits: np.ndarray, **options: Any) -> np.ndarray:
    """Probabilities f32[V] that transformers would draw from."""
    steps = LogitsProcessorList([TemperatureLogitsWarper(float(options.get("temperature", 1.0)))])
    if options.get("top_k"):
        steps.append(TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        steps.append(TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        steps.append(MinPLogitsWarper(options["min_p"]))
    no_ids: Any = torch.zeros(1, 1, dtype=torch.long)
    scores = steps(no_ids, torch.from_numpy(logits.copy())[None])
    return torch.softmax(scores, -1)[0].numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"top_k": 0, "temperature": 0.7},
        {"top_k": 1},
        {"top_k": 50},
        {"top_k": VOCAB + 10},
        {"top_k": 0, "top_p": 0.01},
        {"top_k": 0, "top_p": 0.9},
        {"top_k": 0, "top_p": 0.999},
        {"top_k": 0, "min_p": 0.05},
        {"top_k": 0, "min_p": 1.0},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.1, "temperature": 1.7},
        {"top_k": 500, "top_p": 0.6, "temperature": 3.0},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_those_of_transformers(options: dict[str, Any], seed: int) -> None:
    logits = logits_of(seed)
    expected = reference(logits, **options)
    ids, probabilities = candidates(logits, GenerationConfig(do_sample=True, **options))
    assert ids.tolist() == np.flatnonzero(expected).tolist()
    np.testing.assert_allclose(probabilities, expected[ids], rtol=2e-4)


def test_top_k_keeps_all_that_tie_with_the_last() -> None:
    logits = np.array([1, 5, 3, 3, 3, 0], np.float32)
    expected = np.flatnonzero(reference(logits, top_k=2)).tolist()
    ids, _ = candidates(logits, GenerationConfig(do_sample=True, top_k=2))
    assert ids.tolist() == expected == [1, 2, 3, 4]


def test_top_p_keeps_the_first_of_those_that_tie_for_the_last_place() -> None:
    logits = np.log(np.array([0.2, 0.4, 0.2, 0.2], np.float32))
    ids, _ = candidates(logits, GenerationConfig(do_sample=True, top_k=0, top_p=0.55))
    assert ids.tolist() == [0, 1]


def test_top_p_that_is_reached_exactly() -> None:
    logits = np.zeros(4, np.float32)
    expected = np.count_nonzero(reference(logits, top_p=0.5))
    ids, _ = candidates(logits, GenerationConfig(do_sample=True, top_k=0, top_p=0.5))
    assert len(ids) == expected == 2


def test_nucleus_larger_than_the_first_portion() -> None:
    logits = np.random.default_rng(0).normal(0, 0.1, 50_000).astype(np.float32)
    for top_p in (0.05, 0.5, 0.99):
        expected = np.flatnonzero(reference(logits, top_p=top_p))
        ids, _ = candidates(logits, GenerationConfig(do_sample=True, top_k=0, top_p=top_p))
        # Sums of 50,000 float32 differ in the last digits from float64 ones.
        assert len(np.setxor1d(ids, expected)) <= 5e-4 * len(expected)


def test_repetition_penalty_is_that_of_transformers() -> None:
    logits, seen = logits_of(1), [3, 3, 7, 2999]
    expected = RepetitionPenaltyLogitsProcessor(1.3)(
        torch.tensor([seen]), torch.from_numpy(logits.copy())[None]
    )[0].numpy()
    penalize_repetition(logits, np.unique(seen), 1.3)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


def test_penalty_counts_prompt_and_generated_tokens() -> None:
    sampler = Sampler(GenerationConfig(repetition_penalty=10.0), [0], 3)
    assert sampler.needs_logits
    assert sampler.pick(np.array([3, 2, 1], np.float32)) == 1
    sampler.accept(1)
    assert sampler.pick(np.array([3, 2, 1], np.float32)) == 2


def test_end_of_text_is_suppressed_before_min_new_tokens() -> None:
    config = GenerationConfig(min_new_tokens=2, eos_token_id=(4, 9))
    sampler = Sampler(config, [1], VOCAB)
    for count in range(4):
        logits = logits_of(count)
        logits[4], logits[9] = 50, 40
        processor = MinNewTokensLengthLogitsProcessor(1, 2, [4, 9])
        expected = processor(
            torch.zeros(1, 1 + count, dtype=torch.long), torch.from_numpy(logits.copy())[None]
        )
        assert sampler.needs_logits == (count < 2)
        token = sampler.pick(logits)
        assert token == int(expected.argmax())
        assert (token == 4) == (count >= 2)
        sampler.accept(token)


def test_greedy_without_processors_needs_no_logits() -> None:
    assert not Sampler(GenerationConfig(), [1], VOCAB).needs_logits
    assert not Sampler(GenerationConfig(do_sample=True, temperature=0.0), [1], VOCAB).needs_logits
    assert Sampler(GenerationConfig(do_sample=True), [1], VOCAB).needs_logits


def draws(seed: int | None, count: int = 200) -> list[int]:
    config = GenerationConfig(do_sample=True, seed=seed)
    sampler = Sampler(config, [1], VOCAB)
    return [sampler.pick(logits_of(i)) for i in range(count)]


def test_same_seed_same_tokens() -> None:
    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


def test_frequencies_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(GenerationConfig(do_sample=True, seed=0), [1], 4)
    counts = np.bincount([sampler.pick(logits.copy()) for _ in range(20_000)], minlength=4)
    np.testing.assert_allclose(counts / 20_000, [0.5, 0.3, 0.15, 0.05], atol=0.012)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{"do_sample": True}, {"repetition_penalty": 1.1}])
def test_logits_that_are_no_numbers_are_said(bad: float, options: dict[str, Any]) -> None:
    logits = logits_of(0)
    logits[17] = bad
    with pytest.raises(DeviceError, match="not finite"):
        Sampler(GenerationConfig(**options), [1], VOCAB).pick(logits)


def test_tokens_of_zero_probability_are_never_drawn() -> None:
    logits = np.full(10, -np.inf, np.float32)
    logits[6] = 0
    sampler = Sampler(GenerationConfig(do_sample=True, top_k=0, seed=0), [1], 10)
    assert {sampler.pick(logits.copy()) for _ in range(50)} == {6}


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-300, 1e-320, 5e-324])
@pytest.mark.parametrize(
    "options", [{}, {"top_p": 0.5}, {"top_k": 0, "min_p": 0.1}, {"top_p": 0.0}]
)
def test_near_a_temperature_of_zero_the_best_token_is_drawn(
    temperature: float, options: dict[str, Any]
) -> None:
    config = GenerationConfig(do_sample=True, temperature=temperature, seed=1, **options)
    for seed in range(5):
        logits = logits_of(seed)
        ids, probabilities = candidates(logits.copy(), config)
        assert (ids.tolist(), probabilities.tolist()) == ([logits.argmax()], [1.0])


def test_near_a_repetition_penalty_of_zero_a_seen_token_is_chosen() -> None:
    logits = np.array([3.0, -2.0, 5.0, 1.0], np.float32)
    for penalty in (1e-30, 1e-45, 1e-308, 5e-324):
        found = logits.copy()
        penalize_repetition(found, np.array([1, 3]), penalty)
        assert np.isfinite(found).all() and found.argmax() == 3 and found[1] <= 0
    found = logits.copy()
    penalize_repetition(found, np.array([1, 2]), 1e308)
    assert np.isfinite(found).all() and found.argmax() == 0 and found.argmin() == 1


@given(
    logits=st.lists(
        st.one_of(st.just(-np.inf), st.floats(-(2.0**127), 2.0**127, width=32)),
        min_size=1,
        max_size=8,
    ).filter(lambda values: max(values) > -np.inf),
    temperature=st.one_of(st.floats(5e-324, 1.7e308), st.sampled_from([1e-320, 1e-45, 1e-38])),
    penalty=st.floats(5e-324, 1.7e308),
    top_k=st.integers(0, 2**64 - 1),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
)
@settings(deadline=None, max_examples=300)
def test_any_values_choose_a_token_that_may_come(
    logits: list[float], temperature: float, penalty: float, top_k: int, top_p: float, min_p: float
) -> None:
    config = GenerationConfig(
        do_sample=True, temperature=temperature, repetition_penalty=penalty, top_k=top_k,
        top_p=top_p, min_p=min_p, seed=1,
    )  # fmt: skip
    sampler = Sampler(config, [0], len(logits))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token = sampler.pick(np.array(logits, np.float32))
    assert logits[token] > -np.inf


def test_when_nothing_may_come_that_is_said() -> None:
    config = GenerationConfig(eos_token_id=(0, 1), min_new_tokens=3, do_sample=True)
    with pytest.raises(InputError, match="min_new_tokens leaves no token"):
        Sampler(config, [], 2).pick(np.zeros(2, np.float32))
