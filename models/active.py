"""How much of a model one token uses: with experts, less than all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from edgec.models.plugs.discovery import Discovery
from edgec.models.plugs.experts import expert_modules
from edgec.models.plugs.linear import WEIGHT_SCALES, NarrowEmbedding, QuantizedEmbedding

__all__ = ["Usage", "usage"]


_TABLES = (NarrowEmbedding, QuantizedEmbedding, nn.Embedding)


@dataclass(frozen=True)
class Usage:
    """What one token uses of each parameter.

    Attributes:
        experts: Experts in a layer, the most where layers differ; 0 for a dense model.
        experts_per_token: How many of them a token is routed to.
        active: Parameter name to the share that takes part in one token's result: for experts
            those it is routed to, else all.
        read: The same for what is read from memory: of an embedding table that is only looked
            up, one row.
    """

    experts: int
    experts_per_token: int
    active: Mapping[str, Fraction]
    read: Mapping[str, Fraction]


def usage(module: nn.Module, parameters: Mapping[str, nn.Parameter], discovery: Discovery) -> Usage:
    """The usage of a model whose discovery has run.

    Args:
        module: With its plug points installed.
        parameters: Name to parameter, a tied one once.
        discovery: What the model's layers asked for.
    """
    active = dict.fromkeys(parameters, Fraction(1))
    experts = per_token = 0
    for name, layer in expert_modules(module).items():
        if layer not in discovery.experts_per_token:
            continue
        count, chosen = int(layer.num_experts), discovery.experts_per_token[layer]  # type: ignore[arg-type]
        experts, per_token = max(experts, count), max(per_token, chosen)
        for leaf, parameter in layer.named_parameters(recurse=False):
            if parameter.dim() > 1 and parameter.shape[0] == count:
                active[f"{name}.{leaf}"] = Fraction(chosen, count)
    read = dict(active)
    multiplied = {
        id(m.weight)
        for m in module.modules()
        if not isinstance(m, _TABLES) and hasattr(m, "weight")
    }
    for name, submodule in module.named_modules():
        if isinstance(submodule, _TABLES) and id(submodule.weight) not in multiplied:
            for stored in (f"{name}.weight", f"{name}.weight{WEIGHT_SCALES}"):
                if stored in read:
                    read[stored] = Fraction(1, discovery.vocab_size)
    return Usage(experts, per_token, active, read)
