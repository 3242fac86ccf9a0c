"""OpenAI's logit bias and penalties, as filters of logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgec.runtime.sampling import TokenFilter

__all__ = ["FilterChain", "LogitBias", "RepetitionCounts"]

Logits = npt.NDArray[np.float32]


class LogitBias:
    """Adds a constant to the logits of some tokens.

    Args:
        bias: Token id to what is added.
    """

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._ids = np.array(list(bias), np.intp)
        self._values = np.array(list(bias.values()), np.float32)

    def mask(self, tokens: Sequence[int], logits: Logits) -> None:
        logits[self._ids] += self._values


class RepetitionCounts:
    """Lowers the logits of tokens that were generated before, as OpenAI defines it:
    `logit -= count * frequency + (count > 0) * presence`."""

    def __init__(self, presence: float, frequency: float) -> None:
        self._presence = np.float32(presence)
        self._frequency = np.float32(frequency)
        self._seen = 0
        self._counts: dict[int, int] = {}

    def mask(self, tokens: Sequence[int], logits: Logits) -> None:
        for token in tokens[self._seen :]:
            self._counts[token] = self._counts.get(token, 0) + 1
        self._seen = len(tokens)
        if self._counts:
            ids = np.fromiter(self._counts, np.intp)
            counts = np.fromiter(self._counts.values(), np.float32)
            logits[ids] -= counts * self._frequency + self._presence


class FilterChain:
    """Several filters, one after the other."""

    def __init__(self, filters: Sequence[TokenFilter]) -> None:
        self._filters = filters

    def mask(self, tokens: Sequence[int], logits: Logits) -> None:
        for each in self._filters:
            each.mask(tokens, logits)
