"""Plug point 5: what modelling code leaves to kernels, where a layer keeps more than rows.

transformers marks the functions that a fast kernel may replace: the causal convolution, the scans
of Mamba, the gated delta rule. Their names and signatures are those of the kernels' libraries, the
same in every family. During a call their place is taken by the functions here, which start from
the sequence's own state, leave padding out of it, and update it in place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from transformers.activations import ACT2FN

from edgec.errors import ModelError
from edgec.models.ops.causal_conv import causal_conv
from edgec.models.state import active_state

__all__ = ["installed"]


@contextmanager
def installed(model: nn.Module) -> Iterator[None]:
    """Puts edgec's functions in the place of those that `model`'s code calls, within the block."""
    with ExitStack() as stack:
        for name in {type(m).__module__ for m in model.modules()}:
            namespace = vars(sys.modules[name])
            ours = {k: f for k, f in _KERNELS.items() if callable(namespace.get(k))}
            if ours and not name.startswith("torch."):
                stack.enter_context(mock.patch.dict(namespace, ours))
        yield


def _causal_conv1d_fn(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> torch.Tensor:
    """Over `[1, channels, tokens]`, which `update_conv_state` has put the past before."""
    state = active_state()
    if state.buffers is None:
        return hidden_states
    known = state.convolved(hidden_states)
    if known is None:
        raise ModelError("a convolution over something else than what it keeps")
    return _convolve(*known, weight, bias, activation)


def _causal_conv1d_update(
    hidden_states: torch.Tensor,
    conv_state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> torch.Tensor:
    """For one token, `[1, channels, 1]`."""
    name = active_state().lent(conv_state)
    return _convolve(hidden_states, name, weight, bias, activation)


def _convolve(
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


_KERNELS: dict[str, Callable[..., Any]] = {
    "causal_conv1d_fn": _causal_conv1d_fn,
    "causal_conv1d_update": _causal_conv1d_update,
}
"""What modelling code calls each of them."""
