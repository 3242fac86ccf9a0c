"""Steps through a dimension, as columns of a matrix."""

from __future__ import annotations

import pytest
import torch

from edgec.models.decompositions import _slice


@pytest.mark.parametrize(("dim", "start", "step"), [(-1, 0, 2), (1, 1, 2), (-1, 3, 4)])
def test_as_torch_does(dim: int, start: int, step: int) -> None:
    x = torch.randn(2, 8, 16)
    expected = torch.ops.aten.slice.Tensor(x, dim, start, (1 << 63) - 1, step)
    assert torch.equal(_slice(x, dim, start, (1 << 63) - 1, step), expected)


@pytest.mark.parametrize(
    ("start", "end", "step"), [(0, None, 1), (2, None, 2), (-1, None, 2), (0, 8, 2), (0, None, 3)]
)
def test_what_is_left_to_iree(start: int, end: int | None, step: int) -> None:
    assert _slice(torch.randn(2, 16), 1, start, end, step) is NotImplemented
