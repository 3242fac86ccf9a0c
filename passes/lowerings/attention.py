"""`lower-attention`: `edgec::attention` as two contractions around a softmax.

Only the rows that the block can see are read, rounded up to a multiple of 32: the work follows the
depth of the sequence, not the capacity of its cache, and the length keeps the divisibility that
code generation wants. Grouped query heads read each key and value once; nothing is repeated. The
sum of the softmax divides the product, not the weights, which is `value_width` divisions for each
query instead of one for each row.

With a window the cache may be a ring, position p in row `p % capacity`. Where the rows that the
block can see go past its end and on at row 0, all of it is read, in the order in which it lies: a
softmax does not care, and whether a query sees a row follows from the position that the row holds.

With `kernel=<level>` the forms that the level's kernel takes become dispatches of it (see
`edgec.passes.kernels.attention`); the others stay contractions.

With `compute=cache` both contractions of a block of tokens multiply in the cache's type, into f32
sums: over a 16-bit cache that is what tensor cores do. The softmax and its sum stay f32.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.kernels.attention import (
    AttentionShape,
    attention_fits,
    attention_template,
    parse_attention,
)
from edgec.passes.limits import CACHE_BLOCK, LONGEST
from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    convert_elements,
    custom_ops,
    insert_function,
    is_none,
    symbol_name,
)

__all__ = ["LowerAttention"]


@dataclass(frozen=True)
class _Case(AttentionShape):
    """One form of the operator, and the type of the contractions' factors."""

    factor: str = "f32"


@dataclass(frozen=True)
class LowerAttention:
    """Instantiates one function for each form of the operator in the module.

    Attributes:
        compute: The type of the contractions' factors: `activations` or `cache`.
        kernel: `generic`, or the feature level whose kernels are linked in.
    """

    compute: str = "activations"
    kernel: str = "generic"

    def __post_init__(self) -> None:
        if self.compute not in ("activations", "cache"):
            raise ValueError(f"compute={self.compute}: must be activations or cache")

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "attention"):
            query, key, value, start, sinks, _, _, _, *scales = op.operands
            shape = parse_attention(op)
            narrow = self.compute == "cache" and shape.query.shape[2] != 1 and not shape.scaled
            case = _Case(**vars(shape), factor=shape.key.dtype if narrow else "f32")
            if case.window and (case.key.shape[0] or 0) % CACHE_BLOCK:
                rows = case.key.builtin
                raise ValueError(f"attention: a ring not in blocks of {CACHE_BLOCK} rows: {rows}")
            fused = self.kernel != "generic" and attention_fits(case)
            symbol = symbol_name(
                f"attention.{self.kernel}" if fused else "attention",
                *(case.query, case.key, case.value),
                f"scale{case.scale!r}_window{case.window}_softcap{case.softcap!r}",
                "sinks" if case.sinks else "",
                "" if case.factor == "f32" else case.factor,
            )
            if fused:
                text = attention_template(symbol, case, self.kernel)
            else:
                text = _template(symbol, case)
            insert_function(module, symbol, text)
            operands = [v for v in (query, key, value, start, sinks, *scales) if not is_none(v)]
            call_template(op, symbol, operands, case.result)


def _template(symbol: str, case: _Case) -> str:
    _, query_heads, length, width = case.query.shape
    capacity, heads, value_width = case.key.shape[0], case.key.shape[1], case.value.shape[2]
    if query_heads is None or heads is None or capacity is None:
        raise ValueError(f"attention: heads and capacity must be static, got {case.key.builtin}")
    group = query_heads // heads
    dynamic = length is None
    n = "?" if dynamic else length
    tokens = "%tokens" if dynamic else length
    comma, only = ("%tokens, ", "%tokens") if dynamic else ("", "")
    kv = "f32" if case.scaled else case.key.dtype
    queries = f"tensor<{heads}x{group}x{n}x{width}xf32>"
    keys, values = f"tensor<?x{heads}x{width}x{kv}>", f"tensor<?x{heads}x{value_width}x{kv}>"
    scores, rows = f"tensor<{heads}x{group}x{n}x?xf32>", f"tensor<{heads}x{group}x{n}xf32>"
    sums = f"tensor<{heads}x{group}x{n}x{value_width}xf32>"
    out = f"tensor<{n}x{heads}x{group}x{value_width}xf32>"
    flat = f"tensor<{query_heads}x{n}x{width}xf32>"
    merged = f"tensor<{n}x{query_heads}x{value_width}xf32>"
    widen = "" if kv == "f32" else f"    %w = arith.extf %b : {kv} to f32\n"
    wide = "%b" if kv == "f32" else "%w"
    factor = case.factor
    left, narrow, rounded = "%a", "", "%queries"
    factors = queries.replace("f32>", f"{factor}>")
    probabilities = scores
    if factor != "f32":
        probabilities = f"tensor<{heads}x{group}x?x{n}x{CACHE_BLOCK}x{factor}>"
    if factor != "f32":
        widen += f"    %aw = arith.extf %a : {factor} to f32\n"
        left, rounded = "%aw", "%rounded"
        shape = (heads, group, length, width)
        narrow = convert_elements(rounded, "%queries", TorchTensor(shape, "f32"), factor, only)
    visible = _visible(case.window, case.softcap)
    longest = LONGEST if case.window else capacity
    arguments = f", %sinks: tensor<{query_heads}xf32>" if case.sinks else ""
    if case.scaled:
        factors_of_rows = f"tensor<{capacity}x{heads}xf32>"
        arguments += f", %key_scales: {factors_of_rows}, %value_scales: {factors_of_rows}"
    return f"""
#scores = affine_map<(h, g, l, m) -> (h, g, l, m)>
#rows = affine_map<(h, g, l, m) -> (h, g, l)>
util.func private @"{symbol}"(%query: {case.query.builtin}, %key: {case.key.builtin},
    %value: {case.value.builtin}, %start: tensor<i64>{arguments}) -> {case.result.builtin} {{
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  %block = arith.constant {CACHE_BLOCK} : index
  %round = arith.constant {CACHE_BLOCK - 1} : index
  %zero = arith.constant 0.0 : f32
  %minus_infinity = arith.constant 0xFF800000 : f32
  %scale = arith.constant {case.scale:e} : f32
  %tokens = tensor.dim %query, %c2 : {case.query.builtin}
  %start_i64 = tensor.extract %start[] : tensor<i64>
  %start_any = arith.index_cast %start_i64 : i64 to index
  %first = util.assume.int %start_any<umin = 0, umax = {longest}> : index
  %end = arith.addi %first, %tokens : index
{_span(case.window, capacity)}
  %span_rounded = arith.addi %span, %round : index
  %blocks = arith.divui %span_rounded, %block : index
  %depth = arith.muli %blocks, %block : index
{_rows("key", case.key, case.scaled)}
{_rows("value", case.value, case.scaled)}
  %flat = tensor.collapse_shape %query [[0, 1], [2], [3]] : {case.query.builtin} into {flat}
  %queries = tensor.expand_shape %flat [[0, 1], [2], [3]]
      output_shape [{heads}, {group}, {tokens}, {width}] : {flat} into {queries}
  %scores_empty = tensor.empty({comma}%depth) : {scores}
  %scores_zero = linalg.fill ins(%zero : f32) outs(%scores_empty : {scores}) -> {scores}
{narrow}
  %dot = linalg.generic {{
      indexing_maps = [affine_map<(h, g, l, m, d) -> (h, g, l, d)>,
                       affine_map<(h, g, l, m, d) -> (m, h, d)>,
                       affine_map<(h, g, l, m, d) -> (h, g, l, m)>],
      iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction"]
    }} ins({rounded}, %keys : {factors}, {keys}) outs(%scores_zero : {scores}) {{
  ^bb0(%a: {factor}, %b: {kv}, %sum: f32):
{widen}    %p = arith.mulf {left}, {wide} : f32
    %s = arith.addf %sum, %p : f32
    linalg.yield %s : f32
  }} -> {scores}
  %rows_empty = tensor.empty({only}) : {rows}
{_maximum_start(case.sinks, query_heads, heads, group, rows)}
  %maximum = linalg.generic {{
      indexing_maps = [#scores, #rows],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]
    }} ins(%dot : {scores}) outs(%maximum_start : {rows}) {{
  ^bb0(%a: f32, %b: f32):
{visible}
    %larger = arith.maximumf %visible, %b : f32
    linalg.yield %larger : f32
  }} -> {rows}
{_weights(case, scores, rows, probabilities, tokens)}
  %total_start = linalg.fill ins(%zero : f32) outs(%rows_empty : {rows}) -> {rows}
  %total = linalg.generic {{
      indexing_maps = [#scores, #rows, #rows],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]
    }} ins(%dot, %maximum : {scores}, {rows}) outs(%total_start : {rows}) {{
  ^bb0(%a: f32, %b: f32, %sum: f32):
{visible}
    %difference = arith.subf %visible, %b : f32
    %e = math.exp %difference : f32
    %s = arith.addf %sum, %e : f32
    linalg.yield %s : f32
  }} -> {rows}
  %sums_empty = tensor.empty({only}) : {sums}
  %sums_zero = linalg.fill ins(%zero : f32) outs(%sums_empty : {sums}) -> {sums}
{_weighted(case.factor != "f32", probabilities, values, sums, widen, left, wide, factor, kv)}
  %out_empty = tensor.empty({only}) : {out}
{_divide(case.sinks, sums, rows, out, f"tensor<{heads}x{group}xf32>")}
  %merged = tensor.collapse_shape %out [[0], [1, 2], [3]] : {out} into {merged}
  %result = tensor.expand_shape %merged [[0, 1], [2], [3]]
      output_shape [1, {tokens}, {query_heads}, {value_width}]
      : {merged} into {case.result.builtin}
  util.return %result : {case.result.builtin}
}}"""


def _rows(part: str, cache: TorchTensor, scaled: bool) -> str:
    """`%keys` or `%values`: the visible rows of the cache; those of an i8 one as f32."""
    heads, width = cache.shape[1], cache.shape[2]
    rows, name = f"tensor<?x{heads}x{width}x{cache.dtype}>", f"%{part}s"
    taken = f"{name}_i8" if scaled else name
    text = f"""  {taken} = tensor.extract_slice %{part}[%low, 0, 0] [%depth, {heads}, {width}]
      [1, 1, 1] : {cache.builtin} to {rows}"""
    if not scaled:
        return text
    wide, factors = f"tensor<?x{heads}x{width}xf32>", f"tensor<?x{heads}xf32>"
    element = "affine_map<(m, h, d) -> (m, h, d)>"
    return f"""{text}
  {name}_scales = tensor.extract_slice %{part}_scales[%low, 0] [%depth, {heads}] [1, 1]
      : tensor<{cache.shape[0]}x{heads}xf32> to {factors}
  {name}_empty = tensor.empty(%depth) : {wide}
  {name} = linalg.generic {{
      indexing_maps = [{element}, affine_map<(m, h, d) -> (m, h)>, {element}],
      iterator_types = ["parallel", "parallel", "parallel"]
    }} ins({taken}, {name}_scales : {rows}, {factors}) outs({name}_empty : {wide}) {{
  ^bb0(%q: i8, %f: f32, %unused: f32):
    %r = arith.sitofp %q : i8 to f32
    %x = arith.mulf %r, %f : f32
    linalg.yield %x : f32
  }} -> {wide}"""


def _weights(case: _Case, scores: str, rows: str, result: str, tokens: int | str | None) -> str:
    """The softmax's exponentials, in the order of the scores, or by blocks of the cache's rows.

    Tensor cores need to know the size of what they sum over: in blocks it is `CACHE_BLOCK`, and the
    blocks are a dimension of their own. They stand before the tokens, or IREE would fuse the two
    into the one of unknown size again.
    """
    visible = _visible(case.window, case.softcap, case.factor != "f32")
    body = f"""{visible}
    %difference = arith.subf %visible, %b : f32
    %e = math.exp %difference : f32"""
    if case.factor == "f32":
        return f"""  %weights = linalg.generic {{
      indexing_maps = [#scores, #rows, #scores],
      iterator_types = ["parallel", "parallel", "parallel", "parallel"]
    }} ins(%dot, %maximum : {scores}, {rows}) outs(%scores_empty : {scores}) {{
  ^bb0(%a: f32, %b: f32, %unused: f32):
{body}
    linalg.yield %e : f32
  }} -> {scores}"""
    heads, group, length = scores[len("tensor<") :].split("x")[:3]
    blocks = f"tensor<{heads}x{group}x{length}x?x{CACHE_BLOCK}xf32>"
    sizes = "%blocks, %tokens" if length == "?" else "%blocks"
    return f"""  %block_scores = tensor.expand_shape %dot [[0], [1], [2], [3, 4]]
      output_shape [{heads}, {group}, {tokens}, %blocks, {CACHE_BLOCK}] : {scores} into {blocks}
  %weights_empty = tensor.empty({sizes}) : {result}
  %weights = linalg.generic {{
      indexing_maps = [affine_map<(h, g, b, l, m) -> (h, g, l, b, m)>,
                       affine_map<(h, g, b, l, m) -> (h, g, l)>,
                       affine_map<(h, g, b, l, m) -> (h, g, b, l, m)>],
      iterator_types = ["parallel", "parallel", "parallel", "parallel", "parallel"]
    }} ins(%block_scores, %maximum : {blocks}, {rows}) outs(%weights_empty : {result}) {{
  ^bb0(%a: f32, %b: f32, %unused: {case.factor}):
{body}
    %rounded_e = arith.truncf %e : f32 to {case.factor}
    linalg.yield %rounded_e : {case.factor}
  }} -> {result}"""


def _weighted(
    blocked: bool,
    weights: str,
    values: str,
    sums: str,
    widen: str,
    left: str,
    wide: str,
    factor: str,
    kv: str,
) -> str:
    """The values times their weights, summed over the rows of the cache."""
    maps, loop, kinds = ["h, g, l, m", "m, h, d"], "h, g, l, d, m", 1
    given, types, split = "%weights, %values", f"{weights}, {values}", ""
    if blocked:
        maps, loop, kinds = ["h, g, b, l, m", "b, m, h, d"], "h, g, l, d, b, m", 2
        block_values = values.replace("<?x", f"<?x{CACHE_BLOCK}x")
        heads, width = values[len("tensor<") :].split("x")[1:3]
        split = f"""  %block_values = tensor.expand_shape %values [[0, 1], [2], [3]]
      output_shape [%blocks, {CACHE_BLOCK}, {heads}, {width}] : {values} into {block_values}
"""
        given, types = "%weights, %block_values", f"{weights}, {block_values}"
    affine = [f"affine_map<({loop}) -> ({m})>" for m in (*maps, "h, g, l, d")]
    return f"""{split}  %weighted = linalg.generic {{
      indexing_maps = [{", ".join(affine)}],
      iterator_types = [{", ".join(['"parallel"'] * 4 + ['"reduction"'] * kinds)}]
    }} ins({given} : {types}) outs(%sums_zero : {sums}) {{
  ^bb0(%a: {factor}, %b: {kv}, %sum: f32):
{widen}    %p = arith.mulf {left}, {wide} : f32
    %s = arith.addf %sum, %p : f32
    linalg.yield %s : f32
  }} -> {sums}"""


def _visible(window: int, softcap: float, blocked: bool = False) -> str:
    """Within a body over (h, g, l, m): the score of `%a`, or minus infinity where it is hidden.

    Blocked, the body is over (h, g, b, l, m), where m counts within block b.

    Each use computes it anew from the product: as an operation of its own it would be fused with
    the reduction after it, which then keeps a whole row of scores on the stack.
    """
    score = "%score" if softcap else "%scaled"
    seen = "%seen" if window else "%causal"
    place = """    %l = linalg.index 2 : index
    %m = linalg.index 3 : index
"""
    if blocked:
        place = """    %l = linalg.index 3 : index
    %b_index = linalg.index 2 : index
    %b_first = arith.muli %b_index, %block : index
    %m_inner = linalg.index 4 : index
    %m = arith.addi %b_first, %m_inner : index
"""
    return f"""    %scaled = arith.mulf %a, %scale : f32
{_softcap(softcap)}{place}    %position = arith.addi %l, %first : index
{_row(window)}    %causal = arith.cmpi ule, %row, %position : index
{_within_window(window)}    %visible = arith.select {seen}, {score}, %minus_infinity : f32"""


def _span(window: int, capacity: int) -> str:
    """`%low` and `%span`: the first row that is read, and how many; of a ring also who they are.

    A row up to that of the last token holds a position of the ring's present turn, which began at
    `%turn`; the others hold one of the turn before, or in the first turn none.
    """
    if not window:
        return """  %low = arith.constant 0 : index
  %span = arith.addi %end, %low : index"""
    return f"""  %capacity = arith.constant {capacity} : index
  %c1 = arith.constant 1 : index
  %nowhere = arith.constant {2 * LONGEST} : index
  %last = arith.subi %end, %c1 : index
  %last_row = arith.remui %last, %capacity : index
  %turn = arith.subi %last, %last_row : index
  %is_first_turn = arith.cmpi eq, %turn, %c0 : index
  %turn_before = arith.subi %turn, %capacity : index
  %before = arith.select %is_first_turn, %nowhere, %turn_before : index
  %window_less_one = arith.constant {window - 1} : index
  %past = arith.maxui %first, %window_less_one : index
  %oldest = arith.subi %past, %window_less_one : index
  %oldest_row = arith.remui %oldest, %capacity : index
  %oldest_block = arith.divui %oldest_row, %block : index
  %oldest_blocks_row = arith.muli %oldest_block, %block : index
  %after_last_row = arith.addi %last_row, %c1 : index
  %wraps = arith.cmpi ugt, %oldest_row, %last_row : index
  %low = arith.select %wraps, %c0, %oldest_blocks_row : index
  %fitting = arith.subi %after_last_row, %oldest_blocks_row : index
  %span = arith.select %wraps, %capacity, %fitting : index"""


def _row(window: int) -> str:
    """`%row`: the position that is in row `%m` of those read."""
    if not window:
        return "    %row = arith.addi %m, %low : index\n"
    return """    %place = arith.addi %m, %low : index
    %old = arith.cmpi ugt, %place, %last_row : index
    %began = arith.select %old, %before, %turn : index
    %row = arith.addi %place, %began : index
"""


def _within_window(window: int) -> str:
    if not window:
        return ""
    return f"""    %window = arith.constant {window} : index
    %reach = arith.addi %row, %window : index
    %near = arith.cmpi ugt, %reach, %position : index
    %seen = arith.andi %causal, %near : i1
"""


def _softcap(softcap: float) -> str:
    if not softcap:
        return ""
    return f"""    %cap = arith.constant {softcap:e} : f32
    %ratio = arith.divf %scaled, %cap : f32
    %tanh = math.tanh %ratio : f32
    %score = arith.mulf %tanh, %cap : f32
"""


def _maximum_start(sinks: bool, query_heads: int, heads: int, group: int, rows: str) -> str:
    if not sinks:
        return (
            f"  %maximum_start = linalg.fill ins(%minus_infinity : f32)\n"
            f"      outs(%rows_empty : {rows}) -> {rows}"
        )
    return f"""  %sinks_grouped = tensor.expand_shape %sinks [[0, 1]]
      output_shape [{heads}, {group}]
      : tensor<{query_heads}xf32> into tensor<{heads}x{group}xf32>
  %maximum_start = linalg.broadcast ins(%sinks_grouped : tensor<{heads}x{group}xf32>)
      outs(%rows_empty : {rows}) dimensions = [2]"""


def _divide(sinks: bool, sums: str, rows: str, out: str, grouped: str) -> str:
    """The weighted values over the sum of the weights, to which a sink adds its own."""
    result = "affine_map<(l, h, g, d) -> (l, h, g, d)>"
    values, row = (
        "affine_map<(l, h, g, d) -> (h, g, l, d)>",
        "affine_map<(l, h, g, d) -> (h, g, l)>",
    )
    maps, inputs, types = [values, row], "%weighted, %total", f"{sums}, {rows}"
    arguments, whole, extra = "%a: f32, %b: f32", "%b", ""
    if sinks:
        maps += [row, "affine_map<(l, h, g, d) -> (h, g)>"]
        inputs, types = f"{inputs}, %maximum, %sinks_grouped", f"{types}, {rows}, {grouped}"
        arguments, whole = f"{arguments}, %max: f32, %sink: f32", "%whole"
        extra = """    %difference = arith.subf %sink, %max : f32
    %e = math.exp %difference : f32
    %whole = arith.addf %b, %e : f32
"""
    return f"""  %out = linalg.generic {{
      indexing_maps = [{", ".join([*maps, result])}],
      iterator_types = ["parallel", "parallel", "parallel", "parallel"]
    }} ins({inputs} : {types}) outs(%out_empty : {out}) {{
  ^bb0({arguments}, %unused: f32):
{extra}    %quotient = arith.divf %a, {whole} : f32
    linalg.yield %quotient : f32
  }} -> {out}"""
