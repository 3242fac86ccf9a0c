"""Operators of convolutions and recurrences, compiled, against eager: any length and position."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.passes.test_lowerings import _compile, check

from edgec.models.plugs.recurrence import recurrence

Programs = Callable[..., Path]
EXAMPLES = settings(max_examples=12, deadline=None)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """`program(op, key, arguments, dynamic)`: compiled once for each key."""
    made: dict[tuple[str, Any], Path] = {}

    def make(op: str, key: Any, arguments: list[Any], dynamic: dict[int, int]) -> Path:
        if (op, key) not in made:
            made[op, key] = _compile(op, arguments, dynamic, tmp_path_factory.mktemp(op))
        return made[op, key]

    return make


def _conv(tokens: int, start: int, length: int | None, biased: bool, seed: int) -> list[Any]:
    torch.manual_seed(seed)
    return [
        torch.randn(tokens, 40),
        torch.randn(4, 40),
        torch.randn(40, 4),
        torch.randn(40) if biased else None,
        torch.tensor(start),
        None if length is None else torch.tensor(length),
    ]


@EXAMPLES
@given(blocks=st.integers(2, 4), start=st.integers(0, 300), data=st.data())
def test_causal_conv_of_a_block(
    program: Programs, blocks: int, start: int, data: st.DataObject
) -> None:
    tokens = 32 * blocks
    length = data.draw(st.integers(1, tokens))
    path = program("causal_conv", "block", _conv(64, 0, 64, True, 0), {0: 0})
    check(path, "causal_conv", _conv(tokens, start, length, True, start))


@EXAMPLES
@given(start=st.integers(0, 300))
def test_causal_conv_of_a_token(program: Programs, start: int) -> None:
    path = program("causal_conv", "token", _conv(1, 0, None, False, 0), {})
    check(path, "causal_conv", _conv(1, start, None, False, start))


@EXAMPLES
@given(tokens=st.integers(2, 200))
def test_linear_scan(program: Programs, tokens: int) -> None:
    def arguments(tokens: int) -> list[Any]:
        torch.manual_seed(tokens)
        return [torch.rand(tokens, 230), torch.randn(tokens, 230), torch.randn(230)]

    path = program("linear_scan", 0, arguments(7), {0: 0, 1: 0})
    check(path, "linear_scan", arguments(tokens))


@pytest.mark.parametrize("delta", [False, True])
def test_chunk_scan(program: Programs, delta: bool) -> None:
    def arguments(chunks: int) -> list[Any]:
        torch.manual_seed(chunks)
        rows, values = (chunks, 4, 32, 16), (chunks, 4, 32, 24)
        query, key, erase = (torch.randn(rows) * 0.2 for _ in range(3))
        attention, decay = torch.randn(chunks, 4, 32, 32) * 0.2, torch.rand(chunks, 4, 16)
        state = torch.randn(4, 16, 24)
        return [query, key, torch.randn(values), erase if delta else None, attention, decay, state]

    dynamic = dict.fromkeys((0, 1, 2, 3, 4, 5) if delta else (0, 1, 2, 4, 5), 0)
    path = program("chunk_scan", delta, arguments(3), dynamic)
    for chunks in (1, 2, 7):
        check(path, "chunk_scan", arguments(chunks))


@settings(max_examples=30, deadline=None)
@given(
    blocks=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    rows=st.booleans(),
    delta=st.booleans(),
    strength=st.sampled_from([0.01, 1.0, 20.0]),
)
def test_recurrence_is_its_definition(
    blocks: int, groups: int, rows: bool, delta: bool, strength: float
) -> None:
    """In chunks as token by token; keys that repeat, and decays that underflow."""
    torch.manual_seed(blocks)
    tokens, heads, k, v = 32 * blocks, 4, 8, 12
    query, key = (_unit(tokens, groups, k) for _ in range(2))
    key[3:20] = key[3]
    value, beta = torch.randn(tokens, heads, v), torch.rand(tokens, heads)
    decay = -torch.rand((tokens, heads, k) if rows else (tokens, heads)) * strength
    state = torch.randn(heads, k, v)
    rate = beta if delta else None
    actual, last = recurrence(query, key, value, decay, rate, state, 32)
    q, ks = (x.repeat_interleave(heads // groups, dim=1) for x in (query, key))
    for t in range(tokens):
        kept = decay[t].exp() if rows else decay[t].exp()[:, None]
        state = kept[..., None] * state
        u = value[t]
        if delta:
            u = beta[t][:, None] * (u - torch.einsum("hkv,hk->hv", state, ks[t]))
        state = state + ks[t][..., None] * u[:, None]
        wanted = torch.einsum("hkv,hk->hv", state, q[t])
        assert torch.allclose(actual[t], wanted, atol=2e-5)
    assert torch.allclose(last, state, atol=2e-5)


def _unit(*shape: int) -> torch.Tensor:
    """Random vectors of length one."""
    return torch.nn.functional.normalize(torch.randn(shape), dim=-1)
