"""dbrx, jetmoe, longcat_flash, xmod: modules that loop over which experts the data chose.

Nothing can follow such a loop without the data, and these modules do not leave it to transformers'
`ExpertsInterface`. What they compute is the same: here it is through edgec's operators. Their
matrices keep the type and the form of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgec.models.plugs.experts import Multiply, routed

__all__ = ["REPLACED"]


def _dbrx(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """`DbrxExperts.forward`, over f32 `[1, tokens, width]`: all experts' matrices stand in one."""
    mlp = self.mlp
    up, gate, down = (
        matrices.view(-1, self.ffn_hidden_size, self.hidden_size)
        for matrices in (mlp.v1, mlp.w1, mlp.w2)
    )

    def feed_forward(rows: torch.Tensor, multiply: Multiply) -> torch.Tensor:
        hidden = mlp.activation_fn(multiply(rows, gate, False)) * multiply(rows, up, False)
        return multiply(hidden, down, True)

    rows = hidden_states.reshape(-1, self.hidden_size)
    result = routed(rows, top_k_index, top_k_weights, self.num_experts, feed_forward)
    return result.reshape(hidden_states.shape)


def _longcat(
    self: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """`LongcatFlashExperts.forward`, over f32 `[tokens, width]`: some experts do nothing."""
    count = self.num_routed_experts
    real = top_k_index < count

    def feed_forward(rows: torch.Tensor, multiply: Multiply) -> torch.Tensor:
        gate, up = multiply(rows, self.gate_up_proj[:count], False).chunk(2, dim=-1)
        return multiply(self.act_fn(gate) * up, self.down_proj, False)

    # A choice of nothing counts as one of the first expert, without weight.
    ids = torch.where(real, top_k_index, 0)
    result = routed(hidden_states, ids, torch.where(real, top_k_weights, 0.0), count, feed_forward)
    unchanged = torch.where(real, 0.0, top_k_weights).sum(dim=1, keepdim=True)
    return result + hidden_states * unchanged


def _jetmoe_route(router: Any, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """i64 and f32 `[tokens, k]`: the experts, and their weights."""
    logits, ids = router.layer(rows).float().topk(router.top_k, dim=1)
    return ids, torch.softmax(logits, dim=1)


def _jetmoe(self: Any, layer_input: torch.Tensor) -> torch.Tensor:
    """`JetMoeMoE.forward`, over f32 `[1, tokens, width]`."""

    def feed_forward(rows: torch.Tensor, multiply: Multiply) -> torch.Tensor:
        gate, up = multiply(rows, self.input_linear.weight, False).chunk(2, dim=-1)
        return multiply(self.activation(gate) * up, self.output_linear.weight, False)

    rows = layer_input.reshape(-1, self.input_size)
    ids, weights = _jetmoe_route(self.router, rows)
    result = routed(rows, ids, weights, self.router.num_experts, feed_forward)
    bias: torch.Tensor = self.bias
    return result.reshape(layer_input.shape) + bias


def _jetmoe_map(self: Any, layer_input: torch.Tensor) -> tuple[torch.Tensor, None, Any]:
    """`JetMoeMoA.map`: each choice of a token makes queries of its own, `[1, tokens, k, width]`."""
    rows = layer_input.reshape(-1, self.input_size)
    ids, weights = _jetmoe_route(self.router, rows)
    repeated = rows[:, None].expand(-1, self.top_k, -1).reshape(-1, self.input_size)
    result = _jetmoe_each(self, repeated, ids, torch.ones_like(weights), self.input_linear)
    return result.reshape(*layer_input.shape[:2], self.top_k, -1), None, (ids, weights)


def _jetmoe_reduce(self: Any, layer_input: torch.Tensor, topo_info: Any) -> torch.Tensor:
    """`JetMoeMoA.reduce`: what each choice attended to, `[1, tokens, k, width]`, in one."""
    ids, weights = topo_info
    rows = layer_input.reshape(-1, self.hidden_size)
    result = _jetmoe_each(self, rows, ids, weights, self.output_linear)
    result = result.reshape(-1, self.top_k, self.input_size).sum(dim=1)
    bias: torch.Tensor = self.bias
    return result.reshape(*layer_input.shape[:2], self.input_size) + bias


def _jetmoe_each(
    self: Any, rows: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, linear: Any
) -> torch.Tensor:
    """One expert for each row, k rows for each token."""

    def feed_forward(x: torch.Tensor, multiply: Multiply) -> torch.Tensor:
        return multiply(x, linear.weight, False)

    ids, weights = ids.reshape(-1, 1), weights.reshape(-1, 1)
    return routed(rows, ids, weights, self.num_experts, feed_forward, rows_per_token=self.top_k)


def _xmod(self: Any, lang_ids: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """`XmodOutput.lang_adapter`, over f32 `[1, tokens, width]`: all adapters, of which one counts.

    A configuration has the adapters of the languages that the model is for.
    """
    residual = hidden_states
    if self.adapter_layer_norm is not None:
        hidden_states = self.adapter_layer_norm(hidden_states)
    elif self.adapter_reuse_layer_norm:
        hidden_states = self.LayerNorm(hidden_states)
    if self.ln_before_adapter:
        residual = hidden_states
    result = torch.zeros_like(hidden_states)
    for index, adapter in enumerate(self.adapter_modules.values()):
        # In numbers: IREE does not take a constant of booleans.
        chosen = 1 - (lang_ids - index).abs().clamp(max=1)
        result = result + adapter(hidden_states) * chosen[:, None, None]
    return result + residual


REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    ("DbrxExperts", "forward"): _dbrx,
    ("JetMoeMoA", "map"): _jetmoe_map,
    ("JetMoeMoA", "reduce"): _jetmoe_reduce,
    ("JetMoeMoE", "forward"): _jetmoe,
    ("LongcatFlashExperts", "forward"): _longcat,
    ("XmodOutput", "lang_adapter"): _xmod,
}
"""Class and method to what it is during a call."""
