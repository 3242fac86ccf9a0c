"""Plug point 3: a sequence's state as explicit tensors, seen by a HF model as its `Cache`.

In a discovery run there are no tensors yet: what is written is noted
(`edgec.models.plugs.discovery`).
There are three kinds of state:

- `attention`: a row for each position, written by `attend`. Where a layer sees only a window of
  them its buffers may be rings: position p is in row `p % rows`;
- `conv`: the last inputs of a causal convolution, position p in row `p % columns`;
- `recurrent`: a tensor that every token changes.

Padding tokens leave no trace in the last two. The operators that update them see to that
(`edgec.models.hooks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from edgec.errors import ModelError
from edgec.models.ops.cache_update import cache_update
from edgec.models.ops.quantized_cache_update import quantized_cache_update
from edgec.models.plugs.discovery import CausalMask, Discovery, Kept

__all__ = [
    "CACHE_SCALES",
    "BatchState",
    "Cached",
    "SequenceState",
    "active_state",
    "state_or_none",
    "using",
]

CACHE_SCALES = ".scales"
"""What follows the name of an i8 buffer in that of its scales."""


@dataclass(frozen=True)
class Cached:
    """A layer's keys or values, `[capacity, kv_heads, width]`; i8 ones with their rows' scales."""

    rows: torch.Tensor
    scales: torch.Tensor | None = None


class SequenceState(Cache):
    """The state of one sequence during one call, in the form that HF models expect.

    Args:
        start: i64 scalar tensor, the position of the call's first token.
        capacity: Rows of each buffer of the kind `attention` that is no ring.
        discovery: Filled when `buffers` is None, read otherwise.
        buffers: The tensors of `discovery.state` by name; of `attention` they are
            `[capacity, kv_heads, width]`, or a ring of fewer rows, of the other kinds as noted.
            An i8 one has another with the scales of its rows, f32 `[rows, kv_heads]`, called as
            it and `CACHE_SCALES`.
        length: i64 scalar tensor, how many of the call's tokens are true, the others being
            padding; None when the call has one token.
        multiple: Of which the number of the call's tokens is one, when it has several.
        total: i64 scalar tensor, how long the sequence is with all that is being computed, later
            chunks too; None where no length makes a difference.
    """

    def __init__(
        self,
        start: torch.Tensor,
        capacity: int,
        discovery: Discovery,
        buffers: dict[str, torch.Tensor] | None = None,
        length: torch.Tensor | None = None,
        multiple: int = 32,
        total: torch.Tensor | None = None,
    ) -> None:
        super().__init__(layers=_NoLayers())
        self.start = start
        self.capacity = capacity
        self.discovery = discovery
        self.buffers = buffers
        self.length = length
        self.multiple = multiple
        self.total = total
        self.parts: tuple[SequenceState, ...] = (self,)
        self.updated: set[str] = set()
        self._masks = iter(discovery.masks)
        self._new: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._lent: list[tuple[torch.Tensor, str]] = []
        self._convolved: list[tuple[torch.Tensor, torch.Tensor, str]] = []
        self._taken: tuple[str, int] = ("", 0)

    def write(self, name: str, value: torch.Tensor) -> None:
        """Replaces a buffer's content; once in a call, or the model does what this cannot do."""
        assert self.buffers is not None
        if name in self.updated:
            raise ModelError(f"{name} is updated twice in one call")
        self.updated.add(name)
        self.buffers[name].copy_(value)

    def check_complete(self) -> None:
        """Whether the call updated all of the state.

        Raises:
            ModelError: some of it was left as it was.
        """
        missed = sorted(set(self.discovery.state) - self.updated)
        if missed:
            raise ModelError(
                f"{missed[0]} is not updated by a call",
                "this form of state is not supported yet",
            )

    def live(self, x: torch.Tensor) -> torch.Tensor:
        """`[tokens, ...]` of the call's tokens, with zeros for padding."""
        if self.length is None:
            return x
        positions = torch.arange(x.shape[0], device=x.device).reshape(-1, *[1] * (x.dim() - 1))
        return torch.where(positions < self.length, x, 0.0)

    # Attention

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
        if self.discovery.native_attention:
            return self._whole(layer_idx, key_states, value_states)
        self._new[layer_idx] = (key_states, value_states)
        return key_states, value_states

    def _whole(
        self, layer_idx: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows of a layer's cache with the new ones in it, `[1, kv_heads, capacity, width]`."""
        rows = (self._all_rows(layer_idx, "key", key), self._all_rows(layer_idx, "value", value))
        return rows[0].transpose(0, 1)[None], rows[1].transpose(0, 1)[None]

    def update_indexer(self, indexer_key_states: torch.Tensor, layer_idx: int) -> torch.Tensor:
        """What a layer that attends to chosen positions only chooses them by.

        Args:
            indexer_key_states: `[1, tokens, width]`, of the new tokens.

        Returns:
            `[1, capacity, width]`. Rows of positions to come are hidden by the layer's mask.
        """
        if not self.discovery.native_attention:
            raise ModelError(
                f"layer {layer_idx} attends to positions that an indexer chooses",
                "this form of attention is not supported yet",
            )
        rows = self._all_rows(layer_idx, "indexer", indexer_key_states[:, None])
        return rows[:, 0][None]

    def _all_rows(self, layer_idx: int, part: str, states: torch.Tensor) -> torch.Tensor:
        """All rows of a buffer, `[capacity, heads, width]`, `[1, heads, tokens, width]` in it."""
        name = f"layers.{layer_idx}.{part}"
        _, heads, _, width = states.shape
        if self.buffers is None:
            self.discovery.keep(name, Kept("attention", (heads, width)))
            return states.new_empty(self.capacity, heads, width)
        if self.buffers[name].dtype == torch.int8:
            raise ModelError(
                f"{name}: the model's own attention code reads no int8 cache",
                "choose another --kv-dtype",
            )
        new = states[0].transpose(0, 1)
        cache = cache_update(self.buffers[name], new, self.start, False)
        self.write(name, cache)
        converted: torch.Tensor = cache.to(states.dtype)
        return converted

    def attend(
        self,
        layer_idx: int,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int,
        expanded: bool = False,
    ) -> list[tuple[Cached, Cached, torch.Tensor]] | None:
        """Writes the block's rows, and says what each sequence of the call attends to.

        Args:
            layer_idx: Whose cache.
            key: `[B, kv_heads, tokens, width]`, and `value` likewise: what the layer attends to.
            window: How many positions a token sees, or 0 for all.
            expanded: Whether that is made, token by token, of what the layer put into the cache
                (multi-head latent attention). Then it is kept itself, expanded.

        Returns:
            For each of the B sequences its whole key and value cache and its `start`; None during
            discovery.

        Raises:
            ModelError: the layer attends to something else than what it put into the cache,
                which this state cannot represent.
        """
        # A module that several layers share does not know which of them it is: its keys do.
        same = (i for i, new in self._new.items() if new[0] is key and new[1] is value)
        layer_idx = next(same, layer_idx)
        new = self._new.pop(layer_idx, None)
        own = new is not None and new[0] is key and new[1] is value
        if new is None or not (own or (expanded and new[0].shape[2] == key.shape[2])):
            raise ModelError(
                f"layer {layer_idx} attends to keys that it did not just put into the cache",
                "this form of attention is not supported yet",
            )
        names = [f"layers.{layer_idx}.{part}" for part in ("key", "value")]
        if self.buffers is None:
            for name, states in zip(names, (key, value), strict=True):
                row = (states.shape[1], states.shape[3])
                self.discovery.keep(name, Kept("attention", row, window))
            return None
        return [
            (
                part.append_rows(names[0], key[at]),
                part.append_rows(names[1], value[at]),
                part.start,
            )
            for at, part in enumerate(self.parts)
        ]

    def append_rows(self, name: str, states: torch.Tensor) -> Cached:
        """Writes `[kv_heads, tokens, width]` as rows from `start` on; the whole buffer then."""
        assert self.buffers is not None
        rows, buffer = states.transpose(0, 1), self.buffers[name]
        ring = buffer.shape[0] < self.capacity
        if buffer.dtype != torch.int8:
            cache = Cached(cache_update(buffer, rows, self.start, ring))
        else:
            scales = self.buffers[name + CACHE_SCALES]
            cache = Cached(*quantized_cache_update(buffer, scales, rows, self.start, ring))
            assert cache.scales is not None
            self.write(name + CACHE_SCALES, cache.scales)
        self.write(name, cache.rows)
        return cache

    def next_mask(self) -> CausalMask:
        """The mask that the model asked for at this point of the discovery."""
        return next(self._masks)

    # Convolution

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """f32 `[1, channels, columns]`, the last inputs; None during discovery.

        What is returned names the buffer to the functions that it is passed on to. Its content
        is right too, and removed from the graph where nobody reads it.
        """
        name = f"layers.{layer_idx}.conv{state_idx or ''}"
        if self.buffers is None or name not in self.discovery.state:
            return None
        buffer = self.buffers[name]
        columns = buffer.shape[0]
        rows = (self.start + torch.arange(columns, device=buffer.device)) % columns
        return self._lend(buffer[rows].transpose(0, 1)[None], name)

    def update_conv_state(
        self,
        conv_states: torch.Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """What a convolution over the new tokens has to see, past and new.

        The update itself is left to the convolution (`taken`).

        Args:
            conv_states: f32 `[1, channels, tokens]`, its input for the new tokens.

        Returns:
            f32 `[1, channels, columns + tokens]`.
        """
        name = f"layers.{layer_idx}.conv{state_idx or ''}"
        if self.buffers is None:
            if conv_kernel_size is None:
                raise ModelError(f"layer {layer_idx}: a convolution of unknown width")
            self.discovery.keep(name, Kept("conv", (conv_kernel_size, conv_states.shape[1])))
            return conv_states
        past = self.get_conv_state(layer_idx, state_idx)
        assert past is not None
        result = torch.cat([past, conv_states], dim=-1)
        self._convolved.append((result, conv_states, name))
        return result

    def convolved(self, columns: torch.Tensor) -> tuple[torch.Tensor, str] | None:
        """The new tokens, and the buffer's name, of something that `update_conv_state` returned."""
        return next(((new, name) for c, new, name in self._convolved if c is columns), None)

    # Recurrence

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """A recurrent buffer as it is before the call, `[1, *shape]`; None during discovery."""
        name = f"layers.{layer_idx}.recurrent{state_idx or ''}"
        self._taken = (name, 0)
        if self.buffers is None or name not in self.discovery.state:
            return None
        return self._lend(self.buffers[name][None], name)

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **_: Any
    ) -> torch.Tensor:
        """Keeps `[1, *shape]` as the state after the call's last true token."""
        name = f"layers.{layer_idx}.recurrent{state_idx or ''}"
        if self.buffers is None:
            self.discovery.keep(name, Kept("recurrent", tuple(recurrent_states.shape[1:])))
        else:
            self.write(name, recurrent_states[0])
        return recurrent_states

    def note_step_limits(self, limits: tuple[float, float]) -> None:
        """During discovery: of the scan of the state that was last asked for."""
        self.discovery.step_limits[self._taken[0]] = limits

    def take_part(self) -> torch.Tensor | None:
        """The state for a scan that is not told its own: what the layer last asked for.

        A layer with several heads of `[channels, N]` scans them one after the other, and each
        call takes the next. None during discovery.
        """
        name, part = self._taken
        if self.buffers is None or name not in self.discovery.state:
            return None
        self._taken = (name, part + 1)
        buffer = self.buffers[name]
        return buffer[part] if buffer.dim() == 3 else buffer

    def write_part(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """Like `write` for what `get_recurrent_state` returned, or one head of it, `[1, ...]`."""
        name, _ = self._taken
        if any(handle is tensor for handle, _ in self._lent):
            self.write(self.lent(tensor), value)
        else:
            self.updated.add(name)
            tensor.copy_(value[None])

    def lent(self, tensor: torch.Tensor) -> str:
        """The name of the buffer that a tensor returned by a `get` method stands for.

        Raises:
            ModelError: it stands for none.
        """
        for handle, name in self._lent:
            if handle is tensor:
                return name
        raise ModelError("a layer updates a state that it did not take from the cache")

    def _lend(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        self._lent.append((tensor, name))
        return tensor

    # What HF models ask a cache. Positions come from `start`; sizes only shape masks, which
    # CausalMask replaces.

    def has_previous_state(self, *_: Any, **__: Any) -> bool:
        return self.buffers is not None

    def is_recording_past(self, layer_idx: int) -> bool:
        return False

    def get_seq_length(self, *_: Any, **__: Any) -> Any:
        return self.start

    def get_mask_sizes(self, *_: Any, **__: Any) -> tuple[int, int]:
        return self.capacity, 0

    def get_max_cache_shape(self, *_: Any, **__: Any) -> int:
        return self.capacity


class _NoLayers(list[Any]):
    """Stands for a cache's layers, which transformers keeps as objects of many kinds."""

    def __getitem__(self, index: Any) -> Any:
        raise ModelError(
            f"layer {index} keeps a state of its own making in the cache",
            "this kind of state is not supported yet (models/plugs/state.py)",
        )


class BatchState(SequenceState):
    """The states of several sequences during a call that computes one token of each.

    Layers see a batch; what a layer keeps is split into the sequences' own buffers. State of the
    kind `attention` only: others are refused where a layer asks for them.
    """

    def __init__(self, parts: tuple[SequenceState, ...]) -> None:
        first = parts[0]
        super().__init__(first.start, first.capacity, first.discovery, _NotSplit())
        self.parts = parts

    def check_complete(self) -> None:
        for part in self.parts:
            part.check_complete()


class _NotSplit(dict[str, torch.Tensor]):
    """Stands for the buffers of a whole batch, which there are not."""

    def __missing__(self, name: str) -> torch.Tensor:
        raise ModelError(
            f"{name}: this kind of state is kept one sequence at a time", "leave out --batch"
        )


_ACTIVE: ContextVar[SequenceState | None] = ContextVar("edgec_sequence_state", default=None)


def active_state() -> SequenceState:
    """The state of the call in progress; functions that HF calls get no other way to it."""
    state = _ACTIVE.get()
    assert state is not None, "no call in progress"
    return state


def state_or_none() -> SequenceState | None:
    """The state of the call in progress, if there is one."""
    return _ACTIVE.get()


@contextmanager
def using(state: SequenceState) -> Iterator[SequenceState]:
    """Makes `state` the active one within the block."""
    token = _ACTIVE.set(state)
    try:
        yield state
    finally:
        _ACTIVE.reset(token)
