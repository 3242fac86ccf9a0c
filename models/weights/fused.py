"""Parameters that a checkpoint stores in parts: experts one by one, gate and up apart.

Which parts make which parameter, and how, are transformers' own conversion rules. They are run
here for one parameter at a time, when it is read, so that no more than one is in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgec.errors import ModelError
from edgec.models.weights.source import TensorInfo, torch_dtype

if TYPE_CHECKING:
    import torch

__all__ = ["Conversions", "Fusion"]


@dataclass(frozen=True)
class Fusion:
    """Parameters made together from `parts`: source pattern of the rule to the stored names."""

    name: str
    parts: dict[str, list[str]]
    rule: Any
    config: Any

    @property
    def stored(self) -> list[str]:
        """The names of all parts."""
        return [name for names in self.parts.values() for name in names]

    @property
    def origin(self) -> str:
        """The parts, for a message."""
        return f"{self.name} (made of {len(self.stored)} tensors from {self.stored[0]} on)"

    def one(self, expert: int) -> Fusion:
        """The fusion of one expert's parts alone: they make that expert's slice, `[1, ...]`."""
        parts = {pattern: [names[expert]] for pattern, names in self.parts.items()}
        return Fusion(self.name, parts, self.rule, self.config)

    def convert(self, read: Callable[[str], torch.Tensor]) -> dict[str, torch.Tensor]:
        """Reads the parts and makes the parameters, by module name."""
        rule = copy.deepcopy(self.rule)
        for pattern, names in self.parts.items():
            rule.collected_tensors[pattern] = [lambda name=name: read(name) for name in names]
        made: dict[str, torch.Tensor] = rule.convert(self.name, config=self.config)
        # Some rules give a list of one.
        return {k: v[0] if isinstance(v, list) else v for k, v in made.items()}

    def shapes(self, stored: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
        """What `convert` makes of tensors with these shapes, without reading any.

        Raises:
            ModelError: the parts do not fit each other.
        """
        import torch

        def empty(name: str) -> torch.Tensor:
            info = stored[name]
            dtype = torch_dtype(info.dtype)
            if dtype.is_floating_point and dtype.itemsize == 1:
                dtype = torch.bfloat16  # as they are read: torch joins none of 8 bits
            return torch.empty(info.shape, dtype=dtype, device="meta")

        try:
            made = self.convert(empty)
        except (RuntimeError, ValueError, IndexError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(
                f"weights: {self.origin} do not fit each other: {reason}",
                "an expert's tensors are missing or of another shape: download or save them again",
            ) from None
        dtype = stored[self.stored[0]].dtype
        return {name: TensorInfo(tuple(t.shape), dtype) for name, t in made.items()}


@dataclass(frozen=True)
class Conversions:
    """The conversion rules of a model. `rename` gives a stored name's target and rule pattern."""

    rename: Callable[[str], tuple[str, str | None]] = lambda name: (name, None)
    rules: Mapping[str, Any] = field(default_factory=dict)
    config: Any = None

    def find(self, stored: Mapping[str, TensorInfo], wanted: Mapping[str, Any]) -> list[Fusion]:
        """The fusions among the stored tensors whose first result is a wanted parameter."""
        from transformers.core_model_loading import dot_natural_key

        if not self.rules:
            return []
        parts: dict[str, dict[str, list[str]]] = {}
        used: dict[str, Any] = {}
        for name in sorted(stored, key=dot_natural_key):
            target, pattern = self.rename(name)
            if pattern is None or target not in wanted or name in wanted:
                continue
            parts.setdefault(target, {}).setdefault(pattern, []).append(name)
            used[target] = self.rules[pattern]
        return [Fusion(t, p, used[t], self.config) for t, p in parts.items()]
