"""Rotary embeddings whose frequencies depend on the length of the sequence.

transformers marks the `forward` of every family's rotary embedding with one decorator, which looks
at the positions of a call to choose the frequencies. Here the positions are not known, those of
padding do not count, and a chunk of a prompt cannot tell how long the whole is. So the decorator is
left out, and its choice is made by the total length that the caller says.

`longrope` has frequencies for sequences within the length that the model was first trained for, and
others past it: all its rows, the earlier too. A program that can pass that length computes both and
takes one; one that cannot has the first alone. `dynamic` changes them only past the context of the
configuration, which no program reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

from edgec.errors import ModelError
from edgec.models.plugs.state import SequenceState

__all__ = ["add_long_frequencies", "installed"]

_DECORATED = dynamic_rope_update(lambda self, x, position_ids: None).__code__
_LONG = "longrope"


def add_long_frequencies(model: nn.Module) -> tuple[int, ...]:
    """Keeps the frequencies past each length at which they change, as buffers of their modules.

    Returns:
        These lengths, rising: sequences longer than one have other frequencies.
    """
    found: set[int] = set()
    for module in model.modules():
        for layer_type, switch in _switches(module).items():
            long, _ = ROPE_INIT_FUNCTIONS[_LONG](
                module.config,
                torch.device("cpu"),
                seq_len=switch + 1,
                **({"layer_type": layer_type} if layer_type else {}),
            )
            module.register_buffer(f"{_prefix(layer_type)}long_inv_freq", long, persistent=False)
            found.add(switch)
    return tuple(sorted(found))


@contextmanager
def installed(model: nn.Module, state: SequenceState) -> Iterator[None]:
    """Within the block, rotary embeddings go by the total length of the call's sequences."""
    with ExitStack() as stack:
        for module in model.modules():
            if (function := _own_forward(module)) is not None and _depends_on_length(module):
                forward = partial(_forward, module, function, _switches(module), state)
                stack.enter_context(mock.patch.object(module, "forward", forward))
        yield


def _own_forward(module: nn.Module) -> Callable[..., Any] | None:
    """What transformers' decorator was put around; None for a module without it."""
    function: Any = type(module).forward
    while function is not None and getattr(function, "__code__", None) is not _DECORATED:
        function = getattr(function, "__wrapped__", None)
    return None if function is None else function.__wrapped__


def _types(module: nn.Module) -> Mapping[str, str]:
    """Layer type to rotary type; the layer type is empty where all layers have the same."""
    kind: Any = getattr(module, "rope_type", None) or {}
    return kind if isinstance(kind, Mapping) else {"": kind}


def _depends_on_length(module: nn.Module) -> bool:
    return any(kind == _LONG or "dynamic" in kind for kind in _types(module).values())


def _switches(module: nn.Module) -> dict[str, int]:
    """Layer type to the length past which the frequencies are others."""
    if _own_forward(module) is None:
        return {}
    parameters: Any = getattr(module.config, "rope_parameters", None)
    return {
        layer_type: int(
            (parameters[layer_type] if layer_type else parameters)[
                "original_max_position_embeddings"
            ]
        )
        for layer_type, kind in _types(module).items()
        if kind == _LONG
    }


def _prefix(layer_type: str) -> str:
    return f"{layer_type}_" if layer_type else ""


def _forward(
    module: nn.Module,
    function: Callable[..., Any],
    switches: Mapping[str, int],
    state: SequenceState,
    x: torch.Tensor,
    position_ids: torch.Tensor,
    layer_type: str | None = None,
) -> Any:
    """A rotary embedding's `forward`, whose results are those for the sequences' total lengths."""
    given = {} if layer_type is None else {"layer_type": layer_type}
    switch = switches.get(layer_type or "")
    with _Longest(position_ids, 0):
        short = function(module, x, position_ids, **given)
    totals = [part.total for part in state.parts if part.total is not None]
    if switch is None or switch >= state.capacity or not totals:
        return short
    name = f"{_prefix(layer_type or '')}inv_freq"
    true = getattr(module, name)
    module._buffers[name] = getattr(module, f"{_prefix(layer_type or '')}long_inv_freq")
    try:
        with _Longest(position_ids, switch):
            long = function(module, x, position_ids, **given)
    finally:
        module._buffers[name] = true
    passed = torch.stack(totals) > switch
    if isinstance(short, torch.Tensor):
        return _choose(passed, long, short)
    return tuple(_choose(passed, *both) for both in zip(long, short, strict=True))


def _choose(passed: torch.Tensor, long: torch.Tensor, short: torch.Tensor) -> torch.Tensor:
    """Row by row of a batch `[B, ...]`; `passed` is bool `[B]`."""
    if len(passed) > 1 and len(passed) != short.shape[0]:
        raise ModelError(
            "its rotary embedding cannot be that of several sequences", "leave out --batch"
        )
    return torch.where(passed.reshape(-1, *[1] * (short.dim() - 1)), long, short)


class _Longest(TorchFunctionMode):
    """Within this, code that asks for the largest of `positions` gets `last` for an answer."""

    def __init__(self, positions: torch.Tensor, last: int) -> None:
        super().__init__()
        self._positions = positions
        self._last = last

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in (torch.max, torch.Tensor.max) and len(args) == 1 and not kwargs:
            return self._last if args[0] is self._positions else func(*args)
        return func(*args, **(kwargs or {}))
