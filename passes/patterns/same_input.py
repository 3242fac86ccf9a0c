"""Layers that read the same value: QKV, gate and up; for lowerings to compute in one dispatch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from iree.compiler import ir

from edgec.passes.rewriting import is_none

__all__ = ["same_input"]

L = TypeVar("L")


def same_input(
    layers: list[tuple[ir.Operation, L]], key: Callable[[L], object]
) -> Iterator[list[tuple[ir.Operation, L]]]:
    """Groups of two or three layers with one first operand, whose others are there at the first.

    Args:
        layers: Operations and what the caller knows about them, in the module's order.
        key: What layers of a group have in common; None for a layer that stays alone.
    """
    groups: dict[object, list[tuple[ir.Operation, L]]] = {}
    for op, layer in layers:
        if (common := key(layer)) is not None:
            place = (op.operands[0], op.operation.block, common)
            groups.setdefault(place, []).append((op, layer))
    for group in groups.values():
        while len(group) > 1:
            # Four are two and two: none is left alone.
            size = 2 if len(group) in (2, 4) else 3
            first, together = group[0][0], group[:size]
            others = [v for op, _ in together for v in list(op.operands)[1:] if not is_none(v)]
            if all(_hoist(v, first) for v in others):
                yield together
            group = group[size:]


def _hoist(value: ir.Value, before: ir.Operation) -> bool:
    """Moves what computes `value` to before an operation of its block; False if it depends on more.

    Weights are read from a global and converted: operations without operands of their own, or with
    one that was moved already.
    """
    owner = value.owner
    if isinstance(owner, ir.Block) or owner.operation.is_before_in_block(before):
        return True
    operation = owner.operation
    if operation.regions or not all(_hoist(v, before) for v in operation.operands):
        return False
    operation.move_before(before)
    return True
