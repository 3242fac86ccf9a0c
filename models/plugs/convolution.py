"""A causal convolution over what `SequenceState` keeps for it."""

from __future__ import annotations

import torch
from transformers.activations import ACT2FN

from edgec.errors import ModelError
from edgec.models.ops.causal_conv import causal_conv
from edgec.models.plugs.state import active_state

__all__ = ["convolve", "convolve_tokens", "earlier"]


def convolve(
    columns: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None = None,
) -> torch.Tensor:
    """Over what `update_conv_state` returned: the new tokens' results, `[1, channels, tokens]`.

    Args:
        columns: `[1, channels, past and new]`.
        weight: f32 `[channels, columns]`.
        bias: f32 `[channels]` or None.
        activation: transformers' name of a function, or None.

    Raises:
        ModelError: it is something else.
    """
    known = active_state().convolved(columns)
    if known is None:
        raise ModelError("a convolution over something else than what it keeps")
    return convolve_tokens(*known, weight, bias, activation)


def convolve_tokens(
    new: torch.Tensor,
    name: str,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
) -> torch.Tensor:
    """Convolves `[1, channels, tokens]` after what the buffer `name` holds, and updates that."""
    state = active_state()
    assert state.buffers is not None
    x, buffer = new[0].transpose(0, 1), state.buffers[name]
    result: torch.Tensor
    result, updated = causal_conv(x, buffer, weight, bias, state.start, state.length)
    state.write(name, updated)
    if activation is not None:
        result = ACT2FN[activation](result)
    return result.transpose(0, 1).unsqueeze(0)


def earlier(x: torch.Tensor, layer_idx: int, state_idx: int, steps: int) -> list[torch.Tensor]:
    """The rows of the token before, of the one before that, and so on: zeros before the first.

    Args:
        x: f32 `[tokens, channels]`, of the call's tokens.
        layer_idx: Whose state, and `state_idx` which of it.
        steps: How many tokens to look back.

    Returns:
        `steps` times f32 `[tokens, channels]`.
    """
    state = active_state()
    columns = state.update_conv_state(x.T[None], layer_idx, state_idx, conv_kernel_size=steps + 1)
    known = state.convolved(columns)
    if state.buffers is None or known is None:
        return [x] * steps
    name, column = known[1], torch.arange(steps + 1, device=x.device)
    rows, updated = [], state.buffers[name]
    for back in range(1, steps + 1):
        only = (column == steps - back).to(x.dtype).expand(x.shape[1], -1)
        shifted, updated = causal_conv(
            x, state.buffers[name], only, None, state.start, state.length
        )
        rows.append(shifted)
    state.write(name, updated)
    return rows
