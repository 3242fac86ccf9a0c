"""zaya: its queries and keys go through two convolutions, and values look one token back.

"Compressed Convolutional Attention" (arXiv:2510.04476). The layer cuts what it keeps out of its
padded inputs itself, where no other function could leave padding out.
"""

from __future__ import annotations

from typing import Any

import torch

from edgec.models.plugs.convolution import convolve, earlier
from edgec.models.plugs.state import active_state

__all__ = ["REPLACED"]


def _project(
    self: Any, hidden_states: torch.Tensor, past_key_values: Any, conv_mask: Any = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`ZayaCCAProjection.forward`: f32 `[1, tokens, width]` to queries, keys and values.

    Each is f32 `[1, tokens, heads, head_dim]`.
    """
    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    projected = self.q_proj(hidden_states), self.k_proj(hidden_states)
    keys = projected[1].view(shape).repeat_interleave(self.num_key_value_groups, dim=2)
    query_residual = (projected[0].view(shape) + keys) * 0.5
    grouped = query_residual.view(*shape[:2], -1, self.num_key_value_groups, self.head_dim)
    key_residual = grouped.mean(dim=-2)

    mixed = _grouped(self, _depthwise(self, torch.cat(projected, dim=-1)[0]))
    width = projected[0].shape[-1]
    query = mixed[None, :, :width].view(shape) + query_residual
    key = mixed[None, :, width:].view(shape) + key_residual

    before = earlier(hidden_states[0], self.layer_idx, 2, 1)[0]
    values = self.v_proj_current(hidden_states), self.v_proj_delayed(before[None])
    return query, key, torch.cat(values, dim=-1).view(shape)


def _depthwise(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The first convolution without its bias, `[tokens, channels]`: 0 of inputs that are 0."""
    state, width = active_state(), self.depthwise_kernel_size
    columns = state.update_conv_state(x.T[None], self.layer_idx, 0, conv_kernel_size=width)
    if state.buffers is None:
        return x
    return convolve(columns, self.conv_qk_depthwise.weight.squeeze(1), None)[0].T


def _grouped(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The second: each head's channels of some tokens, by a matrix for each of these tokens."""
    conv, steps = self.conv_qk_grouped, self.grouped_kernel_size - 1
    result = conv.bias
    for back, rows in enumerate([x, *earlier(x, self.layer_idx, 1, steps)]):
        heads = (rows + self.conv_qk_depthwise.bias).view(-1, conv.groups, self.head_dim)
        matrices = conv.weight[:, :, steps - back].view(conv.groups, -1, self.head_dim)
        result = result + torch.einsum("tgi,goi->tgo", heads, matrices).flatten(1)
    mixed: torch.Tensor = result
    return mixed


REPLACED = {("ZayaCCAProjection", "forward"): _project}
"""Class and method to what it is during a call."""
