"""One form of `edgec::grouped_matmul`: everything that the text of its lowering depends on."""

from __future__ import annotations

from dataclasses import dataclass

from edgec.passes.rewriting import TorchTensor

__all__ = ["ROW_BLOCK", "GroupedMatmul"]

ROW_BLOCK = 16
"""Offsets are multiples of this, as the operator says."""


@dataclass(frozen=True)
class GroupedMatmul:
    """`x` f32 `[rows, K]` by `weight` `[experts, N, K]` or, transposed, `[experts, K, N]`.

    Sorted rows come with offsets, i32 `[experts + 1]`; others with their experts, i32 `[rows]`.
    """

    x: TorchTensor
    weight: TorchTensor
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
    def result(self) -> TorchTensor:
        return TorchTensor((self.rows, self.n), self.x.dtype)

    @property
    def bias(self) -> str:
        """The bias's type, builtin."""
        return f"tensor<{self.experts}x{self.n}x{self.x.dtype}>"

    @property
    def groups(self) -> str:
        """The type, builtin, of the offsets or of the rows' experts."""
        if self.sorted:
            return f"tensor<{self.experts + 1}xi32>"
        return f"tensor<{'?' if self.rows is None else self.rows}xi32>"

    def weight_map(self, dims: str, row: str, column: str) -> str:
        """An affine map from `dims` to a matrix's element at `row` (of N) and `column` (of K)."""
        element = f"{column}, {row}" if self.transposed else f"{row}, {column}"
        return f"affine_map<({dims}) -> ({element})>"

    def widen(self, name: str, result: str) -> str:
        """Text that converts the element `name` of a matrix to the type of `x`."""
        if self.weight.dtype == self.x.dtype:
            return ""
        return f"          {result} = arith.extf {name} : {self.weight.dtype} to {self.x.dtype}\n"

    def _weight_dim(self, index: int) -> int:
        dim = self.weight.shape[index]
        assert dim is not None
        return dim
