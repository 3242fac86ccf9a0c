"""`edgec::linear_scan`: a recurrence of independent channels over a block of tokens."""

from __future__ import annotations

import torch

__all__ = ["linear_scan"]


@torch.library.custom_op("edgec::linear_scan", mutates_args=())
def linear_scan(
    decay: torch.Tensor, update: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`h_t = decay_t * h_(t-1) + update_t`, from `h_(-1) = state`.

    A token with decay 1 and update 0 leaves the state as it was.

    Args:
        decay: f32 `[tokens, channels]`, and `update` likewise.
        state: f32 `[channels]`.

    Returns:
        f32 `[tokens, channels]`, the h of every token, and the last of them `[channels]`.
    """
    current, results = state, []
    for t in range(decay.shape[0]):
        current = decay[t] * current + update[t]
        results.append(current)
    return torch.stack(results), current.clone()


@linear_scan.register_fake
def _(
    decay: torch.Tensor, update: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    torch._check(
        decay.dim() == 2 and decay.shape[1:] == state.shape,
        lambda: f"linear_scan: {decay.shape} from state {state.shape}",
    )
    return torch.empty_like(decay), torch.empty_like(state)
