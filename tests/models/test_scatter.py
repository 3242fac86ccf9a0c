"""`aten.scatter.src` as comparisons."""

from __future__ import annotations

import pytest
import torch

from edgec.models.decompositions import _scatter


@pytest.mark.parametrize(("dim", "count"), [(1, 1), (-1, 3), (0, 2)])
def test_as_torch_does(dim: int, count: int) -> None:
    torch.manual_seed(0)
    x = torch.full((6, 6), float("-inf"))
    places = torch.rand(6, 6).argsort(dim).narrow(dim, 0, count)
    values = torch.randn(places.shape)
    assert torch.equal(_scatter(x, dim, places, values), x.scatter(dim, places, values))


def test_what_is_left_to_iree() -> None:
    x = torch.zeros(4, 64)
    for shape in ((3, 2), (4, 64)):
        index = torch.zeros(shape, dtype=torch.int64)
        assert _scatter(x, 1, index, torch.ones(shape)) is NotImplemented
