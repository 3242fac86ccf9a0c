"""`lower-topk`: `edgec::topk` by counting, in plain contractions that every target compiles.

An element's rank is the number of elements that come before it: the larger ones, and the equal
ones with a smaller index. Rank r goes to place r. That is n² comparisons, all independent, and
for a router's few experts nothing beats it.

A vocabulary is cut into blocks first. The k largest elements lie in the k blocks whose maxima
come first: any other block has k blocks before it, each with an element that comes before all of
its own. So the blocks are chosen by their maxima, in the same way, and only their elements are
ranked. For 151,936 logits and k = 50 that is two million comparisons in all.
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
    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "topk"):
            x = parse_torch_tensor(op.operands[0].type)
            k = constant_int(op.operands[1])
            n = x.shape[-1]
            if n is None or not 0 < k <= n or x.dtype != "f32":
                raise ValueError(f"edgec::topk: {k} of {x.builtin}")
            symbol = symbol_name("topk", x, f"k{k}")
            insert_function(module, symbol, _template(symbol, x, k))
            shape = (*x.shape[:-1], k)
            results = TorchTensor(shape, "f32"), TorchTensor(shape, "i64")
            call_template(op, symbol, [op.operands[0]], *results)


def _template(symbol: str, x: TorchTensor, k: int) -> str:
    leading, n = x.shape[:-1], x.shape[-1]
    assert n is not None
    m: int | None = 1
    for d in leading:
        m = None if d is None or m is None else m * d
    rows = "?" if m is None else str(m)
    axes = "[]" if not leading else f"[[{', '.join(map(str, range(len(leading))))}], [{len(leading)}]]"
    flat = f"tensor<{rows}x{n}xf32>"
    body = _Body(rows)
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
            restore += f"  %{name} = tensor.collapse_shape {source} [[0, 1]] : {narrow} into {type_}\n"
    if not leading:
        flatten = f"%flat = tensor.expand_shape %x [[0, 1]] output_shape [1, {n}] : {x.builtin} into {flat}"
    return f"""
util.func private @"{symbol}"(%x: {x.builtin}) -> ({v}, {i}) {{
{dims}
  %c0 = arith.constant 0 : index
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
        ranks = self._generic(
            f"tensor<{self.rows}x{n}xi32>",
            [(x, f"tensor<{self.rows}x{n}xf32>", "(m, i, j) -> (m, i)")]
            + [(x, f"tensor<{self.rows}x{n}xf32>", "(m, i, j) -> (m, j)")],
            "(m, i, j) -> (m, i)",
            "%zero : i32",
            """  ^bb0(%a: f32, %b: f32, %sum: i32):
    %i = linalg.index 1 : index
    %j = linalg.index 2 : index
    %i32 = arith.index_cast %i : index to i32
    %j32 = arith.index_cast %j : index to i32
    %larger = arith.cmpf ogt, %b, %a : f32
    %equal = arith.cmpf oeq, %b, %a : f32
    %earlier = arith.cmpi slt, %j32, %i32 : i32
    %tied = arith.andi %equal, %earlier : i1
    %before = arith.ori %larger, %tied : i1
    %one = arith.extui %before : i1 to i32
    %s = arith.addi %sum, %one : i32
    linalg.yield %s : i32
""",
        )
        place = """    %r = linalg.index 1 : index
    %r32 = arith.index_cast %r : index to i32
    %here = arith.cmpi eq, %rank, %r32 : i32
"""
        ranked = (ranks, f"tensor<{self.rows}x{n}xi32>", "(m, r, i) -> (m, i)")
        indices = self._generic(
            f"tensor<{self.rows}x{k}xi32>",
            [ranked],
            "(m, r, i) -> (m, r)",
            "%zero : i32",
            f"""  ^bb0(%rank: i32, %sum: i32):
{place}    %i = linalg.index 2 : index
    %i32 = arith.index_cast %i : index to i32
    %index = arith.select %here, %i32, %zero : i32
    %s = arith.addi %sum, %index : i32
    linalg.yield %s : i32
""",
        )
        values = self._generic(
            f"tensor<{self.rows}x{k}xf32>",
            [ranked, (x, f"tensor<{self.rows}x{n}xf32>", "(m, r, i) -> (m, i)")],
            "(m, r, i) -> (m, r)",
            "%minus_infinity : f32",
            f"""  ^bb0(%rank: i32, %a: f32, %best: f32):
{place}    %value = arith.select %here, %a, %minus_infinity : f32
    %larger = arith.maximumf %best, %value : f32
    linalg.yield %larger : f32
""",
        )
        return values, indices

    def _maxima(self, x: str, n: int, block: int, blocks: int) -> str:
        padded = blocks * block
        name, type_ = x, f"tensor<{self.rows}x{n}xf32>"
        if padded != n:
            name, type_ = self._name(), f"tensor<{self.rows}x{padded}xf32>"
            self.lines.append(f"""  {name} = tensor.pad {x} low[0, 0] high[0, {padded - n}] {{
  ^bb0(%row: index, %column: index):
    tensor.yield %minus_infinity : f32
  }} : tensor<{self.rows}x{n}xf32> to {type_}
""")
        cut, blocked = self._name(), f"tensor<{self.rows}x{blocks}x{block}xf32>"
        self.lines.append(f"""  {cut} = tensor.expand_shape {name} [[0], [1, 2]]
      output_shape [{self.size or self.rows}, {blocks}, {block}] : {type_} into {blocked}
""")
        return self._generic(
            f"tensor<{self.rows}x{blocks}xf32>",
            [(cut, blocked, "(m, b, c) -> (m, b, c)")],
            "(m, b, c) -> (m, b)",
            "%minus_infinity : f32",
            """  ^bb0(%a: f32, %best: f32):
    %larger = arith.maximumf %a, %best : f32
    linalg.yield %larger : f32
""",
        )

    def _ascending(self, indices: str, k: int) -> str:
        type_ = f"tensor<{self.rows}x{k}xi32>"
        places = self._generic(
            type_,
            [(indices, type_, "(m, i, j) -> (m, i)"), (indices, type_, "(m, i, j) -> (m, j)")],
            "(m, i, j) -> (m, i)",
            "%zero : i32",
            """  ^bb0(%a: i32, %b: i32, %sum: i32):
    %smaller = arith.cmpi slt, %b, %a : i32
    %one = arith.extui %smaller : i1 to i32
    %s = arith.addi %sum, %one : i32
    linalg.yield %s : i32
""",
        )
        return self._generic(
            type_,
            [(places, type_, "(m, r, i) -> (m, i)"), (indices, type_, "(m, r, i) -> (m, i)")],
            "(m, r, i) -> (m, r)",
            "%zero : i32",
            """  ^bb0(%place: i32, %index: i32, %sum: i32):
    %r = linalg.index 1 : index
    %r32 = arith.index_cast %r : index to i32
    %here = arith.cmpi eq, %place, %r32 : i32
    %kept = arith.select %here, %index, %zero : i32
    %s = arith.addi %sum, %kept : i32
    linalg.yield %s : i32
""",
        )

    def _gather(self, x: str, n: int, chosen: str, block: int, k: int) -> str:
        blocked = f"tensor<{self.rows}x{k}x{block}xf32>"
        gathered = self._generic(
            blocked,
            [(chosen, f"tensor<{self.rows}x{k}xi32>", "(m, r, c) -> (m, r)")],
            "(m, r, c) -> (m, r, c)",
            "",
            f"""  ^bb0(%b: i32, %unused: f32):
    %m = linalg.index 0 : index
    %c = linalg.index 2 : index
    %size = arith.constant {block} : index
    %last = arith.constant {n - 1} : index
    %index = arith.index_cast %b : i32 to index
    %start = arith.muli %index, %size : index
    %at = arith.addi %start, %c : index
    %safe = arith.minui %at, %last : index
    %value = tensor.extract {x}[%m, %safe] : tensor<{self.rows}x{n}xf32>
    %inside = arith.cmpi ule, %at, %last : index
    %kept = arith.select %inside, %value, %minus_infinity : f32
    linalg.yield %kept : f32
""",
        )
        flat = self._name()
        self.lines.append(f"""  {flat} = tensor.collapse_shape {gathered} [[0], [1, 2]]
      : {blocked} into tensor<{self.rows}x{k * block}xf32>
""")
        return flat

    def _original(self, chosen: str, places: str, block: int, k: int) -> str:
        """The index in the whole of an element of the candidates."""
        type_ = f"tensor<{self.rows}x{k}xi32>"
        return self._generic(
            type_,
            [(places, type_, "(m, r) -> (m, r)")],
            "(m, r) -> (m, r)",
            "",
            f"""  ^bb0(%place: i32, %unused: i32):
    %m = linalg.index 0 : index
    %size = arith.constant {block} : i32
    %which = arith.divui %place, %size : i32
    %offset = arith.remui %place, %size : i32
    %which_index = arith.index_cast %which : i32 to index
    %b = tensor.extract {chosen}[%m, %which_index] : {type_}
    %start = arith.muli %b, %size : i32
    %at = arith.addi %start, %offset : i32
    linalg.yield %at : i32
""",
        )

    def _name(self) -> str:
        self.count += 1
        return f"%t{self.count}"

    def _generic(
        self,
        type_: str,
        inputs: list[tuple[str, str, str]],
        output_map: str,
        initial: str,
        body: str,
    ) -> str:
        """Adds a `linalg.generic`; with an initial value, its last dimension is reduced."""
        result = self._name()
        domain = output_map.partition(" -> ")[0].strip("()").split(", ")
        iterators = ['"parallel"'] * len(domain)
        start = f"{result}_empty"
        text = f"  {start} = tensor.empty({self.size}) : {type_}\n"
        if initial:
            iterators[-1] = '"reduction"'
            text += f"  {result}_init = linalg.fill ins({initial}) outs({start} : {type_}) -> {type_}\n"
            start = f"{result}_init"
        maps = ", ".join(f"affine_map<{m}>" for m in [*(m for _, _, m in inputs), output_map])
        self.lines.append(f"""{text}  {result} = linalg.generic {{
      indexing_maps = [{maps}],
      iterator_types = [{", ".join(iterators)}]
    }} ins({", ".join(n for n, _, _ in inputs)} : {", ".join(t for _, t, _ in inputs)})
      outs({start} : {type_}) {{
{body}  }} -> {type_}
""")
        return result


def _block(n: int, k: int) -> int:
    """Elements in a block, or 1 where blocks do not pay: their candidates must be fewer than n."""
    if n <= DIRECT:
        return 1
    block = 1
    while n // block > DIRECT and k * block * 4 <= n // 2:
        block *= 2
    return block
