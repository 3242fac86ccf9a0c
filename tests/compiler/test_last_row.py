"""Prefill computes some things for one row only, on graphs made by hand and a model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgec.compiler import last_row
from edgec.compiler.last_row import keep_last_row
from edgec.models.ops.attention import attention

WIDTH = 8


class Block(nn.Module):
    """A layer that keeps something of all rows, norms, a feed-forward part, and a pick."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kept, self.up, self.gate = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept = self.kept(x)
        h = x + kept.transpose(0, 1).transpose(0, 1)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5)
        turned = torch.cat([-h[..., 4:], h[..., :4]], dim=-1)
        mixed = torch.cat([nn.functional.silu(self.gate(h)) * self.up(turned), h], dim=-1)
        h = h + self.down(mixed)
        # Over tokens: here the way back ends.
        h = h + torch.softmax(h, dim=1)
        h = self.up(h).view(1, x.shape[1], 2, WIDTH // 2).flatten(2)
        return kept, self.head(h).index_select(1, (length - 1).reshape(1))


def exported(module: nn.Module, *arguments: Any) -> torch.export.ExportedProgram:
    dynamic = ({1: torch.export.Dim("p", min=2, max=64)}, *[None] * (len(arguments) - 1))
    return torch.export.export(module, arguments, dynamic_shapes=dynamic).run_decompositions({})


def rows_of(program: torch.export.ExportedProgram, name: str) -> list[int]:
    """Sizes along dimension 1 of an operator's results, 0 for all tokens."""
    return [
        size if isinstance(size := node.meta["val"].shape[1], int) else 0
        for node in program.graph_module.graph.nodes
        if name in str(node.target)
    ]


def test_only_what_leads_to_the_pick_is_narrowed() -> None:
    block = Block()
    program = exported(block, torch.randn(1, 6, WIDTH), torch.tensor(4))
    keep_last_row(program)
    # What is kept, and what the softmax over tokens wants; after that, up again and the head.
    assert sorted(rows_of(program, "aten.linear")) == [0, 0, 0, 0, 1, 1]
    x = torch.randn(1, 11, WIDTH)
    for length in (1, 7, 11):
        expected = block(x, torch.tensor(length))
        for a, b in zip(program.module()(x, torch.tensor(length)), expected, strict=True):
            torch.testing.assert_close(a, b)


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(
        self, x: torch.Tensor, start: torch.Tensor, length: torch.Tensor, cache: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = x.shape[1]
        values = self.value(x).view(size, 2, WIDTH // 2)
        q = self.query(x).view(1, size, 2, WIDTH // 2).transpose(1, 2)
        result = attention(q, cache, cache, start, None, 0.5, 5, 0.0, None, None)
        result = self.out(result.reshape(1, size, WIDTH))
        return values, result[:, (length - 1).reshape(1)]


def test_attention_has_one_query_at_its_position() -> None:
    module, cache = Attended(), torch.randn(32, 2, WIDTH // 2)
    program = exported(module, torch.randn(1, 6, WIDTH), torch.tensor(3), torch.tensor(4), cache)
    keep_last_row(program)
    assert rows_of(program, "edgec.attention") == [1]
    assert sorted(rows_of(program, "aten.linear")) == [0, 1, 1]
    x = torch.randn(1, 9, WIDTH)
    for start, length in ((0, 1), (0, 9), (4, 6), (20, 9)):
        arguments = (x, torch.tensor(start), torch.tensor(length), cache)
        for a, b in zip(program.module()(*arguments), module(*arguments), strict=True):
            torch.testing.assert_close(a, b)


class Table(nn.Module):
    def forward(self, x: torch.Tensor, table: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return x + (table * 2)[:, at.reshape(1)]


def test_rows_of_a_table_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    program = exported(Table(), torch.randn(1, 6, 4), torch.randn(1, 9, 4), torch.tensor(2))
    monkeypatch.setattr(last_row, "_Rows", None)
    before = str(program.graph_module.graph)
    keep_last_row(program)
    assert str(program.graph_module.graph) == before
