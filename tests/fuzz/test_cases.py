"""The cases' own ends are told apart: otherwise a fuzzer that finds nothing says nothing."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from tests.fuzz.cases import mutate_bytes, mutate_json, run_case

from edgec.errors import InputError


def _refuse() -> None:
    raise InputError("no")


def _fail() -> None:
    raise KeyError("x")


def _fill() -> int:
    return len(b"x" * 2**31)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    ("case", "arguments", "end"),
    [
        (abs, (-1,), "returned"),
        (_refuse, (), "refused"),
        (_fail, (), "raised"),
        (_die, (), "died"),
        (time.sleep, (60,), "hung"),
    ],
)
def test_ends_are_told_apart(case, arguments, end):
    assert run_case(case, *arguments, seconds=2 if end == "hung" else 30).end == end


def test_memory_is_limited():
    outcome = run_case(_fill, memory=2**30)
    assert outcome.end == "raised" and "MemoryError" in outcome.detail


def test_mutants_differ_and_follow_from_the_seed():
    data, value = bytes(range(200)), {"a": [1, {"b": "c"}], "d": 2.5}
    mutants = [mutate_bytes(random.Random(seed), data) for seed in range(50)]
    assert mutants == [mutate_bytes(random.Random(seed), data) for seed in range(50)]
    assert sum(mutant != data for mutant in mutants) > 45
    assert sum(mutate_json(random.Random(seed), value) != value for seed in range(50)) > 45
    assert value == {"a": [1, {"b": "c"}], "d": 2.5}
