"""The numbers that a GGUF file gives of its model, checked, and what no key may say in silence."""

from __future__ import annotations

import math
from typing import Any

from edgec.errors import ModelError
from edgec.models.gguf.header import DAMAGED, Header, Values, shown

__all__ = ["ModelKeys"]

_HARMLESS = {
    "attention.layer_norm_epsilon",  # of norms that these architectures do not have
    "expert_used_count",  # `expert_count` says whether there are any
    "rope.scaling.finetuned",  # but for Granite
    "pooling_type",  # of embeddings of sentences
    "tensor_data_layout",
    "vocab_size",  # the table of embeddings has it
}
"""Keys that cannot change what is generated."""

_NEUTRAL = (0, 0.0, False, "", "none")
"""Values that say of a key which is not known here that there is nothing to say."""


class ModelKeys:
    """The keys under a file's architecture. Each that is asked for is remembered as read.

    Args:
        header: The file's header.
        architecture: The part of the keys' names before the first dot.
    """

    def __init__(self, header: Header, architecture: str) -> None:
        self._header, self._prefix = header, f"{architecture}."
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._header.metadata

    def count(self, name: str, default: int | None = None, *, most: int = 1 << 24) -> int:
        """A whole number from 1 to `most`; one for all layers if the file has one for each.

        Raises:
            ModelError: it is something else, or missing without a default.
        """
        value = self._one(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 1 <= value <= most:
            raise self._wrong(name, value, f"a whole number from 1 to {most}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number.

        Raises:
            ModelError: it is something else, or missing without a default.
        """
        value = self._one(name)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e30:
            raise self._wrong(name, value, "a finite number")
        return float(value)

    def positive(self, name: str, default: float | None = None) -> float:
        """A finite number above 0; for errors see `number`."""
        value = self.number(name, default)
        if value <= 0:
            raise self._wrong(name, value, "a number above 0")
        return value

    def text(self, name: str, default: str) -> str:
        """A string, or the default.

        Raises:
            ModelError: it is something else.
        """
        value = self._one(name)
        if value is None:
            return default
        if type(value) is not str:
            raise self._wrong(name, value, "a text")
        return value

    def expect(self, name: str, wanted: Any, why: str) -> None:
        """Refuses a value other than `wanted`; a missing key says nothing.

        Raises:
            ModelError: the value is another.
        """
        value = self._one(name)
        if value is not None and value != wanted:
            raise ModelError(
                f"{self._header.path}: {self._prefix}{name} is {shown(value)}: {why}",
                "compile the original model with --quantize int4",
            )

    def refuse_others(self) -> None:
        """Refuses keys that nobody has asked for: what they mean is not in the compiled model.

        Raises:
            ModelError: there are such keys; they are named with their values.
        """
        window, context = "attention.sliding_window", "context_length"
        others = {
            name: value
            for key, value in self._header.metadata.items()
            if key.startswith(self._prefix)
            and (name := key.removeprefix(self._prefix)) not in self._read | _HARMLESS
            and not (not isinstance(value, Values) and value in _NEUTRAL)
        }
        # A window that is never full is none.
        size = others.get(window)
        if type(size) is int and size >= self.count(context, most=1 << 31):
            del others[window]
        if others:
            said = ", ".join(f"{self._prefix}{n} = {shown(v)}" for n, v in list(others.items())[:4])
            raise ModelError(
                f"{self._header.path}: keys that edgec does not know: {said}",
                "compile the original model with --quantize int4",
            )

    def _one(self, name: str) -> Any:
        self._read.add(name)
        value = self._header.metadata.get(self._prefix + name)
        if isinstance(value, Values) and not value.strings and 0 < value.count <= 1 << 16:
            layers = set(value.numbers().tolist())
            if len(layers) > 1:
                raise ModelError(
                    f"{self._header.path}: {self._prefix}{name} differs from layer to layer",
                    "compile the original model with --quantize int4",
                )
            return layers.pop()
        return value

    def _wrong(self, name: str, value: Any, wanted: str) -> ModelError:
        said = "missing" if value is None else shown(value)
        return ModelError(
            f"{self._header.path}: {self._prefix}{name} is {said}, must be {wanted}", DAMAGED
        )
