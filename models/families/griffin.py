"""recurrent_gemma: its recurrent block keeps what it remembers in the module, not in the cache.

What it computes is Griffin's (De et al., "Griffin", section 2.4): a causal convolution, and a
recurrence of independent channels with a decay that depends on the input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgec.models.ops.linear_scan import linear_scan
from edgec.models.plugs.convolution import convolve
from edgec.models.plugs.state import active_state

__all__ = ["REPLACED"]


def _recurrent_block(
    self: Any, input_states: torch.Tensor, position_ids: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """`RecurrentGemmaRecurrentBlock.forward`, over f32 `[1, tokens, width]`."""
    x = self.linear_x(input_states).transpose(1, 2)
    state = active_state()
    columns = state.update_conv_state(x, self.layer_idx, conv_kernel_size=self.conv1d_width)
    if state.buffers is not None:
        x = convolve(columns, self.conv_1d.weight.squeeze(1), self.conv_1d.bias)
    result = _recurrence(self.rg_lru, x.transpose(1, 2), position_ids, self.layer_idx)
    return self.linear_out(result * self.act_fn(self.linear_y(input_states))), None


def _recurrence(
    unit: Any, x: torch.Tensor, position_ids: torch.Tensor, layer_idx: int
) -> torch.Tensor:
    """The real-gated linear recurrent unit, over f32 `[1, tokens, channels]`."""
    heads = x[0].reshape(-1, unit.num_attention_heads, unit.block_width).transpose(0, 1)

    def gate(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """f32 `[tokens, channels]`; each head has a matrix."""
        return torch.sigmoid((heads @ weight + bias[:, None]).transpose(0, 1).flatten(1))

    input_gate = gate(unit.input_gate_weight, unit.input_gate_bias)
    recurrent_gate = gate(unit.recurrent_gate_weight, unit.recurrent_gate_bias)
    log_decay = -8.0 * recurrent_gate * nn.functional.softplus(unit.recurrent_param)
    # What is remembered keeps its variance. Before the first token there is nothing to remember.
    first = position_ids[0][:, None] == 0
    update = x[0] * input_gate * torch.where(first, 1.0, torch.sqrt(1 - torch.exp(2 * log_decay)))

    state = active_state()
    decay, update = state.live(log_decay).exp(), state.live(update)
    before = state.get_recurrent_state(layer_idx)
    known = torch.zeros_like(unit.recurrent_param) if before is None else before[0]
    if update.shape[0] == 1:
        result = decay * known + update
        last = result[0]
    else:
        result, last = linear_scan(decay, update, known)
    state.update_recurrent_state(last[None], layer_idx)
    return result[None]


REPLACED = {("RecurrentGemmaRecurrentBlock", "forward"): _recurrent_block}
"""Class and method to what it is during a call."""
