"""Prefill computes of its last layers what the next token needs, and no more.

The head runs for one row, that of the last token. What leads to it alone need have no other rows
either: feed-forward part, attention's result and query of the last layer. Keys and values of all
tokens stay. Any model's graph has this shape, and no operator in it is taken for granted: where
the way back ends, the row is picked from what all tokens have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

__all__ = ["keep_last_row"]

aten, edgec = torch.ops.aten, torch.ops.edgec

_LINEAR = ("edgec::linear", "edgec::quantized_linear", "aten::linear")
_REDUCTIONS = (aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default)


def keep_last_row(program: torch.export.ExportedProgram) -> None:
    """Moves the pick of one token's row as far back as nothing else needs the other rows."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if (picked := _picked(node)) is not None:
            source, dim, index = picked
            outputs = [output for output in graph.nodes if output.op == "output"]
            whole = _needed(outputs, node)
            while True:
                rows = _Rows(graph, node, index, whole)
                row = rows.row(source, dim)
                if rows.taken <= whole:
                    break
                # Where the way back ended all rows are computed, with all that leads there.
                whole |= _needed(list(rows.taken), node)
            node.replace_all_uses_with(row)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()


def _picked(node: fx.Node) -> tuple[fx.Node, int, fx.Node] | None:
    """The tensor that a row is picked from, along which dimension, and its index i64 [1]."""
    args: tuple[Any, ...] = node.args
    if node.target == aten.index.Tensor:
        source, indices = args[0], args[1]
        at = [i for i, index in enumerate(indices) if index is not None]
        if len(at) != 1:
            return None
        dim, index = at[0], indices[at[0]]
    elif node.target == aten.index_select.default:
        source, dim, index = args
    else:
        return None
    if not isinstance(source, fx.Node) or not isinstance(index, fx.Node):
        return None
    # A row of the tokens, whose number is what is not known; not one of a table.
    if tuple(_shape(index)) != (1,) or isinstance(_shape(source)[dim], int):
        return None
    return source, dim, index


class _Rows:
    """One row, at `index` (i64 `[1]`), of nodes that have one for each token.

    Of those in `whole` all rows are there. `taken` are those that a row was picked from.
    """

    def __init__(self, graph: fx.Graph, pick: fx.Node, index: fx.Node, whole: set[fx.Node]) -> None:
        self._graph, self._pick, self._index, self._whole = graph, pick, index, whole
        self.taken: set[fx.Node] = set()
        self._done: dict[tuple[fx.Node, int], fx.Node] = {}

    def row(self, node: fx.Node, dim: int) -> fx.Node:
        """The node's row along `dim`, which stays, with size 1."""
        key = (node, dim)
        if key not in self._done:
            one = None if node in self._whole else self._computed(node, dim)
            self._done[key] = one or self._taken(node, dim)
        return self._done[key]

    def _taken(self, node: fx.Node, dim: int) -> fx.Node:
        self.taken.add(node)
        indices = [None] * dim + [self._index]
        return self._node(aten.index.Tensor, (node, indices))

    def _computed(self, node: fx.Node, dim: int) -> fx.Node | None:
        """The operator again, of its operands' rows; None where that is not the same."""
        target: Any = node.target
        args: tuple[Any, ...] = node.args
        if not isinstance(target, torch._ops.OpOverload):
            return None
        shape = _shape(node)
        if torch.Tag.pointwise in target.tags or target == aten._to_copy.default:
            rows = {a: self._aligned(a, dim, shape) for a in node.all_input_nodes}
            return self._again(node, rows)
        first = args[0] if args and isinstance(args[0], fx.Node) else None
        if first is None:
            return self._concatenated(node, dim)
        if target in _REDUCTIONS and len(args) > 2 and args[2]:
            reduced = [d % len(shape) for d in args[1]]
            return None if dim in reduced else self._again(node, {first: self.row(first, dim)})
        if target.name().split(".")[0] in _LINEAR and dim < len(shape) - 1:
            return self._again(node, {first: self.row(first, dim)})
        if target == aten.transpose.int:
            swapped = [d % len(shape) for d in args[1:]]
            there = {swapped[0]: swapped[1], swapped[1]: swapped[0]}.get(dim, dim)
            return self._again(node, {first: self.row(first, there)})
        if target == aten.slice.Tensor and len(args) > 1 and args[1] % len(shape) != dim:
            return self._again(node, {first: self.row(first, dim)})
        if target == aten.view.default and _same(shape[: dim + 1], _shape(first)[: dim + 1]):
            sizes = [*shape[:dim], 1, *shape[dim + 1 :]]
            if all(isinstance(size, int) for size in sizes):
                return self._node(target, (self.row(first, dim), sizes))
        if target == edgec.attention.default and dim == 1:
            return self._attention(node, first)
        return None

    def _aligned(self, operand: fx.Node, dim: int, shape: torch.Size) -> fx.Node:
        """The row of an operand that may be broadcast; itself where it has the same for all."""
        own = _shape(operand)
        at = dim - (len(shape) - len(own))
        return self.row(operand, at) if at >= 0 and _same(own[at], shape[dim]) else operand

    def _concatenated(self, node: fx.Node, dim: int) -> fx.Node | None:
        if node.target != aten.cat.default:
            return None
        args: tuple[Any, ...] = node.args
        along = (args[1] if len(args) > 1 else 0) % len(_shape(node))
        if along == dim:
            return None
        return self._again(node, {a: self.row(a, dim) for a in node.all_input_nodes})

    def _attention(self, node: fx.Node, query: fx.Node) -> fx.Node | None:
        """Attends for one query: its position is the start of its block."""
        index: Any = self._index
        while index.target in (aten.view.default, aten.reshape.default, aten.unsqueeze.default):
            index = index.args[0]
        if tuple(_shape(index)):
            return None
        start = node.args[3]
        position = self._node(aten.add.Tensor, (start, index))
        row = self.row(query, 2)
        return self._node(node.target, (row, *node.args[1:3], position, *node.args[4:]))

    def _again(self, node: fx.Node, rows: dict[fx.Node, fx.Node]) -> fx.Node:
        args = fx.map_arg(node.args, lambda a: rows.get(a, a))
        return self._node(node.target, args, dict(node.kwargs))

    def _node(self, target: Any, args: Any, kwargs: dict[str, Any] | None = None) -> fx.Node:
        """A new node, with the type that it has."""
        with self._graph.inserting_before(self._pick):
            made = self._graph.call_function(target, args, kwargs or {})
        values: Any = fx.map_arg((made.args, made.kwargs), lambda a: a.meta["val"])
        made.meta["val"] = target(*values[0], **values[1])
        return made


def _needed(nodes: list[fx.Node], pick: fx.Node) -> set[fx.Node]:
    """The nodes and all that they need but for what only `pick` does."""
    needed: set[fx.Node] = set()
    left = list(nodes)
    while left:
        node = left.pop()
        if node not in needed and node is not pick:
            needed.add(node)
            left += node.all_input_nodes
    return needed


def _shape(node: fx.Node) -> torch.Size:
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor)
    return value.shape


def _same(a: object, b: object) -> bool:
    """Whether two sizes, or lists of them, are the same, known or not."""
    return str(a) == str(b)
