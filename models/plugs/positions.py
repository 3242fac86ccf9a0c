"""Ranges of positions that start where a sequence's state ends.

Modelling code makes them as `torch.arange(past, past + tokens)`. There `past` is a number, here it
is a tensor that nobody knows at export: torch would read it. The range has a known length all the
same, since its end was made by adding to its start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["PositionRanges"]

_ADD = {torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__}


class PositionRanges(TorchFunctionMode):
    """Within this, `arange` from a sequence's start takes its length from how its end was made.

    Args:
        start: i64 scalar tensor, the position of the call's first token.
        tokens: How many tokens the call has.
        capacity: Positions that the state has room for. A mask over all positions so far, which
            hides none of them, is made as long.
    """

    def __init__(self, start: torch.Tensor, tokens: Any, capacity: int) -> None:
        super().__init__()
        self._tokens = tokens
        self._capacity = capacity
        self._distance: list[tuple[torch.Tensor, Any]] = [(start, 0)]
        self._most: list[tuple[torch.Tensor, Any]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.arange:
            return self._arange(args, kwargs)
        if func is torch.tensor and isinstance(args[0], bool | int | float):
            return _scalar(args[0], **kwargs)
        if func is torch.Tensor.__getitem__:
            return args[0][self._rows(args[1])]
        if func is torch.Tensor.__itruediv__ and isinstance(args[1], int | float):
            # torch.export would make a tensor of the number, on the meta device: without a value.
            return args[0].mul_(1.0 / args[1])
        # `max(0, known - position)`, which is answered without the position or not at all; while
        # torch exports, its own `max` clamps.
        if func is torch.Tensor.gt and self._is_at_most(args[0], args[1]):
            return False
        if func is torch.clamp and self._is_at_most(args[0], kwargs.get("min")):
            return kwargs["min"]
        if func is torch.ones:
            args = tuple(self._capacity if self._from_start(a) is not None else a for a in args)
            if args and isinstance(args[0], tuple | list):
                sizes = (self._capacity if self._from_start(a) is not None else a for a in args[0])
                args = (tuple(sizes), *args[1:])
            return torch.ones(*args, **kwargs)
        result = func(*args, **kwargs)
        if func is torch.Tensor.__rsub__ and isinstance(args[1], int):
            distance = self._from_start(args[0])
            if distance is not None:
                self._most.append((result, args[1] - distance))
        if func in _ADD and len(args) == 2:
            for base, other in (args, reversed(args)):
                distance = self._from_start(base)
                if distance is not None and isinstance(other, int | torch.SymInt):
                    self._distance.append((result, distance + other))
                    break
        return result

    def _from_start(self, value: Any) -> Any:
        """How far a position is from the start of the call, if it was made from that."""
        return next((d for tensor, d in self._distance if tensor is value), None)

    def _is_at_most(self, value: Any, bound: Any) -> bool:
        """Whether a difference to a position is known to be so."""
        most = next((m for tensor, m in self._most if tensor is value), None)
        return most is not None and isinstance(bound, int) and bool(most <= bound)

    def _rows(self, index: Any) -> Any:
        """An index in which the slice of a table of positions became a range of them."""
        if isinstance(index, tuple):
            return tuple(self._rows(part) for part in index)
        if isinstance(index, list) and index and all(type(i) is int for i in index):
            # torch would make a tensor of the list, on the meta device: without values.
            return torch.stack([_scalar(i) for i in index])
        if not isinstance(index, slice) or index.step is not None:
            return index
        low, high = self._from_start(index.start), self._from_start(index.stop)
        if index.stop is None:  # to the end of what has a row for every position so far
            high = self._tokens
        if low is None or high is None:
            return index
        return torch.arange(high - low, device=index.start.device) + index.start

    def _arange(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = dict(zip(("start", "end"), args, strict=False)) if len(args) == 2 else {}
        given |= {k: v for k, v in kwargs.items() if k in ("start", "end")}
        low, high = (self._from_start(given.get(name)) for name in ("start", "end"))
        if low is None or high is None:
            return torch.arange(*args, **kwargs)
        others = {k: v for k, v in kwargs.items() if k not in given}
        first = given["start"]
        return torch.arange(high - low, **{"device": first.device, **others}) + first


def _scalar(value: bool | int | float, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
    """`torch.tensor(value)`, which on the meta device would have no value."""
    if dtype is None:
        inferred = {bool: torch.bool, int: torch.int64}
        dtype = inferred.get(type(value), torch.get_default_dtype())
    return torch.full((), value, dtype=dtype, device=kwargs.get("device"))
