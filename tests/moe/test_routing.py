"""Where rows go: every true choice to its own row of its expert's group, padding nowhere."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.moe.operators import Operator

from edgec.models.ops.grouped_matmul import ROW_BLOCK
from edgec.models.plugs.experts import _route


def choices(tokens: int, experts: int, k: int, seed: int, skew: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(tokens, experts, generator=generator)
    scores[:, :k] += skew
    return scores.topk(k, dim=-1).indices


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_rows_are_sorted_by_expert(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 70))
    experts = data.draw(st.integers(1, 20))
    k = data.draw(st.integers(1, experts))
    length = data.draw(st.integers(1, tokens))
    ids = choices(
        tokens, experts, k, data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0, 9]))
    )
    routing = _route(ids, torch.tensor(length), experts)
    counts = torch.bincount(ids[:length].reshape(-1), minlength=experts)
    sizes = routing.offsets[1:] - routing.offsets[:-1]
    assert torch.equal(sizes, -(-counts // ROW_BLOCK) * ROW_BLOCK)
    assert int(routing.offsets[-1]) <= routing.sources.shape[0]
    true = routing.slots[:length]
    assert true.unique().numel() == true.numel()
    assert torch.equal(routing.sources[true], torch.arange(length)[:, None].expand_as(true))
    owner = torch.searchsorted(routing.offsets[1:].contiguous(), true.contiguous(), right=True)
    assert torch.equal(owner, ids[:length])
    assert routing.live.sum() == length and not routing.slots[length:].any()


def test_padding_costs_no_rows() -> None:
    """33 tokens padded to 64 have the products of 33 tokens."""
    ids = choices(64, 8, 2, 0, 0)
    padded = _route(ids, torch.tensor(33), 8)
    exact = _route(ids[:33], torch.tensor(33), 8)
    assert torch.equal(padded.offsets, exact.offsets)
    assert torch.equal(padded.slots[:33], exact.slots)


def test_a_compiled_program_counts_true_tokens_only(tmp_path: Path) -> None:
    """33 tokens padded to 64 against 64: as many routed rows for a true token, tiles to match."""
    experts, k = 8, 2
    ids = choices(64, experts, k, 0, 0)
    compiled = Operator("histogram", [ids, torch.tensor(64), experts], {}, tmp_path, "cpu")
    for length in (33, 64):
        (counts,) = compiled.check([ids, torch.tensor(length), experts])
        assert counts.sum() == length * k
        tiles = -(-counts // ROW_BLOCK)
        # The offsets, by which the products go, end where the tiles of true tokens do.
        routing = _route(ids, torch.tensor(length), experts)
        assert int(routing.offsets[-1]) == tiles.sum() * ROW_BLOCK
        assert tiles.sum() <= length * k // ROW_BLOCK + experts
