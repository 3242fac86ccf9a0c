"""Speed of an artifact, by llama-bench's definitions.

    pp N @ d D   N prompt tokens at once after D others; the D are not timed
    tg N @ d D   N decode steps after D tokens
    pp N + tg M  both, one after the other, timed together

Tokens are random, tokenising and sampling are not timed, each test has a warm-up. A step is queued
before the last one's token is read, as greedy generation does it.
<https://github.com/ggml-org/llama.cpp/tree/master/tools/llama-bench>
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from edgec.errors import InputError
from edgec.runtime.sequence import Sequence
from edgec.runtime.session import Session
from edgec.runtime.step import Step

__all__ = ["BenchResult", "BenchTest", "bench", "decode"]


@dataclass(frozen=True)
class BenchTest:
    """One test: `n_prompt` tokens at once, then `n_gen` steps, all after `n_depth` tokens."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0

    @property
    def name(self) -> str:
        """The name in llama-bench's notation: `pp512`, `tg128 @ d512`, `pp512+tg128`."""
        parts = [f"pp{self.n_prompt}"] * (self.n_prompt > 0) + [f"tg{self.n_gen}"] * (
            self.n_gen > 0
        )
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")


@dataclass(frozen=True)
class BenchResult:
    """A test's repetitions. Times in nanoseconds, speeds in tokens per second."""

    test: BenchTest
    test_time: str
    samples_ns: tuple[int, ...]

    @property
    def samples_ts(self) -> tuple[float, ...]:
        tokens = self.test.n_prompt + self.test.n_gen
        return tuple(tokens / ns * 1e9 for ns in self.samples_ns)

    @property
    def avg_ts(self) -> float:
        return statistics.fmean(self.samples_ts)

    @property
    def stddev_ts(self) -> float:
        return _deviation(self.samples_ts)

    def to_dict(self) -> dict[str, object]:
        """The fields of llama-bench's JSON that are about the test."""
        return {
            **dataclasses.asdict(self.test),
            "test_time": self.test_time,
            "avg_ns": round(statistics.fmean(self.samples_ns)),
            "stddev_ns": round(_deviation([float(ns) for ns in self.samples_ns])),
            "avg_ts": self.avg_ts,
            "stddev_ts": self.stddev_ts,
            "samples_ns": list(self.samples_ns),
            "samples_ts": list(self.samples_ts),
        }


def bench(
    session: Session,
    tests: list[BenchTest],
    *,
    repetitions: int = 5,
    warmup: bool = True,
    seed: int = 0,
) -> Iterator[BenchResult]:
    """Runs the tests in order; each result comes when it is there.

    Raises:
        InputError: a test that is longer than the artifact's context, or empty.
    """
    sequence = session.sequence
    for test in tests:
        length = test.n_prompt + test.n_gen + test.n_depth
        if test.n_prompt + test.n_gen < 1 or min(test.n_prompt, test.n_gen, test.n_depth) < 0:
            raise InputError(f"bench: a test needs at least one token, got {test}")
        if length > sequence.context:
            raise InputError(
                f"bench {test.name}: {length} tokens, the artifact's context is {sequence.context}",
                "compile with a larger -c, or take shorter tests",
            )
    picks = random.Random(seed)
    for test in tests:
        session.reset()
        if test.n_depth:
            sequence.extend(_tokens(picks, sequence, test.n_depth))
        if warmup:
            _once(picks, sequence, dataclasses.replace(test, n_gen=min(test.n_gen, 1)))
        started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        samples = tuple(_once(picks, sequence, test) for _ in range(repetitions))
        yield BenchResult(test, started, samples)


def decode(sequence: Sequence, tokens: Iterable[int]) -> int | None:
    """Steps over tokens as greedy generation runs them.

    Each is queued before the greedy token of the one before is read, and all of these are read.

    Returns:
        The last greedy token; None without tokens.
    """
    last: Step | None = None
    for token in tokens:
        step = sequence.step(token)
        if last is not None:
            last.token()
        last = step
    return last.token() if last is not None else None


def _once(picks: random.Random, sequence: Sequence, test: BenchTest) -> int:
    """One repetition from the depth; nanoseconds."""
    if sequence.can_truncate(test.n_depth):
        sequence.truncate(test.n_depth)
    else:
        sequence.reset()
        if test.n_depth:
            sequence.extend(_tokens(picks, sequence, test.n_depth))
    prompt = _tokens(picks, sequence, test.n_prompt)
    steps = _tokens(picks, sequence, test.n_gen)
    start = time.perf_counter_ns()
    if prompt:
        sequence.extend(prompt).token()
    decode(sequence, steps)
    elapsed = time.perf_counter_ns() - start
    sequence.pause()
    return elapsed


def _tokens(picks: random.Random, sequence: Sequence, count: int) -> list[int]:
    return [picks.randrange(sequence.vocab_size) for _ in range(count)]


def _deviation(values: tuple[float, ...] | list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
