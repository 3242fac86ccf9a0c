"""A sample of the families; `edgec models --coverage` does all of them."""

from __future__ import annotations

import pytest

from edgec.coverage.check import check
from edgec.coverage.result import EXACT, NOT_TEXT
from edgec.coverage.sample import SAMPLE as KINDS
from edgec.coverage.sample import TARGET
from edgec.models.tiny import causal_families

pytestmark = pytest.mark.compiles

SAMPLE = ("gemma2", "qwen3_moe")


@pytest.mark.parametrize("family", SAMPLE)
def test_sample(family: str) -> None:
    result = check(family)
    assert result.status == EXACT, f"{result.stage}: {result.message}"


def test_generated_code_alone() -> None:
    """A CPU that has no kernels, and as many key heads as query heads: all of it is IREE's code."""
    result = check("llama", "cpu:x86-64")
    assert result.status == EXACT, f"{result.stage}: {result.message}"


@pytest.mark.full
@pytest.mark.parametrize("family", [f for f in causal_families() if f not in SAMPLE])
def test_every_family(family: str) -> None:
    result = check(family)
    if result.status == NOT_TEXT:
        pytest.skip(result.message)
    assert result.status == EXACT, f"{result.stage}: {result.message}"


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in ("gpt2", "lfm2_moe") else pytest.mark.full) for f in KINDS],
)
def test_other_target(family: str) -> None:
    result = check(family, TARGET)
    assert result.status == EXACT, f"{result.stage}: {result.message}"
