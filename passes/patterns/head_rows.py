"""Traces the rows of query, key and value back from attention to the projections.

Between a projection and attention a model reshapes, transposes and slices, takes an RMS norm of
each head's row, and turns the row by its position. None of the first kind moves anything: a row is
found in the tensor that it was cut from. The others are recognised by what they compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from iree.compiler import ir

from edgec.passes.patterns.matching import RmsNorm, factors, made_by, readers, rms_norm
from edgec.passes.rewriting import constant_int, parse_torch_tensor

__all__ = ["Prepared", "Rotation", "Rows", "cut_from", "prepared"]

Axis = tuple[int, int]
"""The dimension of a tensor that an axis of the rows runs along, and its step there."""

_SAME = ("torch.aten.alias", "torch.aten.type_as", "torch.aten.clone", "torch.aten.contiguous")
_VIEWS = ("torch.aten.view", "torch.aten.reshape", "torch.aten.unsqueeze", "torch.aten.squeeze.dim")
_TOKENS, _HEADS, _COLUMNS = range(3)


@dataclass(frozen=True)
class Rows:
    """Rows `[tokens, heads, columns]`, and where they lie in a tensor.

    Attributes:
        value: The tensor.
        starts: Where the first element is: a number for each dimension.
        axes: Of tokens, heads and columns; None for an axis of size 1 that it has not.
    """

    value: ir.Value
    starts: tuple[int, ...]
    axes: tuple[Axis | None, Axis | None, Axis | None]

    @staticmethod
    def of(value: ir.Value, tokens: int, heads: int, columns: int) -> Rows:
        """All of `value`, whose dimensions are given; the others are 1."""
        return Rows(value, (0,) * len(_shape(value)), ((tokens, 1), (heads, 1), (columns, 1)))

    def strides(self) -> tuple[int, int, int] | None:
        """The first element, the elements from token to token and from head to head.

        None where they are not known, or the columns are not side by side.
        """
        shape = _shape(self.value)
        known: list[int | None] = [None] * len(shape)
        size: int | None = 1
        for dim in reversed(range(len(shape))):
            known[dim] = size
            length = shape[dim]
            size = None if size is None or length is None else size * length
        steps: list[int] = []
        for axis in self.axes:
            stride = known[axis[0]] if axis else 0
            if stride is None:
                return None
            steps.append(stride * axis[1] if axis else 0)
        first = 0
        for start, stride in zip(self.starts, known, strict=True):
            if start:
                if stride is None:
                    return None
                first += start * stride
        tokens, heads, columns = steps
        return (first, tokens, heads) if columns == 1 else None

    def _in(self, value: ir.Value) -> Rows:
        """The same rows of another tensor of the same shape."""
        return replace(self, value=value)

    def _after(self, columns: int) -> Rows:
        """The rows without their first columns."""
        axis = self.axes[_COLUMNS]
        assert axis is not None
        return self._shifted(axis[0], columns * axis[1])

    def _shifted(self, dim: int, start: int) -> Rows:
        """The rows further along a dimension of the tensor."""
        starts = list(self.starts)
        starts[dim] += start
        return replace(self, starts=tuple(starts))

    def _whole_columns(self, columns: int) -> int | None:
        """The dimension that consists of the columns and nothing else."""
        axis = self.axes[_COLUMNS]
        if axis is None or axis[1] != 1 or self.starts[axis[0]]:
            return None
        return axis[0] if _shape(self.value)[axis[0]] == columns else None


@dataclass(frozen=True)
class Rotation:
    """`x * cos + cat(-x[half:], x[:half]) * sin` of the first `columns` columns.

    Attributes:
        turn: Columns of `cos` and `sin`, which have a row for each token: all, or half of them.
    """

    cos: ir.Value
    sin: ir.Value
    columns: int
    turn: int

    @property
    def tables(self) -> tuple[ir.Value, ir.Value, int]:
        return self.cos, self.sin, self.turn


@dataclass(frozen=True)
class Prepared:
    """The recipe of a row: rows of a tensor, first normed and then rotated."""

    source: Rows
    norm: RmsNorm | None = None
    rotation: Rotation | None = None

    @property
    def plain(self) -> bool:
        return self.norm is None and self.rotation is None


def prepared(rows: Rows, columns: int, consumer: ir.Operation) -> Prepared:
    """Follows `consumer`'s input back to its source, past operations with no other reader.

    Args:
        columns: Of a row.
    """
    trail = _Trail(consumer)
    found = Prepared(trail.settle(rows))
    trail.keep()
    steps: tuple[Callable[[Prepared, int, _Trail], Prepared | None], ...] = (_rotation, _norm)
    for step in steps:
        deeper = step(found, columns, trail)
        if deeper is None:
            trail.forget()
        elif trail.closed():
            found = deeper
            trail.keep()
        else:
            break
    return found


def cut_from(rows: Rows) -> Rows:
    """The rows in the tensor that they were cut from."""
    return _walk(rows)[0]


def _walk(rows: Rows) -> tuple[Rows, list[ir.Operation]]:
    """The rows in the tensor that they were cut from, and the views on the way there."""
    views: list[ir.Operation] = []
    while (owner := _owner(rows.value)) is not None:
        back = _back(rows, owner)
        if back is None:
            break
        views.append(owner)
        rows = back
    return rows, views


class _Trail:
    """The operations between a consumer and where the way back has got to.

    Those that are kept nothing else may read, except views of where it got to. A step collects
    more, computations and views of what these read, and keeps or forgets them.
    """

    def __init__(self, consumer: ir.Operation) -> None:
        self._consumer = consumer
        self._kept: set[ir.Operation] = set()
        self._last_views: set[ir.Operation] = set()
        self._computing: set[ir.Operation] = set()
        self._views: set[ir.Operation] = set()

    def settle(self, rows: Rows) -> Rows:
        """The rows in the tensor that they were cut from."""
        rows, views = _walk(rows)
        self._views.update(views)
        return rows

    def computes(self, *ops: ir.Operation) -> None:
        self._computing.update(ops)

    def closed(self) -> bool:
        """Whether nothing but the consumer needs what the step went back over."""
        inner = self._kept | self._last_views | self._computing
        expected = inner | self._views | {self._consumer}
        return all(
            reader in expected
            for op in inner
            for result in op.results
            for reader in readers(result)
        )

    def keep(self) -> None:
        self._kept |= self._last_views | self._computing
        self._last_views = self._views
        self.forget()

    def forget(self) -> None:
        self._computing, self._views = set(), set()


def _owner(value: ir.Value) -> ir.Operation | None:
    return None if isinstance(value.owner, ir.Block) else value.owner.operation


def _shape(value: ir.Value) -> tuple[int | None, ...]:
    return parse_torch_tensor(value.type).shape


def _number(value: ir.Value) -> int | None:
    return constant_int(value) if made_by(value, "constant.int") else None


def _dimension(value: ir.Value, rank: int) -> int | None:
    dim = _number(value)
    return None if dim is None else dim % rank


def _elements(value: ir.Value) -> list[ir.Value]:
    made = made_by(value, "prim.ListConstruct")
    return list(made.operands) if made else []


def _moved(rows: Rows, value: ir.Value, places: list[int | None], inner: list[int]) -> Rows:
    """The rows in `value`, of which a dimension here is part.

    Args:
        places: For each dimension here that of `value`, or None for one of size 1.
        inner: For each, the elements of that dimension from one to the next.
    """
    starts = [0] * len(_shape(value))
    for start, place, step in zip(rows.starts, places, inner, strict=True):
        if place is not None:
            starts[place] += start * step
    axes: list[Axis | None] = []
    for axis in rows.axes:
        place = places[axis[0]] if axis else None
        axes.append(None if axis is None or place is None else (place, axis[1] * inner[axis[0]]))
    tokens, heads, columns = axes
    return Rows(value, tuple(starts), (tokens, heads, columns))


def _back(rows: Rows, op: ir.Operation) -> Rows | None:
    """The rows in what `op` is a view of; None where it is not, or not one that is known."""
    if op.name == "torch.prim.ListUnpack":
        return _part(rows, op)
    if not op.name.startswith("torch.aten.") or not len(op.operands):
        return None
    source = op.operands[0]
    if not str(source.type).startswith("!torch.vtensor<["):
        return None
    shape, sizes = _shape(source), _shape(rows.value)
    rank, ones = len(shape), [1] * len(sizes)
    if parse_torch_tensor(source.type).dtype != parse_torch_tensor(rows.value.type).dtype:
        return None
    if op.name in _SAME and shape == sizes:
        return rows._in(source)
    if op.name == "torch.aten.transpose.int":
        first, second = (_dimension(v, rank) for v in list(op.operands)[1:])
        if first is None or second is None:
            return None
        places: list[int | None] = list(range(rank))
        places[first], places[second] = second, first
        return _moved(rows, source, places, ones)
    if op.name == "torch.aten.select.int":
        dim, index = _dimension(op.operands[1], rank), _number(op.operands[2])
        if dim is None or index is None or index < 0:
            return None
        kept: list[int | None] = [d for d in range(rank) if d != dim]
        return _moved(rows, source, kept, ones)._shifted(dim, index)
    if op.name == "torch.aten.slice.Tensor":
        dim, start, step = (_number(op.operands[i]) for i in (1, 2, 4))
        # Of a dynamic dimension a part would look like the whole.
        if dim is None or start is None or start < 0 or step != 1 or shape[dim] is None:
            return None
        return rows._in(source)._shifted(dim % rank, start)
    if op.name in _VIEWS:
        return _split(rows, source, shape, sizes)
    return None


def _part(rows: Rows, op: ir.Operation) -> Rows | None:
    """The rows in what a list of equal parts was split from."""
    split = made_by(op.operands[0], "aten.split.Tensor")
    if split is None:
        return None
    source, size, axis = split.operands
    dim, length = _dimension(axis, len(_shape(source))), _number(size)
    if dim is None or length is None:
        return None
    return rows._in(source)._shifted(dim, ir.OpResult(rows.value).result_number * length)


def _split(
    rows: Rows, source: ir.Value, shape: tuple[int | None, ...], sizes: tuple[int | None, ...]
) -> Rows | None:
    """The rows in a tensor each of whose dimensions became some here, as sizes of 1 may do."""
    places: list[int | None] = [None] * len(sizes)
    inner, at = [1] * len(sizes), 0
    for place, length in enumerate(shape):
        group: list[int] = []
        while at < len(sizes) and sizes[at] == 1 and (length != 1 or not group):
            group.append(at)
            at += 1
        if length is None:
            if at == len(sizes) or sizes[at] is not None:
                return None
            group.append(at)
            at += 1
        else:
            while math.prod(sizes[d] or 0 for d in group) < length and at < len(sizes):
                group.append(at)
                at += 1
            if group and math.prod(sizes[d] or 0 for d in group) != length:
                return None
        step = 1
        for dim in reversed(group):
            places[dim], inner[dim] = place, step
            step *= sizes[dim] or 1
    return _moved(rows, source, places, inner) if at == len(sizes) else None


def _rotation(found: Prepared, columns: int, trail: _Trail) -> Prepared | None:
    rows = found.source
    cat = _concatenated(rows, columns)
    if cat is None:
        return _turned(rows, columns, trail)
    ops, parts = cat
    trail.computes(*ops)
    halves = _turned_halves(rows, columns, parts, trail)
    if halves is not None:
        return halves
    # The other columns, if any, stay as they are.
    width = _shape(parts[0])[_column_dim(rows)] or 0
    turned = _turned(rows._in(parts[0]), width, trail)
    rest = trail.settle(rows._in(parts[1]))
    same = turned is not None and (width == columns or rest == turned.source._after(width))
    return turned if same else None


def _column_dim(rows: Rows) -> int:
    """The dimension that the columns run along."""
    axis = rows.axes[_COLUMNS]
    assert axis is not None
    return axis[0]


def _concatenated(rows: Rows, columns: int) -> tuple[list[ir.Operation], list[ir.Value]] | None:
    """The operations that join the rows of two tensors, column by column, and these."""
    op, dim = made_by(rows.value, "aten.cat"), rows._whole_columns(columns)
    if op is None or dim is None or _dimension(op.operands[1], len(rows.starts)) != dim:
        return None
    listed = made_by(op.operands[0], "prim.ListConstruct")
    if listed is None or len(listed.operands) != 2:
        return None
    return [op, listed], list(listed.operands)


Turn = tuple[list[ir.Operation], ir.Value, ir.Value, ir.Value, ir.Value]


def _turns(value: ir.Value, name: str) -> Iterator[Turn]:
    """Readings of a value as `x * cos + y * sin`, or `-` with `sub`: operations, x, cos, y, sin."""
    op = made_by(value, f"aten.{name}.Tensor")
    if op is None or _number(op.operands[2]) != 1:
        return
    first, second = list(op.operands)[:2]
    if not _shape(first) == _shape(second) == _shape(value):
        return
    for left, right in ((first, second), (second, first))[: 1 if name == "sub" else 2]:
        for by_cos, x, cos in factors(left):
            for by_sin, y, sin in factors(right):
                yield [op, by_cos, by_sin], x, cos, y, sin


def _table(value: ir.Value) -> ir.Value:
    """A table without the dimensions of 1 that were put in for a product."""
    while (made := made_by(value, "aten.unsqueeze")) is not None:
        value = made.operands[0]
    return value


def _are_tables(rows: Rows, columns: int, *tables: ir.Value) -> bool:
    """Whether all broadcast over the rows with a row of their own for each token, in order."""
    rank, tokens, dim = len(rows.starts), rows.axes[_TOKENS], _column_dim(rows)
    expected: list[int | None] = [1] * rank
    if tokens is not None:
        if tokens[1] != 1 or rows.starts[tokens[0]] or tokens[0] >= dim:
            return False
        expected[tokens[0]] = _shape(rows.value)[tokens[0]]
    expected[dim] = columns
    shapes = [_shape(table) for table in tables]
    return all([1] * (rank - len(shape)) + list(shape) == expected for shape in shapes)


def _turned(rows: Rows, columns: int, trail: _Trail) -> Prepared | None:
    """Rows that are `x * cos + cat(-x[half:], x[:half]) * sin`."""
    if columns % 2 or rows._whole_columns(columns) is None:
        return None
    for ops, x, cos, crossed, sin in _turns(rows.value, "add"):
        cat = _concatenated(rows._in(crossed), columns)
        negative = made_by(cat[1][0], "aten.neg") if cat else None
        if cat is None or negative is None or not _are_tables(rows, columns, cos, sin):
            continue
        source, high, low = (
            trail.settle(rows._in(v)) for v in (x, negative.operands[0], cat[1][1])
        )
        if low == source and high == source._after(columns // 2):
            trail.computes(*ops, *cat[0], negative)
            return Prepared(source, None, Rotation(_table(cos), _table(sin), columns, columns))
    return None


def _turned_halves(
    rows: Rows, columns: int, parts: list[ir.Value], trail: _Trail
) -> Prepared | None:
    """Rows that are `cat(a * cos - b * sin, b * cos + a * sin)` of their halves `a` and `b`."""
    half, first = columns // 2, rows._in(parts[0])
    if columns % 2 or first._whole_columns(half) is None:
        return None
    for ops, a, cos, b, sin in _turns(parts[0], "sub"):
        for more, b_again, cos_again, a_again, sin_again in _turns(parts[1], "add"):
            tables = _table(cos), _table(sin)
            if tables != (_table(cos_again), _table(sin_again)):
                continue
            halves = [trail.settle(rows._in(v)) for v in (a, a_again, b, b_again)]
            low = halves[0]
            if halves != [low, low, low._after(half), low._after(half)]:
                continue
            if _are_tables(first, half, cos, sin, cos_again, sin_again):
                trail.computes(*ops, *more)
                return Prepared(low, None, Rotation(*tables, columns, half))
    return None


def _norm(found: Prepared, columns: int, trail: _Trail) -> Prepared | None:
    """Rows that are `x * rsqrt(mean(x * x) + epsilon)`, by weights or not."""
    rows = found.source
    if rows._whole_columns(columns) != len(rows.starts) - 1:
        return None
    norm = rms_norm(rows.value)
    if norm is None:
        return None
    trail.computes(*norm.ops)
    return Prepared(trail.settle(rows._in(norm.x)), norm, found.rotation)
