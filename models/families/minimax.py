"""minimax: its lightning attention keeps a state of its own making, and loops over blocks.

What it computes is Mamba-2's recurrence with a decay that each head keeps (Qin et al., "Lightning
Attention-2"). transformers has no function there that a kernel could replace, and takes no cache
but its own, so that the layer and the cache's class are replaced during a call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgec.models.plugs.recurrence import recurrence
from edgec.models.plugs.state import active_state

__all__ = ["REPLACED"]


def _lightning_attention(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: Any = None,
    attention_mask: Any = None,
    past_key_values: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`MiniMaxLightningAttention.forward`, over f32 `[1, tokens, width]`."""
    state = active_state()
    tokens, heads, width = hidden_states.shape[1], self.num_attention_heads, self.head_dim
    projected = self.act_fn(self.qkv_proj(hidden_states))[0].reshape(tokens, heads, 3 * width)
    query, key, value = projected.split(width, dim=2)
    decay = -self.slope_rate.reshape(1, heads).expand(tokens, heads)
    before = state.get_recurrent_state(self.layer_idx)
    if before is None:
        before = torch.zeros(1, heads, width, width, device=value.device)
    result, new = recurrence(
        query, state.live(key), value, state.live(decay), None, before[0], state.multiple
    )
    state.update_recurrent_state(new[None], self.layer_idx)
    result = self.norm(result.reshape(1, tokens, heads * width))
    result = nn.functional.sigmoid(self.output_gate(hidden_states)) * result
    return self.out_proj(result), None


REPLACED = {("MiniMaxLightningAttention", "forward"): _lightning_attention}
"""Class and method to what it is during a call."""
