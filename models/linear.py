"""Plug point 4: linear layers and embeddings whose weights are stored in a narrower type."""

from __future__ import annotations

import torch
from torch import nn

from edgec.models.ops.linear import linear

__all__ = ["NarrowEmbedding", "NarrowLinear", "narrow_weights"]


class NarrowLinear(nn.Module):
    """`nn.Linear` over weights f32, f16 or bf16 `[N, K]`; activations stay f32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = linear(x, self.weight, self.bias)
        return result


class NarrowEmbedding(nn.Module):
    """`nn.Embedding` over a table f32, f16 or bf16 `[V, K]`; the rows come out as f32."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(ids, self.weight).to(torch.float32)


def narrow_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the linear layers and embeddings of a model on the meta device, in place.

    Subclasses are left as they are: what they add (a scale, a position offset) would be lost.
    A parameter that two modules share stays shared.
    """
    narrowed: dict[int, nn.Parameter] = {}

    def narrow(weight: torch.Tensor) -> nn.Parameter:
        if id(weight) not in narrowed:
            empty = torch.empty(weight.shape, dtype=dtype, device=weight.device)
            narrowed[id(weight)] = nn.Parameter(empty, requires_grad=False)
        return narrowed[id(weight)]

    # A table that a subclass of nn.Embedding holds keeps its type, and so does a tied lm_head.
    kept = {
        id(p)
        for m in model.modules()
        if type(m) not in (nn.Linear, nn.Embedding)
        for p in m.parameters(recurse=False)
    }
    for name, module in list(model.named_modules()):
        replacement: nn.Module
        if type(module) is nn.Linear:
            weight = module.weight if id(module.weight) in kept else narrow(module.weight)
            replacement = NarrowLinear(weight, module.bias)
        elif type(module) is nn.Embedding and id(module.weight) not in kept:
            replacement = NarrowEmbedding(narrow(module.weight))
        else:
            continue
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, replacement)
