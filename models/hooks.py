"""Plug point 5: what modelling code leaves to kernels, where a layer keeps more than rows.

transformers marks the functions that a fast kernel may replace: the causal convolution, the scans
of Mamba, the gated delta rule. Their names and signatures are those of the kernels' libraries, the
same in every family. During a call their place is taken by the functions here, which start from
the sequence's own state, leave padding out of it, and update it in place.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from transformers.cache_utils import Cache

from edgec.models.families import early_gpt, griffin, loops, minimax, zaya
from edgec.models.ops.linear_scan import linear_scan
from edgec.models.plugs.convolution import convolve, convolve_tokens
from edgec.models.plugs.recurrence import recurrence
from edgec.models.plugs.state import active_state

__all__ = ["REPLACED", "installed", "names", "replaced"]


@contextmanager
def installed(model: nn.Module) -> Iterator[None]:
    """Puts edgec's functions in the place of those that `model`'s code calls, within the block."""
    for name, module in model.named_modules():
        if replaced(module) and not hasattr(module, "layer_idx"):
            # Most modules are told of which layer they are, as the cache wants to know.
            number = re.search(r"\.(\d+)\.", name)
            module.layer_idx = int(number[1]) if number else 0
    with ExitStack() as stack:
        for name in {type(m).__module__ for m in model.modules()}:
            namespace = vars(sys.modules[name])
            ours = {k: f for k, f in _KERNELS.items() if callable(namespace.get(k))}
            if ours and not name.startswith("torch."):
                stack.enter_context(mock.patch.dict(namespace, ours))
            for (layer, method), function in REPLACED.items():
                kind = namespace.get(layer.rpartition(".")[2])
                if isinstance(kind, type) and layer in names(kind):
                    stack.enter_context(mock.patch.object(kind, method, function))
            if "MiniMaxCache" in namespace:
                stack.enter_context(mock.patch.dict(namespace, {"MiniMaxCache": Cache}))
        yield


def replaced(module: nn.Module) -> bool:
    """Whether a method of a module is replaced during a call."""
    return not names(type(module)).isdisjoint(layer for layer, _ in REPLACED)


def names(kind: type) -> set[str]:
    """How `REPLACED` may call a class: by its name, or with the family where the name is common."""
    return {kind.__name__, f"{kind.__module__.rpartition('modeling_')[2]}.{kind.__name__}"}


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
    return convolve(hidden_states, weight, bias, activation)


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
    return convolve_tokens(hidden_states, name, weight, bias, activation)


def _selective_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    """mamba_ssm's `selective_scan_fn`: Mamba over a prompt.

    It takes no state: the one that the layer last asked for is its own.

    Args:
        hidden_states: f32 `[1, channels, tokens]`, and `dt` and `z` likewise.
        A: f32 `[channels, N]`, negative.
        B: f32 `[1, N, tokens]`, and `C` likewise.
        D: f32 `[channels]`, and `delta_bias` likewise.
    """
    state = active_state().take_part()
    before = torch.zeros_like(A) if state is None else state
    result, final = _scan(
        hidden_states[0].T, dt[0].T, A, B[0].T, C[0].T, before, D,
        None if z is None else z[0].T, delta_bias, delta_softplus,
    )  # fmt: skip
    return (result.T[None], final[None]) if return_last_state else result.T[None]


def _selective_step(
    state: torch.Tensor,
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
    **_: Any,
) -> torch.Tensor:
    """mamba_ssm's `selective_state_update`: one token, `[1, channels]`; B and C are `[1, N]`."""
    result, final = _scan(hidden_states, dt, A, B, C, state[0], D, z, dt_bias, dt_softplus)
    sequence = active_state()
    sequence.write_part(state, final)
    return result


def _scan(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    before: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    bias: torch.Tensor | None,
    softplus: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gu and Dao, "Mamba", algorithm 2: `x`, `dt`, `z` `[tokens, channels]`, B, C `[tokens, N]`."""
    step = dt if bias is None else dt + bias
    step = active_state().live(nn.functional.softplus(step) if softplus else step)[:, :, None]
    decay, update = (A * step).exp(), step * B[:, None] * x[:, :, None]
    if x.shape[0] == 1:
        states = decay * before + update
        final = states[0]
    else:
        rows, flat = decay.flatten(1), update.flatten(1)
        scanned, last = linear_scan(rows, flat, before.flatten())
        states, final = scanned.reshape(decay.shape), last.reshape(before.shape)
    result = (states * C[:, None]).sum(-1)
    result = result if D is None else result + x * D
    return result if z is None else result * nn.functional.silu(z), final


def _mamba2_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    chunk_size: int = 0,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    initial_states: torch.Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    **_: Any,
) -> Any:
    """mamba_ssm's `mamba_chunk_scan_combined`: Mamba-2 over a prompt.

    Args:
        hidden_states: f32 `[1, tokens, heads, V]`.
        dt: f32 `[1, tokens, heads]`.
        A: f32 `[heads]`, negative; `D` and `dt_bias` likewise.
        B: f32 `[1, tokens, groups, K]`, and `C` likewise.
        initial_states: What the cache gave, or None.
    """
    if active_state().buffers is None:
        active_state().note_step_limits(dt_limit)
    step = dt if dt_bias is None else dt + dt_bias
    step = nn.functional.softplus(step) if dt_softplus else step
    step = active_state().live(torch.clamp(step, dt_limit[0], dt_limit[1])[0])
    x = hidden_states[0]
    values = x * step[..., None]
    before, multiple = _before(initial_states, x, B.shape[-1]), active_state().multiple
    result, final = recurrence(C[0], B[0], values, A * step, None, before, multiple)
    if D is not None:
        result = result + x * (D[:, None] if D.dim() == 1 else D)
    if z is not None:
        result = result * nn.functional.silu(z[0])
    return (result[None], final[None]) if return_final_states else result[None]


def _mamba2_step(
    state: torch.Tensor,
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
    **_: Any,
) -> torch.Tensor:
    """mamba_ssm's `selective_state_update` with heads: one token, `[1, heads, V]`.

    It takes `dt`, `A`, `D` and `dt_bias` expanded to the shape of the state, or a part of it. It
    is not told the limits of a step, which are the same as in a prompt.
    """
    sequence = active_state()
    name = sequence.lent(state)
    result, final = _mamba2_scan(
        hidden_states[None],
        dt[None, :, :, 0],
        A[:, 0, 0],
        B[None],
        C[None],
        D=None if D is None else D[:, 0],
        z=None if z is None else z[None],
        dt_bias=None if dt_bias is None else dt_bias[:, 0],
        initial_states=state,
        dt_softplus=dt_softplus,
        dt_limit=sequence.discovery.step_limits[name],
        return_final_states=True,
    )
    sequence.write(name, final[0])
    output: torch.Tensor = result[0]
    return output


def _gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """fla's `chunk_gated_delta_rule` and `chunk_kda`, and their forms for one token.

    Args:
        query: f32 `[1, tokens, groups, K]`, and `key` likewise.
        value: f32 `[1, tokens, heads, V]`.
        g: f32 `[1, tokens, heads]`, or with a decay for each row `[1, tokens, heads, K]`.
        beta: f32 `[1, tokens, heads]`.
        initial_state: What the cache gave, or None.
    """
    q, k = query[0].float(), key[0].float()
    if use_qk_l2norm_in_kernel:
        q, k = (x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    result, final = recurrence(
        q * q.shape[-1] ** -0.5,
        k,
        value[0].float(),
        active_state().live(g[0].float()),
        active_state().live(beta[0].float()),
        _before(initial_state, value[0], k.shape[-1]),
        active_state().multiple,
    )
    return result[None], final[None] if output_final_state else None


def _before(state: torch.Tensor | None, value: torch.Tensor, width: int) -> torch.Tensor:
    """The state `[heads, K, V]` before the call, for values `[tokens, heads, V]`.

    Edgec's functions alone look into it: its layout is theirs, not that of the libraries.
    """
    if state is not None:
        return state[0]
    return torch.zeros(value.shape[1], width, value.shape[2], device=value.device)


REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    **early_gpt.REPLACED,
    **griffin.REPLACED,
    **loops.REPLACED,
    **minimax.REPLACED,
    **zaya.REPLACED,
}
"""By class and method, for the few families that leave no function to replace."""

_KERNELS: dict[str, Callable[..., Any]] = {
    "causal_conv1d_fn": _causal_conv1d_fn,
    "causal_conv1d_update": _causal_conv1d_update,
    "chunk_kimi_delta_attention": _gated_delta_rule,
    "mamba2_chunk_scan": _mamba2_scan,
    "mamba2_selective_state_update": _mamba2_step,
    "mamba_selective_scan": _selective_scan,
    "mamba_selective_state_update": _selective_step,
    "recurrent_kimi_delta_attention": _gated_delta_rule,
    "torch_chunk_gated_delta_rule": _gated_delta_rule,
    "torch_recurrent_gated_delta_rule": _gated_delta_rule,
}
"""What modelling code calls each of them."""
