"""How operators that the importer does not know, or knows only as something slow, are exported.

They come out of the routers of mixture-of-experts models and out of complex rotary embeddings;
modelling code stays as it is. A decomposition that does not apply returns NotImplemented.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgec.models.ops.topk import topk

__all__ = ["DECOMPOSITIONS"]

aten = torch.ops.aten


def _topk(
    x: torch.Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Over any dimension, smallest or largest, as `edgec::topk`. The importer sorts everything.

    An unsorted result may have any order, so that a sorted one will do.
    """
    moved = x.transpose(dim, -1) if x.dim() else x.reshape(1)
    signed = moved.to(torch.float32) if largest else -moved.to(torch.float32)
    values, indices = topk(signed, k)
    values = (values if largest else -values).to(x.dtype)
    if not x.dim():
        return values.reshape(()), indices.reshape(())
    return values.transpose(dim, -1), indices.transpose(dim, -1)


def _softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
    """With a logarithm, so that IREE does not make one operator of it.

    Where a router masks its scores twice (phimoe), IREE fuses both maskings into the dispatch of
    that operator, which then has two results and cannot be tiled.
    """
    if (dtype or x.dtype) != torch.float32 or not x.is_floating_point():
        return NotImplemented
    shifted = x.to(torch.float32)
    shifted = shifted - shifted.amax(dim, keepdim=True)
    return torch.exp(shifted - shifted.exp().sum(dim, keepdim=True).log())


def _logsumexp(x: torch.Tensor, dim: list[int], keepdim: bool = False) -> torch.Tensor:
    """Log-sum-exp of rows with a finite element. The importer knows the operator, IREE does not."""
    most = x.amax(dim, keepdim=True)
    result = most + (x - most).exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze(dim)


def _concat(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    return torch.cat(tensors, dim)


def _scatter_value(x: torch.Tensor, dim: int, index: torch.Tensor, value: float) -> Any:
    """Each element looks for itself among the indices: a router's rows are short.

    As a scatter it would run row by row on one thread.
    """
    dim = dim % x.dim()
    if any(index.shape[d] != x.shape[d] for d in range(x.dim()) if d != dim):
        return NotImplemented
    places = torch.arange(x.shape[dim], device=x.device).reshape(-1, 1)
    hit = (index.movedim(dim, -1)[..., None, :] == places).any(-1).movedim(-1, dim)
    if x.dtype == torch.bool:
        return x | hit if value else x & ~hit
    return torch.where(hit, torch.full((), value, dtype=x.dtype, device=x.device), x)


_MOST_SCATTERED = 32
"""Elements that a row may get: each is a comparison of the whole row."""


def _scatter(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> Any:
    """Like `_scatter_value` for values of their own; of equal indices the last one counts.

    IREE scatters into the tensor that it begins with. Where two layers begin with the same one, it
    fills it once, and the second layer finds what the first has left there.
    """
    dim = dim % x.dim()
    count = index.shape[dim]
    others = any(index.shape[d] != x.shape[d] for d in range(x.dim()) if d != dim)
    if others or not isinstance(count, int) or count > _MOST_SCATTERED:
        return NotImplemented
    shape = [-1 if d == dim else 1 for d in range(x.dim())]
    places = torch.arange(x.shape[dim], device=x.device).reshape(shape)
    for i in range(count):
        x = torch.where(index.narrow(dim, i, 1) == places, source.narrow(dim, i, 1), x)
    return x


def _slice(
    x: torch.Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """Every other element, as rotations take them: one column of pairs. For steps that divide.

    What is read with a stride has no form in SPIR-V that IREE finds.
    """
    size, first = x.shape[dim], start or 0
    if not (isinstance(size, int) and isinstance(first, int) and 0 <= first < step > 1):
        return NotImplemented
    if size % step or (end is not None and not (isinstance(end, int) and end >= size)):
        return NotImplemented
    dim = dim % x.dim()
    return x.unflatten(dim, (size // step, step)).select(dim + 1, first)


def _multiply(x: torch.Tensor, other: Any) -> Any:
    """A complex tensor by a real number."""
    if not x.is_complex() or not isinstance(other, int | float):
        return NotImplemented
    return torch.view_as_complex(torch.view_as_real(x) * other)


def _new_ones(x: torch.Tensor, size: list[int], **kwargs: Any) -> Any:
    """The "no restriction" that a mask begins with. IREE does not take a constant of booleans."""
    if kwargs.get("dtype") is not torch.bool or x.is_floating_point():
        return NotImplemented
    # A comparison that holds for every number, and that nothing folds to the constant again.
    one = x.reshape(-1)[:1].reshape(()).to(torch.int64) > -(1 << 62)
    return one.expand(size)


def _nothing(*_: Any, **__: Any) -> None:
    """Drops an assertion: export has checked it already."""


def _repeat_interleave(x: torch.Tensor, repeats: Any, dim: int | None = None, **_: Any) -> Any:
    """Neighbours within a row as a gather: as a broadcast IREE fuses it with what no loop fits."""
    if dim is None or dim % x.dim() != x.dim() - 1 or not isinstance(repeats, int):
        return NotImplemented
    places = torch.arange(x.shape[-1] * repeats, device=x.device) // repeats
    return x.index_select(-1, places)


def _product(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return x * other


def _and(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.bitwise_and(x, other)


def _or(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.bitwise_or(x, other)


# M. Giles, "Approximating the erfinv function" (2010), table of the single-precision version: in
# w - 2.5 where w = -log(1 - x²) < 5, else in sqrt(w) - 3, the highest power first.
_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
)  # fmt: skip


def _erfinv(x: torch.Tensor) -> Any:
    """By polynomials, to a few units in the last place: a sparsity that is given as a quantile."""
    if x.dtype != torch.float32:
        return NotImplemented
    w = -torch.log((1 - x) * (1 + x))
    near, far = torch.full_like(w, _CENTRE[0]), torch.full_like(w, _TAIL[0])
    for centre, tail in zip(_CENTRE[1:], _TAIL[1:], strict=True):
        near = near * (w - 2.5) + centre
        far = far * (torch.sqrt(w) - 3) + tail
    return torch.where(w < 5, near, far) * x


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.topk.default: _topk,
    aten.softmax.int: _softmax,
    aten.logsumexp.default: _logsumexp,
    aten.concat.default: _concat,
    aten.concatenate.default: _concat,
    aten.scatter.src: _scatter,
    aten.slice.Tensor: _slice,
    aten.scatter.value: _scatter_value,
    aten.new_ones.default: _new_ones,
    aten.erfinv.default: _erfinv,
    aten.repeat_interleave.self_int: _repeat_interleave,
    aten.multiply.Tensor: _product,
    aten.__and__.Tensor: _and,
    aten.__or__.Tensor: _or,
    aten.mul.Tensor: _multiply,
    aten.mul.Scalar: _multiply,
    aten._assert_tensor_metadata.default: _nothing,
}
