"""Plug point 3: a sequence's state as explicit tensors, seen by a HF model as its `Cache`.

A model is first run once on the meta device with a `Discovery`, which notes what each layer
wants to keep. From that come the state's buffers, so that no family needs a table of its shapes.
The same run notes every mask that the model asks for (see `edgec.models.attention`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from edgec.errors import ModelError
from edgec.models.ops.cache_update import cache_update

__all__ = ["AttentionLayer", "CausalMask", "Discovery", "SequenceState", "active_state", "using"]


@dataclass(frozen=True)
class CausalMask:
    """What stands in for a mask tensor: causal, within `window` tokens where that is not 0.

    Models ask for masks that no layer uses. So one that is neither is refused where it is used:
    `supported` is false.
    """

    window: int
    supported: bool = True


@dataclass(frozen=True)
class AttentionLayer:
    """What an attention layer keeps for each token: `[kv_heads, width]` keys and values."""

    kv_heads: int
    key_width: int
    value_width: int


@dataclass
class Discovery:
    """What a model asked for, in the order in which it asked."""

    layers: dict[int, AttentionLayer] = field(default_factory=dict)
    masks: list[CausalMask] = field(default_factory=list)
    experts_per_token: dict[nn.Module, int] = field(default_factory=dict)
    vocab_size: int = 0


class SequenceState(Cache):
    """The state of one sequence during one call, in the form that HF models expect.

    Args:
        start: i64 scalar tensor, the position of the call's first token.
        capacity: Rows of each attention buffer.
        discovery: Filled when `buffers` is None, read otherwise.
        buffers: For each layer its key and value buffer, `[capacity, kv_heads, width]`.
        length: i64 scalar tensor, how many of the call's tokens are true, the others being
            padding; None when the call has one token.
    """

    def __init__(
        self,
        start: torch.Tensor,
        capacity: int,
        discovery: Discovery,
        buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None,
        length: torch.Tensor | None = None,
    ) -> None:
        super().__init__(layers=[])
        self.start = start
        self.capacity = capacity
        self.discovery = discovery
        self.buffers = buffers
        self.length = length
        self._masks = iter(discovery.masks)
        self._new: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Notes a layer's new keys and values; `attend` writes them, so that layout is its own.

        Args:
            key_states: `[1, kv_heads, tokens, width]`, and `value_states` likewise.
        """
        self._new[layer_idx] = (key_states, value_states)
        return key_states, value_states

    def attend(
        self, layer_idx: int, key: torch.Tensor, value: torch.Tensor, expanded: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Writes the block's rows and returns the layer's whole cache; None during discovery.

        Args:
            layer_idx: Whose cache.
            key: `[1, kv_heads, tokens, width]`, and `value` likewise: what the layer attends to.
            expanded: Whether that is made, token by token, of what the layer put into the cache
                (multi-head latent attention). Then it is kept itself, expanded.

        Raises:
            ModelError: the layer attends to something else than what it put into the cache,
                which this state cannot represent.
        """
        new = self._new.pop(layer_idx, None)
        own = new is not None and new[0] is key and new[1] is value
        if new is None or not (own or (expanded and new[0].shape[2] == key.shape[2])):
            raise ModelError(
                f"layer {layer_idx} attends to keys that it did not just put into the cache",
                "this form of attention is not supported yet",
            )
        if self.buffers is None:
            self.discovery.layers[layer_idx] = AttentionLayer(
                key.shape[1], key.shape[3], value.shape[3]
            )
            return None
        updated = []
        for buffer, states in zip(self.buffers[layer_idx], (key, value), strict=True):
            cache = cache_update(buffer, states[0].transpose(0, 1), self.start)
            buffer.copy_(cache)
            updated.append(cache)
        return updated[0], updated[1]

    def next_mask(self) -> CausalMask:
        """The mask that the model asked for at this point of the discovery."""
        return next(self._masks)

    # What HF models ask a cache. Positions come from `start`; sizes only shape masks, which
    # CausalMask replaces.

    def get_seq_length(self, *_: Any, **__: Any) -> Any:
        return self.start

    def get_mask_sizes(self, *_: Any, **__: Any) -> tuple[int, int]:
        return self.capacity, 0

    def get_max_cache_shape(self, *_: Any, **__: Any) -> int:
        return self.capacity


_ACTIVE: ContextVar[SequenceState] = ContextVar("edgec_sequence_state")


def active_state() -> SequenceState:
    """The state of the call in progress; attention functions get no other way to it."""
    return _ACTIVE.get()


@contextmanager
def using(state: SequenceState) -> Iterator[SequenceState]:
    """Makes `state` the active one within the block."""
    token = _ACTIVE.set(state)
    try:
        yield state
    finally:
        _ACTIVE.reset(token)
