"""`edgec::causal_conv`: a causal depthwise convolution that goes on from what it saw before."""

from __future__ import annotations

import torch

__all__ = ["causal_conv"]


@torch.library.custom_op("edgec::causal_conv", mutates_args=())
def causal_conv(
    x: torch.Tensor,
    state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    start: torch.Tensor,
    length: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each channel's weighted sum over its last `width` inputs, and the state after the call.

    The state is a ring: the input at position p is in row `p % columns`, and rows of positions
    before the first hold zeros. Padding, the tokens from `length` on, never gets into it.

    Args:
        x: f32 `[tokens, channels]`, the inputs at positions `start` and on.
        state: f32 `[columns, channels]`.
        weight: f32 `[channels, width]`, the newest input's weight last; `width <= columns`.
        bias: f32 `[channels]` or None.
        start: i64 scalar, the position of the first token.
        length: i64 scalar, how many of the tokens are true, at least one; None: all.

    Returns:
        f32 `[tokens, channels]`, and the new state, like `state`.
    """
    tokens, columns, width = x.shape[0], state.shape[0], weight.shape[1]
    first = int(start)
    past = state[[(first - width + 1 + i) % columns for i in range(width - 1)]]
    inputs = torch.cat([past, x])
    result = sum(inputs[j : j + tokens] * weight[:, j] for j in range(width))
    assert isinstance(result, torch.Tensor)
    new = state.clone()
    for i in range(tokens if length is None else int(length)):
        new[(first + i) % columns] = x[i]
    return result if bias is None else result + bias, new


@causal_conv.register_fake
def _(
    x: torch.Tensor,
    state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    start: torch.Tensor,
    length: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    torch._check(
        x.shape[1] == state.shape[1] == weight.shape[0] and 1 < weight.shape[1] <= state.shape[0],
        lambda: f"causal_conv: {x.shape} by {weight.shape}, state {state.shape}",
    )
    return torch.empty_like(x), torch.empty_like(state)
