"""One form of `edgec::grouped_matmul`: everything that the text of its lowering depends on."""

from __future__ import annotations

from dataclasses import dataclass

from edgec.passes.emit import Tensor

__all__ = ["ROW_BLOCK", "GroupedMatmul"]

ROW_BLOCK = 16
"""Offsets are multiples of this, as the operator says."""


@dataclass(frozen=True)
class GroupedMatmul:
    """`x` f32 `[rows, K]` by `weight` `[experts, N, K]` or, transposed, `[experts, K, N]`.

    Sorted rows come with offsets, i32 `[experts + 1]`; others with their experts, i32 `[rows]`.
    """

    x: Tensor
    weight: Tensor
    biased: bool
    sorted: bool
    transposed: bool

    def __post_init__(self) -> None:
        if len(self.weight.shape) != 3 or None in self.weight.shape:
            raise ValueError(f"edgec::grouped_matmul: weights {self.weight.builtin}")
        if len(self.x.shape) != 2 or self.x.shape[1] != self.k:
            raise ValueError(
                f"edgec::grouped_matmul: rows {self.x.builtin} by weights {self.weight.builtin}"
            )

    @property
    def experts(self) -> int:
        return self._weight_dim(0)

    @property
    def n(self) -> int:
        return self._weight_dim(2 if self.transposed else 1)

    @property
    def k(self) -> int:
        return self._weight_dim(1 if self.transposed else 2)

    @property
    def rows(self) -> int | None:
        return self.x.shape[0]

    @property
    def result(self) -> Tensor:
        return Tensor((self.rows, self.n), self.x.dtype)

    @property
    def bias(self) -> Tensor | None:
        """The type of the bias, if there is one."""
        return Tensor((self.experts, self.n), self.x.dtype) if self.biased else None

    @property
    def groups(self) -> Tensor:
        """The type of the offsets or of the rows' experts."""
        return Tensor((self.experts + 1 if self.sorted else self.rows,), "i32")

    def _weight_dim(self, index: int) -> int:
        dim = self.weight.shape[index]
        assert dim is not None
        return dim
