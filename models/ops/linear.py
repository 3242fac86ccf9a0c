"""`edgec::linear`: a linear layer whose weights may be stored narrower than its activations."""

from __future__ import annotations

import torch

__all__ = ["linear"]


@torch.library.custom_op("edgec::linear", mutates_args=())
def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`x @ weight.T + bias`, products and sums in the type of `x`.

    Args:
        x: Activations, f32 `[..., K]`.
        weight: f32, f16 or bf16 `[N, K]`.
        bias: Like `x`, `[N]`, or None.

    Returns:
        Like `x`, `[..., N]`.
    """
    return torch.nn.functional.linear(x, weight.to(x.dtype), bias)


@linear.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    torch._check(x.shape[-1] == weight.shape[1], lambda: f"linear: {x.shape} by {weight.shape}")
    return x.new_empty(*x.shape[:-1], weight.shape[0])
