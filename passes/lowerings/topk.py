"""`lower-topk`: `edgec::topk` by counting, in plain contractions that every target compiles.

An element's rank is the number of elements that come before it: the larger ones, and the equal
ones with a smaller index. Rank r goes to place r. That is n² comparisons, all independent, and
for a router's few experts nothing beats it.

A vocabulary is cut into blocks first. The k largest elements lie in the k blocks whose maxima
come first: any other block has k blocks before it, each with an element that comes before all of
its own. So the blocks are chosen by their maxima, in the same way, and only their elements are
ranked. For 151,936 logits and k = 50 that is two million comparisons in all.

The comparisons are reductions with `form=cpu`, which vectorise there. Elsewhere they are loops in
an element-wise operation, one thread for an element: code generation for Vulkan fails on some
sizes of such reductions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from iree.compiler import ir

from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    constant_int,
    custom_ops,
    insert_function,
    parse_torch_tensor,
    symbol_name,
)

__all__ = ["LowerTopk"]

DIRECT = 1024
"""Up to this many elements are ranked without cutting them into blocks."""


@dataclass(frozen=True)
class LowerTopk:
    """The pass; `form` is cpu or loop."""

    form: str = "loop"

    def run(self, module: ir.Module) -> None:
        if self.form not in ("cpu", "loop"):
            raise ValueError(f"form '{self.form}': must be cpu or loop")
        for op in custom_ops(module, "topk"):
            x = parse_torch_tensor(op.operands[0].type)
            k = constant_int(op.operands[1])
            n = x.shape[-1]
            if n is None or not 0 < k <= n or x.dtype != "f32":
                raise ValueError(f"edgec::topk: {k} of {x.builtin}")
            symbol = symbol_name("topk", x, f"k{k}")
            insert_function(module, symbol, _template(symbol, x, k, self.form))
            shape = (*x.shape[:-1], k)
            results = TorchTensor(shape, "f32"), TorchTensor(shape, "i64")
            call_template(op, symbol, [op.operands[0]], *results)


def _template(symbol: str, x: TorchTensor, k: int, form: str) -> str:
    leading, n = x.shape[:-1], x.shape[-1]
    assert n is not None
    m: int | None = 1
    for d in leading:
        m = None if d is None or m is None else m * d
    rows = "?" if m is None else str(m)
    axes = (
        "[]" if not leading else f"[[{', '.join(map(str, range(len(leading))))}], [{len(leading)}]]"
    )
    flat = f"tensor<{rows}x{n}xf32>"
    body = _Body(rows, form)
    values, indices = body.topk("%flat", n, k)
    dims = "\n".join(
        f"  %i{i} = arith.constant {i} : index\n  %d{i} = tensor.dim %x, %i{i} : {x.builtin}"
        for i, d in enumerate(leading)
        if d is None
    )
    sizes = [f"%d{i}" if d is None else str(d) for i, d in enumerate(leading)]
    shape = (*leading, k)
    v, i = TorchTensor(shape, "f32").builtin, TorchTensor(shape, "i64").builtin
    flatten, restore = f"%flat = tensor.collapse_shape %x {axes} : {x.builtin} into {flat}", ""
    for name, source, element, type_ in (
        ("values", values, "f32", v),
        ("indices", "%wide", "i64", i),
    ):
        narrow = f"tensor<{rows}x{k}x{element}>"
        if leading:
            restore += f"""  %{name} = tensor.expand_shape {source} {axes}
      output_shape [{", ".join([*sizes, str(k)])}] : {narrow} into {type_}
"""
        else:
            restore += (
                f"  %{name} = tensor.collapse_shape {source} [[0, 1]] : {narrow} into {type_}\n"
            )
    if not leading:
        flatten = f"""%flat = tensor.expand_shape %x [[0, 1]] output_shape [1, {n}]
      : {x.builtin} into {flat}"""
    return f"""
util.func private @"{symbol}"(%x: {x.builtin}) -> ({v}, {i}) {{
{dims}
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0 : i32
  %minus_infinity = arith.constant 0xFF800000 : f32
  {flatten}
  %rows = tensor.dim %flat, %c0 : {flat}
{"".join(body.lines)}
  %wide_empty = tensor.empty({body.size}) : tensor<{rows}x{k}xi64>
  %wide = linalg.generic {{
      indexing_maps = [affine_map<(m, r) -> (m, r)>, affine_map<(m, r) -> (m, r)>],
      iterator_types = ["parallel", "parallel"]
    }} ins({indices} : tensor<{rows}x{k}xi32>) outs(%wide_empty : tensor<{rows}x{k}xi64>) {{
  ^bb0(%a: i32, %unused: i64):
    %w = arith.extui %a : i32 to i64
    linalg.yield %w : i64
  }} -> tensor<{rows}x{k}xi64>
{restore}
  util.return %values, %indices : {v}, {i}
}}"""


@dataclass
class _Body:
    """The text of a function over `rows` rows, grown operation by operation."""

    rows: str
    form: str
    lines: list[str] = field(default_factory=list)
    count: int = 0

    @property
    def size(self) -> str:
        return "%rows" if self.rows == "?" else ""

    def topk(self, x: str, n: int, k: int) -> tuple[str, str]:
        """Values f32 `[rows, k]` and indices i32 `[rows, k]` of `x`, f32 `[rows, n]`."""
        block = _block(n, k)
        if block == 1:
            return self._direct(x, n, k)
        blocks = -(-n // block)
        maxima = self._maxima(x, n, block, blocks)
        _, chosen = self.topk(maxima, blocks, k)
        # In order of index, so that equal elements keep their order.
        chosen = self._ascending(chosen, k)
        candidates = self._gather(x, n, chosen, block, k)
        values, places = self.topk(candidates, k * block, k)
        return values, self._original(chosen, places, block, k)

    def _direct(self, x: str, n: int, k: int) -> tuple[str, str]:
        elements = self._type(n, "f32")
        ranks = self._reduce(
            self._type(n, "i32"),
            n,
            [("%a", x, elements, True), ("%b", x, elements, False)],
            "%zero : i32",
            """    %larger = arith.cmpf ogt, %b, %a : f32
    %equal = arith.cmpf oeq, %b, %a : f32
    %earlier = arith.cmpi slt, %inner32, %outer32 : i32
    %tied = arith.andi %equal, %earlier : i1
    %before = arith.ori %larger, %tied : i1
    %one = arith.extui %before : i1 to i32
    %next = arith.addi %acc, %one : i32
""",
        )
        ranked = ("%rank", ranks, self._type(n, "i32"), False)
        indices = self._reduce(
            self._type(k, "i32"),
            n,
            [ranked],
            "%zero : i32",
            """    %here = arith.cmpi eq, %rank, %outer32 : i32
    %index = arith.select %here, %inner32, %zero : i32
    %next = arith.addi %acc, %index : i32
""",
        )
        values = self._reduce(
            self._type(k, "f32"),
            n,
            [ranked, ("%a", x, elements, False)],
            "%minus_infinity : f32",
            """    %here = arith.cmpi eq, %rank, %outer32 : i32
    %value = arith.select %here, %a, %minus_infinity : f32
    %next = arith.maximumf %acc, %value : f32
""",
        )
        return values, indices

    def _maxima(self, x: str, n: int, block: int, blocks: int) -> str:
        """The largest element of each block, f32 `[rows, blocks]`."""
        padded = blocks * block
        name, type_ = x, self._type(n, "f32")
        if padded != n:
            name, type_ = self._name(), self._type(padded, "f32")
            self.lines.append(f"""  {name} = tensor.pad {x} low[0, 0] high[0, {padded - n}] {{
  ^bb0(%row: index, %column: index):
    tensor.yield %minus_infinity : f32
  }} : {self._type(n, "f32")} to {type_}
""")
        cut, blocked = self._name(), f"tensor<{self.rows}x{blocks}x{block}xf32>"
        self.lines.append(f"""  {cut} = tensor.expand_shape {name} [[0], [1, 2]]
      output_shape [{self.size or self.rows}, {blocks}, {block}] : {type_} into {blocked}
""")
        return self._generic(
            self._type(blocks, "f32"),
            [("%a", cut, blocked, "(m, b, c) -> (m, b, c)")],
            "(m, b, c) -> (m, b)",
            "%minus_infinity : f32",
            """    %next = arith.maximumf %a, %acc : f32
""",
        )

    def _ascending(self, indices: str, k: int) -> str:
        """The chosen blocks, i32 `[rows, k]`, in order of their index."""
        type_ = self._type(k, "i32")
        places = self._reduce(
            type_,
            k,
            [("%a", indices, type_, True), ("%b", indices, type_, False)],
            "%zero : i32",
            """    %smaller = arith.cmpi slt, %b, %a : i32
    %one = arith.extui %smaller : i1 to i32
    %next = arith.addi %acc, %one : i32
""",
        )
        return self._reduce(
            type_,
            k,
            [("%place", places, type_, False), ("%index", indices, type_, False)],
            "%zero : i32",
            """    %here = arith.cmpi eq, %place, %outer32 : i32
    %kept = arith.select %here, %index, %zero : i32
    %next = arith.addi %acc, %kept : i32
""",
        )

    def _gather(self, x: str, n: int, chosen: str, block: int, k: int) -> str:
        """The elements of the chosen blocks, f32 `[rows, k * block]`."""
        blocked = f"tensor<{self.rows}x{k}x{block}xf32>"
        gathered = self._generic(
            blocked,
            [("%b", chosen, self._type(k, "i32"), "(m, r, c) -> (m, r)")],
            "(m, r, c) -> (m, r, c)",
            "",
            f"""    %m = linalg.index 0 : index
    %c = linalg.index 2 : index
    %size = arith.constant {block} : index
    %last = arith.constant {n - 1} : index
    %index = arith.index_cast %b : i32 to index
    %start = arith.muli %index, %size : index
    %at = arith.addi %start, %c : index
    %safe = arith.minui %at, %last : index
    %value = tensor.extract {x}[%m, %safe] : {self._type(n, "f32")}
    %inside = arith.cmpi ule, %at, %last : index
    %next = arith.select %inside, %value, %minus_infinity : f32
""",
        )
        flat = self._name()
        self.lines.append(f"""  {flat} = tensor.collapse_shape {gathered} [[0], [1, 2]]
      : {blocked} into {self._type(k * block, "f32")}
""")
        return flat

    def _original(self, chosen: str, places: str, block: int, k: int) -> str:
        """The index in the whole of an element of the candidates, i32 `[rows, k]`."""
        type_ = self._type(k, "i32")
        return self._generic(
            type_,
            [("%place", places, type_, "(m, r) -> (m, r)")],
            "(m, r) -> (m, r)",
            "",
            f"""    %m = linalg.index 0 : index
    %size = arith.constant {block} : i32
    %which = arith.divui %place, %size : i32
    %offset = arith.remui %place, %size : i32
    %which_index = arith.index_cast %which : i32 to index
    %b = tensor.extract {chosen}[%m, %which_index] : {type_}
    %start = arith.muli %b, %size : i32
    %next = arith.addi %start, %offset : i32
""",
        )

    def _reduce(
        self,
        type_: str,
        n: int,
        inputs: list[tuple[str, str, str, bool]],
        initial: str,
        body: str,
    ) -> str:
        """Adds `result[m, outer] = reduce over inner < n`, a reduction or a loop.

        Args:
            type_: Of the result.
            n: How many are reduced.
            inputs: Name in the body, tensor, type, and whether it is read at [m, outer] instead
                of at [m, inner].
            initial: Value and type of the accumulator.
            body: Computes `%next` from the inputs, `%acc`, `%outer32` and `%inner32`.
        """
        outer = """    %outer = linalg.index 1 : index
    %outer32 = arith.index_cast %outer : index to i32
"""
        inner = "    %inner32 = arith.index_cast %inner : index to i32\n"
        if self.form == "cpu":
            maps = [
                (name, tensor, t, f"(m, i, j) -> (m, {'i' if at_outer else 'j'})")
                for name, tensor, t, at_outer in inputs
            ]
            body = f"{outer}    %inner = linalg.index 2 : index\n{inner}{body}"
            return self._generic(type_, maps, "(m, i, j) -> (m, i)", initial, body)
        value, element = initial.split(" : ")
        extracted = "".join(
            f"    {name} = tensor.extract {tensor}[%m, %inner] : {t}\n"
            for name, tensor, t, at_outer in inputs
            if not at_outer
        )
        loop = f"""    %m = linalg.index 0 : index
    %n = arith.constant {n} : index
{outer}    %total = scf.for %inner = %c0 to %n step %c1 iter_args(%acc = {value}) -> ({element}) {{
{inner}{extracted}{body}    scf.yield %next : {element}
    }}
"""
        maps = [(name, x, t, "(m, i) -> (m, i)") for name, x, t, at_outer in inputs if at_outer]
        return self._generic(type_, maps, "(m, i) -> (m, i)", "", loop, result="%total")

    def _name(self) -> str:
        self.count += 1
        return f"%t{self.count}"

    def _type(self, n: int, element: str) -> str:
        return f"tensor<{self.rows}x{n}x{element}>"

    def _generic(
        self,
        type_: str,
        inputs: list[tuple[str, str, str, str]],
        output_map: str,
        initial: str,
        body: str,
        result: str = "%next",
    ) -> str:
        """Adds a `linalg.generic`; with an initial value, its last dimension is reduced.

        Args:
            type_: Of the result.
            inputs: Name in the body, tensor, type and affine map.
            output_map: The result's affine map.
            initial: Value and type of the accumulator, `%acc` in the body; empty for none.
            body: Computes `result`.
            result: A name in the body.
        """
        name = self._name()
        domain = output_map.partition(" -> ")[0].strip("()").split(", ")
        iterators = ['"parallel"'] * len(domain)
        start = f"{name}_empty"
        text = f"  {start} = tensor.empty({self.size}) : {type_}\n"
        if initial:
            iterators[-1] = '"reduction"'
            start = f"{name}_init"
            text += f"""  {start} = linalg.fill ins({initial}) outs({name}_empty : {type_})
      -> {type_}
"""
        maps = ", ".join(f"affine_map<{m}>" for m in [*(m for *_, m in inputs), output_map])
        element = type_[type_.rindex("x") + 1 : -1]
        arguments = [(n, t[t.rindex("x") + 1 : -1]) for n, _, t, _ in inputs]
        arguments.append(("%acc" if initial else "%unused", element))
        ins = ", ".join(tensor for _, tensor, _, _ in inputs)
        types = ", ".join(t for _, _, t, _ in inputs)
        self.lines.append(f"""{text}  {name} = linalg.generic {{
      indexing_maps = [{maps}],
      iterator_types = [{", ".join(iterators)}]
    }} {f"ins({ins} : {types})" if inputs else ""} outs({start} : {type_}) {{
  ^bb0({", ".join(f"{n}: {t}" for n, t in arguments)}):
{body}    linalg.yield {result} : {element}
  }} -> {type_}
""")
        return name


def _block(n: int, k: int) -> int:
    """Elements in a block, or 1 where blocks do not pay: their candidates must be fewer than n."""
    if n <= DIRECT:
        return 1
    block = 1
    while n // block > DIRECT and k * block * 4 <= n // 2:
        block *= 2
    return block
