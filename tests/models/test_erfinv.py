"""The inverse of erf as polynomials, against torch's own."""

from __future__ import annotations

import torch

from edgec.models.decompositions import _erfinv


def test_it_is_that_of_torch() -> None:
    inside = torch.linspace(-0.999999, 0.999999, 10001)
    close = torch.tensor([0.0, 0.9, 0.96, 0.9933, 1 - 2**-23])
    x = torch.cat((inside, close, -close))
    assert torch.allclose(_erfinv(x), torch.erfinv(x), rtol=2e-6, atol=1e-9)
