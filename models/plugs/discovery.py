"""What a model's discovery run notes: the state that it keeps and the masks that it asks for.

A model is first run once on the meta device. From what each layer wants to keep come the state's
buffers, so that no family needs a table of its shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from edgec.errors import ModelError

__all__ = ["CausalMask", "Discovery", "Kept"]


@dataclass(frozen=True)
class CausalMask:
    """What stands in for a mask tensor: causal, within `window` tokens where that is not 0.

    Models ask for masks that no layer uses. So one that is neither is refused where it is used:
    `supported` is false.
    """

    window: int
    supported: bool = True


@dataclass(frozen=True)
class Kept:
    """One tensor that a layer keeps between calls.

    `shape` is, by `kind`: of `attention` that of a position's row, `(kv_heads, width)`; of `conv`
    `(columns, channels)`; of `recurrent` all of it; of `expert_counts` `(experts,)`. `window` is
    how many positions a token sees, its own included, or 0 for all.
    """

    kind: str
    shape: tuple[int, ...]
    window: int = 0

    def zeros(self, rows: int, device: str = "cpu") -> torch.Tensor:
        """The buffer before the first token; `rows` positions for attention."""
        shape = (rows, *self.shape) if self.kind == "attention" else self.shape
        return torch.zeros(shape, device=device)


@dataclass
class Discovery:
    """What a model asked for, in the order in which it asked.

    Attributes:
        state: What is kept, by buffer name.
        masks: What it asked for as masks.
        native_attention: The family's own code attends, to all rows of the cache under a mask, as
            it would with transformers' static cache.
        experts_per_token: How many experts a module was called for.
        count_experts: Whether the state also has how many tokens each expert got.
        step_limits: By the name of a recurrent state, the least and the largest step of its scan.
        vocab_size: Width of the logits.
    """

    state: dict[str, Kept] = field(default_factory=dict)
    masks: list[CausalMask] = field(default_factory=list)
    native_attention: bool = False
    experts_per_token: dict[nn.Module, int] = field(default_factory=dict)
    count_experts: bool = False
    step_limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    vocab_size: int = 0

    def keep(self, name: str, kept: Kept) -> None:
        """Notes a tensor of the state.

        Raises:
            ModelError: it was noted before as something else.
        """
        if self.state.setdefault(name, kept) != kept:
            raise ModelError(f"{name}: kept as {self.state[name]} and as {kept}")
