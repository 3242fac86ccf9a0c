"""topk, histogram and grouped products with random shapes and routings, on each target.

An example is a compilation, so there are few; `EDGEC_EXAMPLES=50` looks further. What varies
without compiling again (values, routings, numbers of rows) varies more often.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from tests.moe.operators import Operator

from edgec.models.weights.quantize import quantize_experts
from edgec.weight_formats import WeightFormat

EXAMPLES = int(os.environ.get("EDGEC_EXAMPLES", "2"))
few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DEVICES = ["cpu", pytest.param("vulkan", marks=[pytest.mark.vulkan, pytest.mark.slow])]


def counts_of(kind: str, experts: int, rows: int, generator: torch.Generator) -> torch.Tensor:
    """Rows of each expert: at random, all on one, or none at all for most."""
    if kind == "one":
        counts = torch.zeros(experts, dtype=torch.int64)
        counts[int(torch.randint(experts, (1,), generator=generator))] = rows
        return counts
    few = 2 if kind == "few" else experts
    ids = torch.randint(min(few, experts), (rows,), generator=generator)
    return torch.bincount(ids, minlength=experts)


def offsets_of(counts: torch.Tensor) -> torch.Tensor:
    padded = (counts + 15) // 16 * 16
    return torch.cat([torch.zeros(1), padded.cumsum(0)]).to(torch.int32)


@pytest.mark.parametrize("device", DEVICES)
@seed(0)
@few
@given(n=st.integers(1, 300), data=st.data())
def test_topk(device: str, tmp_path: Path, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, min(n, 64)))
    generator = torch.Generator().manual_seed(n)
    compiled: Any = None
    for rows in (1, 31, 40):
        x = torch.randint(-n, n, (rows, n), generator=generator).to(torch.float32)
        compiled = compiled or Operator("topk", [x, k], {0: 0}, tmp_path, device)
        compiled.check([x, k])


@pytest.mark.parametrize("device", DEVICES)
@seed(0)
@few
@given(bins=st.integers(1, 128), k=st.integers(1, 8))
def test_histogram(device: str, tmp_path: Path, bins: int, k: int) -> None:
    generator = torch.Generator().manual_seed(bins)
    compiled: Any = None
    for rows, length in ((40, 33), (32, 32), (7, 1), (64, 0)):
        ids = torch.randint(bins, (rows, k), generator=generator)
        arguments = [ids, torch.tensor(length), bins]
        compiled = compiled or Operator("histogram", arguments, {0: 0}, tmp_path, device)
        compiled.check(arguments)


@pytest.mark.parametrize("device", DEVICES)
@seed(1)
@few
@given(
    experts=st.integers(1, 12),
    n=st.integers(1, 6).map(lambda i: 8 * i),
    k=st.integers(1, 6).map(lambda i: 8 * i),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    transposed=st.booleans(),
    biased=st.booleans(),
)
def test_grouped_matmul(
    device: str, tmp_path: Path, experts: int, n: int, k: int, dtype: torch.dtype,
    transposed: bool, biased: bool,
) -> None:  # fmt: skip
    if device == "vulkan" and dtype == torch.bfloat16:
        dtype = torch.float16
    generator = torch.Generator().manual_seed(n * k)
    shape = (experts, k, n) if transposed else (experts, n, k)
    weight = torch.randn(shape, generator=generator).to(dtype)
    bias = torch.randn(experts, n, generator=generator) if biased else None
    compiled: Any = None
    for kind, rows in (("random", 70), ("one", 33), ("few", 16)):
        offsets = offsets_of(counts_of(kind, experts, rows, generator))
        x = torch.randn(int(offsets[-1]), k, generator=generator)
        arguments = [x, weight, bias, offsets, None, transposed]
        compiled = compiled or Operator("grouped_matmul", arguments, {0: 0}, tmp_path, device)
        compiled.check(arguments)


@pytest.mark.parametrize("device", DEVICES)
@seed(2)
@few
@given(
    experts=st.integers(1, 6),
    n=st.integers(1, 40),
    groups=st.integers(1, 3),
    bits=st.sampled_from([8, 4]),
)
def test_quantized_grouped_matmul(
    device: str, tmp_path: Path, experts: int, n: int, groups: int, bits: int
) -> None:
    """Generated code: it keeps activations f32, so that the sums are the same."""
    generator = torch.Generator().manual_seed(n)
    weight = torch.randn(experts, n, 32 * groups, generator=generator)
    packed = quantize_experts("w", weight, experts, WeightFormat(bits, 32))
    compiled: Any = None
    for kind, rows in (("random", 40), ("one", 33)):
        counts = counts_of(kind, experts, rows, generator)
        offsets = offsets_of(counts)
        x = torch.randn(int(offsets[-1]), 32 * groups, generator=generator)
        arguments = [x, *packed, None, offsets, counts.to(torch.int32), None, n]
        compiled = compiled or Operator(
            "quantized_grouped_matmul", arguments, {0: 0}, tmp_path, device
        )
        compiled.check(arguments)
