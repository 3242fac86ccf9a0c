"""A small writer of MLIR: a private function over tensors, grown operation by operation.

Values know their types and sizes, and Python's operators on them write operations, so that a
lowering reads as its formula. A `linalg.generic` is given by the letters of its operands' axes:

    f = Function("edgec.product", a=Tensor((None, 8), "f16"), b=Tensor((4, 8), "f16"))
    multiply = lambda a, b, sum: sum + a.to("f32") * b.to("f32")
    text = f.returns(f.generic("m k, n k -> m n", [f["a"], f["b"]], multiply, init=0.0))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Function", "Size", "Tensor", "Value"]

_FLOATS = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}
_INTEGERS = {"i1": 1, "i8": 8, "i32": 32, "i64": 64}


@dataclass(frozen=True)
class Tensor:
    """A tensor type; a dynamic dimension is None."""

    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        return self.builtin

    @property
    def builtin(self) -> str:
        """The type in the builtin dialect, as text: `tensor<1x?x64xf32>`."""
        dims = "".join(f"{'?' if d is None else d}x" for d in self.shape)
        return f"tensor<{dims}{self.dtype}>"

    @property
    def label(self) -> str:
        """The type as a part of a symbol's name: `1xdx64xf32`."""
        return self.builtin[len("tensor<") : -1].replace("?", "d")

    @property
    def rows(self) -> int | None:
        """The product of the leading dimensions; None where one is dynamic."""
        leading = [d for d in self.shape[:-1] if d is not None]
        return math.prod(leading) if len(leading) == len(self.shape) - 1 else None

    def of(self, dtype: str) -> Tensor:
        """The same shape of other elements."""
        return Tensor(self.shape, dtype)

    def with_dim(self, axis: int, size: int | None) -> Tensor:
        """The same type with another size along an axis."""
        shape = list(self.shape)
        shape[axis] = size
        return Tensor(tuple(shape), self.dtype)


class Value:
    """A value of a function: a tensor, or a number of type `type`.

    `+ - * / // % >> & |` write operations, unsigned ones on integers; Python's numbers become
    constants of the other operand's type. `x[i, j]` extracts an element.
    """

    def __init__(
        self,
        function: Function,
        name: str,
        type_: Tensor | str,
        sizes: Sequence[Size | None] | None = None,
    ) -> None:
        self._function = function
        self._name = name
        self._type = type_
        self._sizes = list(
            type_.shape if isinstance(type_, Tensor) and sizes is None else sizes or ()
        )

    def __str__(self) -> str:
        return self._name

    @property
    def tensor(self) -> Tensor:
        """The type of a tensor."""
        assert isinstance(self._type, Tensor)
        return self._type

    @property
    def dtype(self) -> str:
        """The type of a number, or of a tensor's elements."""
        return self._type.dtype if isinstance(self._type, Tensor) else self._type

    @property
    def type(self) -> str:
        """The type as text."""
        return self._type.builtin if isinstance(self._type, Tensor) else self._type

    @property
    def sized(self) -> str:
        """The type with its dynamic sizes, as `flow.dispatch` wants it: `tensor<?xf32>{%n}`."""
        dynamic = [i for i, d in enumerate(self.tensor.shape) if d is None]
        sizes = ", ".join(str(self.size(i)) for i in dynamic)
        return f"{self.type}{{{sizes}}}" if dynamic else self.type

    @property
    def sizes(self) -> list[Size]:
        """The sizes of all axes."""
        return [self.size(axis) for axis in range(len(self._sizes))]

    def size(self, axis: int) -> Size:
        """The size along an axis: a number, or a value of type index."""
        known = self._sizes[axis]
        if known is None:
            known = self._sizes[axis] = self._function._dim(self, axis)
        return known

    def known(self, size: Size) -> Value:
        """The tensor, whose dynamic sizes are all `size`."""
        sizes = [size if d is None else d for d in self.tensor.shape]
        return Value(self._function, self._name, self._type, sizes)

    def __getitem__(self, indices: Value | Size | tuple[Size, ...]) -> Value:
        f = self._function
        places = indices if isinstance(indices, tuple) else (indices,)
        text = ", ".join(str(f.const(i, "index")) for i in places)
        return f.op(f"tensor.extract {self}[{text}] : {self.type}", self.dtype)

    def __add__(self, other: Any) -> Value:
        return self._arith("addf", "addi", other)

    def __sub__(self, other: Any) -> Value:
        return self._arith("subf", "subi", other)

    def __mul__(self, other: Any) -> Value:
        return self._arith("mulf", "muli", other)

    def __truediv__(self, other: Any) -> Value:
        return self.arith("divf", other)

    def __rtruediv__(self, other: float) -> Value:
        return self._function.const(other, self.dtype) / self

    def __floordiv__(self, other: Any) -> Value:
        return self.arith("divui", other)

    def __mod__(self, other: Any) -> Value:
        return self.arith("remui", other)

    def __rshift__(self, other: Any) -> Value:
        return self.arith("shrui", other)

    def __and__(self, other: Any) -> Value:
        return self.arith("andi", other)

    def __or__(self, other: Any) -> Value:
        return self.arith("ori", other)

    def _arith(self, of_floats: str, of_integers: str, other: Any) -> Value:
        return self.arith(of_floats if self.dtype in _FLOATS else of_integers, other)

    def arith(self, name: str, other: Any) -> Value:
        """`arith.<name>` of this and another number."""
        f = self._function
        return f.op(f"arith.{name} {self}, {f.const(other, self.dtype)} : {self.type}", self.dtype)

    def math(self, name: str) -> Value:
        """`math.<name>` of a number."""
        return self._function.op(f"math.{name} {self} : {self.type}", self.dtype)

    def is_(self, predicate: str, other: Any) -> Value:
        """Compares two numbers by an MLIR predicate, such as `ult`."""
        f, kind = self._function, "cmpf" if self.dtype in _FLOATS else "cmpi"
        right = f.const(other, self.dtype)
        return f.op(f"arith.{kind} {predicate}, {self}, {right} : {self.type}", "i1")

    def choose(self, yes: Any, no: Any) -> Value:
        """One of two numbers, at least one of them a value, by this i1."""
        f = self._function
        dtype = next(v.dtype for v in (yes, no) if isinstance(v, Value))
        text = f"arith.select {self}, {f.const(yes, dtype)}, {f.const(no, dtype)} : {dtype}"
        return f.op(text, dtype)

    def to(self, dtype: str, *, signed: bool = True) -> Value:
        """The number in another type; itself where it has that type."""
        if self.dtype == dtype:
            return self
        name = _conversion(self.dtype, dtype, signed)
        return self._function.op(f"arith.{name} {self} : {self.type} to {dtype}", dtype)

    def bits(self) -> Value:
        """The bits of an f32, as an i32."""
        return self._function.op(f"arith.bitcast {self} : f32 to i32", "i32")


Size: TypeAlias = int | Value
_Body: TypeAlias = "Callable[..., Value | tuple[Value, ...]]"
_Init: TypeAlias = "Value | float"


def _conversion(source: str, target: str, signed: bool) -> str:
    if "index" in (source, target):
        return "index_cast"
    if source in _FLOATS and target in _FLOATS:
        return "extf" if _FLOATS[target] > _FLOATS[source] else "truncf"
    if source in _FLOATS or target in _FLOATS:
        return "fptosi" if source in _FLOATS else "sitofp"
    if _INTEGERS[target] < _INTEGERS[source]:
        return "trunci"
    return "extsi" if signed and source != "i1" else "extui"


def _static(size: Size) -> int | None:
    return size if isinstance(size, int) else None


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


class Function:
    """The text of a private function.

    Args:
        symbol: Its name.
        arguments: Their names and types; an argument of type None is left out.
    """

    def __init__(self, symbol: str, **arguments: Tensor | None) -> None:
        self._symbol = symbol
        self._head: list[str] = []
        self._lines: list[str] = []
        self._constants: dict[tuple[str, str], Value] = {}
        self._loops: list[str] = []
        self._count = 0
        self._arguments = {
            name: Value(self, f"%{name}", type_)
            for name, type_ in arguments.items()
            if type_ is not None
        }

    def __getitem__(self, name: str) -> Value:
        return self._arguments[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arguments

    def returns(self, *results: Value) -> str:
        """The text of the function, which returns `results`."""
        arguments = _list([f"{v}: {v.type}" for v in self._arguments.values()])
        types = _list([v.type for v in results])
        body = "\n  ".join([*self._head, *self._lines])
        return f"""
util.func private @"{self._symbol}"({arguments}) -> ({types}) {{
  {body}
  util.return {_list(results)} : {types}
}}"""

    def const(self, value: Value | float, type_: str) -> Value:
        """A constant of a number's type; a value is returned as it is."""
        if isinstance(value, Value):
            return value
        if type_ not in _FLOATS:
            text = str(int(value))
        elif math.isinf(value):
            text = "0x7F800000" if value > 0 else "0xFF800000"
        else:
            text = f"{value:.9e}"
        if (text, type_) not in self._constants:
            name = f"%c{len(self._constants)}"
            self._head.append(f"{name} = arith.constant {text} : {type_}")
            self._constants[text, type_] = Value(self, name, type_)
        return self._constants[text, type_]

    def op(
        self, text: str, type_: Tensor | str, sizes: Sequence[Size | None] | None = None
    ) -> Value:
        """The result of an operation that is given as text."""
        name = self._name()
        self._lines.append(f"{name} = {text}")
        return Value(self, name, type_, sizes)

    def several(self, text: str, like: Sequence[Value]) -> tuple[Value, ...]:
        """The results of an operation that is given as text, of types and sizes as `like`."""
        name, several = self._name(), len(like) > 1
        self._lines.append(f"{name}{f':{len(like)}' if several else ''} = {text}")
        return tuple(
            Value(self, f"{name}#{i}" if several else name, v._type, v._sizes or None)
            for i, v in enumerate(like)
        )

    def blank(self, dtype: str, sizes: Sequence[Size]) -> Value:
        """A tensor that is not made yet: for its type and sizes."""
        return Value(self, "", Tensor(tuple(map(_static, sizes)), dtype), sizes)

    def _name(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def _dim(self, tensor: Value, axis: int) -> Value:
        place, name = self.const(axis, "index"), self._name()
        argument = tensor in self._arguments.values()
        # Sizes of arguments are used everywhere.
        lines = self._head if argument else self._lines
        lines.append(f"{name} = tensor.dim {tensor}, {place} : {tensor.type}")
        return Value(self, name, "index")

    def position(self, start: Value, most: int | None = None) -> Value:
        """A scalar argument, i64, as an index that is known to be from 0 to `most`."""
        limit = "" if most is None else f", umax = {most}"
        index = start[()].to("index")
        return self.op(f"util.assume.int {index}<umin = 0{limit}> : index", "index")

    def empty(self, dtype: str, sizes: Sequence[Size]) -> Value:
        """A tensor without values."""
        type_ = Tensor(tuple(map(_static, sizes)), dtype)
        dynamic = _list([size for size in sizes if isinstance(size, Value)])
        return self.op(f"tensor.empty({dynamic}) : {type_.builtin}", type_, sizes)

    def fill(self, value: float, dtype: str, sizes: Sequence[Size]) -> Value:
        """A tensor of one number."""
        number, out = self.const(value, dtype), self.empty(dtype, sizes)
        text = f"linalg.fill ins({number} : {dtype}) outs({out} : {out.type}) -> {out.type}"
        return self.op(text, out.tensor, sizes)

    def broadcast(self, x: Value, axes: Sequence[int], sizes: Sequence[Size]) -> Value:
        """`x` repeated along new axes of a tensor of the given sizes."""
        out = self.empty(x.dtype, sizes)
        text = f"linalg.broadcast ins({x} : {x.type}) outs({out} : {out.type})"
        return self.op(f"{text} dimensions = [{_list(axes)}]", out.tensor, sizes)

    def collapse(self, x: Value, *groups: int) -> Value:
        """`x` with its axes joined in groups of so many."""
        sizes: list[Size | None] = []
        at = 0
        for count in groups:
            group = x.tensor.shape[at : at + count]
            static = [d for d in group if d is not None]
            one = x.size(at) if count == 1 else None
            sizes.append(one if len(static) < count else math.prod(static))
            at += count
        type_ = Tensor(tuple(s if isinstance(s, int) else None for s in sizes), x.dtype)
        places = _reassociation(groups)
        return self.op(
            f"tensor.collapse_shape {x} {places} : {x.type} into {type_.builtin}", type_, sizes
        )

    def expand(self, x: Value, *groups: Size | tuple[Size, ...]) -> Value:
        """`x` with some axes split: a tuple has the sizes that one becomes."""
        split = [group if isinstance(group, tuple) else (group,) for group in groups]
        sizes = [size for group in split for size in group]
        type_ = Tensor(tuple(map(_static, sizes)), x.dtype)
        places = _reassociation([len(group) for group in split])
        return self.op(
            f"tensor.expand_shape {x} {places} output_shape [{_list(sizes)}] "
            f": {x.type} into {type_.builtin}",
            type_,
            sizes,
        )

    def rows(self, x: Value) -> Value:
        """`x` as a matrix: its leading dimensions are one."""
        if len(x.tensor.shape) == 1:
            return self.expand(x, (1, x.size(0)))
        return self.collapse(x, len(x.tensor.shape) - 1, 1)

    def unrows(self, y: Value, x: Value) -> Value:
        """A matrix with the leading dimensions of `x` again."""
        *leading, _ = x.sizes
        return self.expand(y, tuple(leading), y.size(1)) if leading else self.collapse(y, 2)

    def slice(
        self,
        x: Value,
        offsets: Sequence[Size],
        sizes: Sequence[Size],
        drop: int | None = None,
    ) -> Value:
        """A part of a tensor.

        Args:
            x: The tensor.
            offsets: Where the part begins.
            sizes: How large it is.
            drop: An axis of size 1 that the result does not have.
        """
        kept = [size for axis, size in enumerate(sizes) if axis != drop]
        type_ = Tensor(tuple(map(_static, kept)), x.dtype)
        return self.op(
            f"tensor.extract_slice {x}[{_list(offsets)}] [{_list(sizes)}] "
            f"[{_list([1] * len(sizes))}] : {x.type} to {type_.builtin}",
            type_,
            kept,
        )

    def insert(self, x: Value, into: Value, offsets: Sequence[Size]) -> Value:
        """A tensor with `x` from `offsets` on, along its last axes."""
        ones = [1] * len(offsets)
        sizes = [*ones[len(x.tensor.shape) :], *x.sizes]
        return self.op(
            f"tensor.insert_slice {x} into {into}[{_list(offsets)}] [{_list(sizes)}] "
            f"[{_list(ones)}] : {x.type} into {into.type}",
            into.tensor,
            into.sizes,
        )

    def gather(self, x: Value, ids: Value) -> Value:
        """`x[ids]` along the first axis."""
        out = self.empty(x.dtype, [ids.size(0), *x.sizes[1:]])
        return self.op(
            f"iree_linalg_ext.gather dimension_map = [0] ins({x}, {ids} : {x.type}, {ids.type}) "
            f"outs({out} : {out.type}) -> {out.type}",
            out.tensor,
            out.sizes,
        )

    def convert(self, x: Value, dtype: str) -> Value:
        """A tensor's elements in another type; itself where they have it."""
        if x.dtype == dtype:
            return x
        axes = " ".join(f"d{i}" for i in range(len(x.tensor.shape)))
        return self.generic(f"{axes} -> {axes}", [x], lambda a: a.to(dtype), dtype=dtype)

    def index(self, loop: str) -> Value:
        """Within the body of a `generic`, the number of an iteration along an axis."""
        return self.op(f"linalg.index {self._loops.index(loop)} : index", "index")

    def generic(
        self,
        axes: str,
        ins: Sequence[Value],
        body: _Body,
        *,
        init: _Init | None = None,
        dtype: str = "f32",
        sizes: Mapping[str, Size] | None = None,
        attributes: str = "",
    ) -> Value:
        """A `linalg.generic` with one result, see `generics`."""
        inits = None if init is None else (init,)
        return self.generics(
            axes, ins, body, inits=inits, dtypes=(dtype,), sizes=sizes, attributes=attributes
        )[0]

    def generics(
        self,
        axes: str,
        ins: Sequence[Value],
        body: _Body,
        *,
        inits: Sequence[_Init | None] | None = None,
        dtypes: Sequence[str] = (),
        sizes: Mapping[str, Size] | None = None,
        reduced: str = "",
        attributes: str = "",
    ) -> tuple[Value, ...]:
        """The results of a `linalg.generic`.

        Axes that no result has are reduced. The loops are in the order of the results' axes, then
        of those that are reduced.

        Args:
            axes: The names of each operand's axes: `m k, n k -> m n`.
            ins: What is read.
            body: Computes an element of each result from one of each operand, and from what the
                results are so far, where they have an initial value.
            inits: Of each result, a number or a tensor; None for none.
            dtypes: Of each result, where its initial value is not a tensor.
            sizes: Of axes that `ins` do not have.
            reduced: Axes that are run through in order though a result has them.
            attributes: More of the operation's attributes.
        """
        left, _, right = axes.partition("->")
        read = [part.split() for part in left.split(",")] if left.strip() else []
        written = [part.split() for part in right.split(",")]
        known = dict(sizes or {})
        for names, value in zip(read, ins, strict=True):
            for name, axis in zip(names, range(len(value.tensor.shape)), strict=True):
                if name not in known:
                    known[name] = value.size(axis)
        results = {name: None for names in written for name in names if name not in reduced.split()}
        loops = list(dict.fromkeys([*results, *(n for part in read for n in part)]))
        kinds = ['"parallel"' if name in results else '"reduction"' for name in loops]
        starts = inits or [None] * len(written)
        types = dtypes or [""] * len(written)
        outs = []
        for names, start, dtype in zip(written, starts, types, strict=True):
            shape = [known[name] for name in names] if not isinstance(start, Value) else []
            if isinstance(start, Value):
                outs.append(start)
            elif start is None:
                outs.append(self.empty(dtype, shape))
            else:
                outs.append(self.fill(start, dtype, shape))
        maps = [f"affine_map<({_list(loops)}) -> ({_list(names)})>" for names in [*read, *written]]
        given = f"ins({_list(ins)} : {_list([v.type for v in ins])}) " if ins else ""
        out_types = _list([v.type for v in outs])
        head = (
            f"linalg.generic {{indexing_maps = [{_list(maps)}], iterator_types = [{_list(kinds)}]}}"
            f" {given}outs({_list(outs)} : {out_types})"
            f"{f' attrs = {{{attributes}}}' if attributes else ''}"
        )
        passed = len(ins)
        hidden = [passed + i for i, start in enumerate(starts) if start is None]

        def compute(*elements: Value) -> Value | tuple[Value, ...]:
            return body(*(e for i, e in enumerate(elements) if i not in hidden))

        outer, self._loops = self._loops, loops
        made = self.region(
            head,
            [v.dtype for v in (*ins, *outs)],
            compute,
            "linalg.yield",
            f" -> {out_types}" if len(outs) == 1 else f" -> ({out_types})",
            outs,
        )
        self._loops = outer
        return made

    def region(
        self,
        head: str,
        arguments: Sequence[str],
        body: _Body,
        terminator: str,
        tail: str,
        like: Sequence[Value],
    ) -> tuple[Value, ...]:
        """The results of an operation with a region.

        Args:
            head: The operation up to its region.
            arguments: The types of the region's.
            body: Computes from them what the region yields.
            terminator: The operation that yields it.
            tail: What comes after the region.
            like: Values of the types and sizes of the results.
        """
        names = [Value(self, self._name(), type_) for type_ in arguments]
        block = f"^bb0({_list([f'{v}: {v.type}' for v in names])}):"
        inner = self._body(body, names, terminator)
        return self.several(f"{head} {{\n  {block}\n    {inner}\n  }}{tail}", like)

    def loop(
        self, count: Size, inits: Sequence[Value], body: Callable[..., tuple[Value, ...]]
    ) -> tuple[Value, ...]:
        """The results of an `scf.for` from 0 to `count`, whose body also gets its number."""
        carried = [Value(self, self._name(), v._type, v._sizes or None) for v in inits]
        zero, one, end = (self.const(n, "index") for n in (0, 1, count))
        index = Value(self, self._name(), "index")
        inner = self._body(body, [index, *carried], "scf.yield")
        passed = _list([f"{name} = {start}" for name, start in zip(carried, inits, strict=True)])
        types = _list([v.type for v in inits])
        head = f"scf.for {index} = {zero} to {end} step {one} iter_args({passed}) -> ({types})"
        return self.several(f"{head} {{\n    {inner}\n  }}", inits)

    def _body(self, body: _Body, arguments: Sequence[Value], terminator: str) -> str:
        outer, self._lines = self._lines, []
        made = body(*arguments)
        yielded = made if isinstance(made, tuple) else (made,)
        lines = [
            *self._lines,
            f"{terminator} {_list(yielded)} : {_list([v.type for v in yielded])}",
        ]
        self._lines = outer
        return "\n".join(lines).replace("\n", "\n    ")


def _reassociation(groups: Sequence[int]) -> str:
    places, at = [], 0
    for count in groups:
        places.append(f"[{_list(range(at, at + count))}]")
        at += count
    return f"[{_list(places)}]"
