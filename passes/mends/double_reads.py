"""Cuts an operation's two reads of one result at different places, as `s[i] - s[j]` reads `s`.

IREE 3.13 fuses such a reader with the reduction that makes what it reads, and computes it wrongly:
a workgroup has made only its own tile of `s`, which holds `s[i]` but not all of `s[j]`. It follows
one loop of the reduction into two loops of the reader, as if both were the same
(`mergeComposedMaps` in LoopMappingUtils.cpp).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from iree.compiler import ir
from iree.compiler.dialects import linalg

__all__ = ["double_reader", "reduces"]

_Labels: TypeAlias = "tuple[frozenset[int], ...]"
"""For each dimension of a tensor or loop of an operation: the first tensor's it goes through."""


def reduces(op: ir.Operation) -> bool:
    """Whether `op` is a linalg operation with a loop that its results do not have."""
    maps = _indexing_maps(op)
    if maps is None or not op.results:
        return False
    kept = {d for map_ in maps[-len(op.results) :] for e in map_.results for d in _dims(e)}
    return len(kept) < int(maps[0].n_dims)


def double_reader(value: ir.Value) -> ir.Operation | None:
    """The first operation that reads what `value` is at two places; None if there is none.

    Operations whose loops are all parallel are looked through, as they may be fused with their
    reader; so are reshapes, and nothing else.
    """
    rank = ir.RankedTensorType(value.type).rank
    known: dict[ir.Value, set[_Labels]] = {value: {tuple(frozenset({i}) for i in range(rank))}}
    for op in _readers_in_order(value):
        loops = set(_loops(op, known))
        if _conflict(loops):
            return op
        for result, labels in _results(op, loops):
            known.setdefault(result, set()).update(labels)
    return None


def _readers_in_order(value: ir.Value) -> list[ir.Operation]:
    """The readers of `value`, past operations that are looked through, each after its inputs."""
    order: list[ir.Operation] = []
    seen: set[ir.Operation] = set()
    stack: list[tuple[ir.Operation, bool]] = [(use.owner, False) for use in value.uses]
    while stack:
        op, done = stack.pop()
        if done:
            order.append(op)
            continue
        if op in seen or not _is_reader(op):
            continue
        seen.add(op)
        stack.append((op, True))
        if not reduces(op):
            stack += [(use.owner, False) for result in op.results for use in result.uses]
    return order[::-1]


def _is_reader(op: ir.Operation) -> bool:
    return op.name in _RESHAPES or _indexing_maps(op) is not None


_RESHAPES = ("tensor.collapse_shape", "tensor.expand_shape")


def _loops(op: ir.Operation, known: dict[ir.Value, set[_Labels]]) -> Iterable[_Labels]:
    """The labels of the loops of `op`, for each way that the first tensor comes to it."""
    maps = _indexing_maps(op)
    if maps is None:
        yield from known.get(op.operands[0], ())
        return
    for operand, map_ in zip(op.operands, maps, strict=False):
        for labels in known.get(operand, ()):
            loops: list[frozenset[int]] = [frozenset()] * map_.n_dims
            for label, expression in zip(labels, map_.results, strict=True):
                for d in _dims(expression):
                    loops[d] |= label
            yield tuple(loops)


def _results(op: ir.Operation, loops: set[_Labels]) -> Iterable[tuple[ir.Value, set[_Labels]]]:
    if op.name in _RESHAPES:
        yield op.results[0], {_reshaped(op, labels) for labels in loops}
        return
    maps = _indexing_maps(op)
    assert maps is not None
    if reduces(op):
        return
    for result, map_ in zip(op.results, maps[-len(op.results) :], strict=True):
        yield (
            result,
            {
                tuple(
                    frozenset().union(*(labels[d] for d in _dims(expression)))
                    for expression in map_.results
                )
                for labels in loops
            },
        )


def _reshaped(op: ir.Operation, labels: _Labels) -> _Labels:
    """The labels behind a reshape; a dimension of size 1 has none."""
    groups = [[ir.IntegerAttr(i).value for i in g] for g in op.attributes["reassociation"]]
    if op.name == "tensor.collapse_shape":
        return tuple(frozenset().union(*(labels[i] for i in group)) for group in groups)
    type_ = ir.RankedTensorType(op.results[0].type)
    found = [frozenset[int]()] * type_.rank
    for label, group in zip(labels, groups, strict=True):
        for i in group:
            if type_.is_dynamic_dim(i) or type_.get_dim_size(i) != 1:
                found[i] = label
    return tuple(found)


def _conflict(ways: set[_Labels]) -> bool:
    """Whether a dimension of the first tensor is one loop by one way and another by another."""
    places: dict[int, set[frozenset[int]]] = {}
    for labels in ways:
        for dimension in frozenset().union(*labels):
            at = frozenset(i for i, label in enumerate(labels) if dimension in label)
            places.setdefault(dimension, set()).add(at)
    return any(len(found) > 1 for found in places.values())


def _indexing_maps(op: ir.Operation) -> list[ir.AffineMap] | None:
    if not op.name.startswith("linalg."):
        return None
    found = linalg.get_indexing_maps(op)
    return None if found is None else [ir.AffineMapAttr(a).value for a in found]


def _dims(expression: ir.AffineExpr) -> set[int]:
    """The loops that an index depends on."""
    if isinstance(expression, ir.AffineDimExpr):
        return {expression.position}
    if isinstance(expression, ir.AffineBinaryExpr):
        return _dims(expression.lhs) | _dims(expression.rhs)
    return set()
