"""Operations that a product's kernel computes besides the product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.passes.kernels.table import FOLDS

__all__ = ["Folds"]


@dataclass(frozen=True)
class Folds:
    """The form of what is folded in; nothing by default.

    Attributes:
        eps: Of the norm.
        weighted: Whether the norm has a weight for each column.
        alpha: Factor of the product that is added to another tensor.
        activation: Of the first of two layers, times the second.
    """

    eps: float | None = None
    weighted: bool = False
    alpha: float | None = None
    activation: str | None = None

    def bits(self, biased: Sequence[bool]) -> int:
        """Arguments about folds for the kernels; `biased`: which of the layers have a bias."""
        norm = 0 if self.eps is None else FOLDS.NORM | FOLDS.NORM_WEIGHT * self.weighted
        biases = sum(FOLDS.BIAS << i for i, has in enumerate(biased) if has)
        return norm | (0 if self.alpha is None else FOLDS.ADDED) | biases

    @property
    def labels(self) -> list[str]:
        """Parts of a symbol's name."""
        norm = "" if self.eps is None else f"{'w' * self.weighted}norm{self.eps!r}"
        added = "" if self.alpha is None else f"added{self.alpha!r}"
        return [norm, added, self.activation or ""]
