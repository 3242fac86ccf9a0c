"""`lower-linear`: `edgec::linear` as one contraction that widens the weights element by element.

The widening stays inside the contraction's body: IREE reads the weights in their stored type and
never writes a widened copy.

Tensor cores multiply 16-bit numbers by 16-bit numbers into f32 sums. With `compute=weights` the
activations of a block of tokens are rounded to the 16-bit type of the weights, which is what lets
code generation use them. A single token's contraction reads every weight once and is bound by that:
it keeps f32.

On a CPU that contraction is as fast as weights can be read, if its inner loop runs along a row of
them. IREE's own choice is a tile of several rows, which it transposes in registers; with narrow
weights that takes longer than reading them. `form=cpu` states the tiles.

`block=32` is for code generation that makes nothing of a divisibility, llvm-cpu's: rows that the
export states as a multiple of 32 become n blocks of 32. Tiles and vectors then divide what they
work on, with no loop for what is left over. IREE can do so by itself to all dispatches
(`iree-codegen-block-dynamic-dimensions`), but fails on some that reduce; contractions are what it
is for.

With `kernel=<level>` the layers that the level's kernels can compute become dispatches of them (see
`edgec.passes.kernels.linear`), several that read the same rows one dispatch, with their norm,
activation or residual sum (`edgec.passes.patterns.folds`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod

from iree.compiler import ir

from edgec.passes.kernels.linear import Layer, linear_fits, linear_norms, linear_template
from edgec.passes.patterns.folds import find_folds
from edgec.passes.patterns.same_input import same_input
from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    convert_elements,
    custom_ops,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
    tensor_type,
    walk,
)

__all__ = ["LowerLinear"]

Placed = tuple[ir.Operation, Layer]


@dataclass(frozen=True)
class LowerLinear:
    """Instantiates one function for each form of the operator in the module.

    `compute` is the type of the factors: `activations` or `weights`. `form` is `any`, or `cpu` for
    tiles that suit llvm-cpu where there is one row. `block` is the number of rows to compute
    together where there are a multiple of it, or of a divisor that is still worth it; 1 for none.
    `kernel` is `generic`, or the feature level whose kernels are linked in.
    """

    compute: str = "activations"
    form: str = "any"
    block: int = 1
    kernel: str = "generic"

    def __post_init__(self) -> None:
        if self.form not in ("any", "cpu"):
            raise ValueError(f"form={self.form}: must be any or cpu")
        if self.compute not in ("activations", "weights"):
            raise ValueError(f"compute={self.compute}: must be activations or weights")
        if self.block < 1 or (self.block > 1 and self.compute != "activations"):
            raise ValueError(f"block={self.block}: must be from 1 on, and 1 with compute=weights")

    def run(self, module: ir.Module) -> None:
        multiples = _multiples(module) if self.block > 1 else {}
        layers = [(op, _layer(op)) for op in custom_ops(module, "linear")]
        if self.kernel != "generic":
            layers = self._dispatch(module, layers)
        for op, layer in layers:
            x, weight = (parse_torch_tensor(op.operands[0].type), layer.weight)
            result, biased = layer.result, layer.biased
            operands = _operands(op)
            factor = weight.dtype if self.compute == "weights" and _rows(x) != 1 else x.dtype
            block = gcd(self.block, multiples.get(op.operands[0], 1)) if _rows(x) is None else 1
            block = block if block >= _SMALLEST_BLOCK else 1
            symbol = symbol_name(
                "linear",
                x,
                weight,
                "" if factor == x.dtype else factor,
                "bias" if biased else "",
                "" if block == 1 else f"by{block}",
            )
            if self.form == "cpu" and _rows(x) == 1:
                text = _one_row(symbol, x, weight, result, biased)
            elif block > 1:
                text = _blocked(symbol, x, weight, result, biased, block)
            else:
                text = _template(symbol, x, weight, result, biased, factor)
            insert_function(module, symbol, text)
            call_template(op, symbol, operands, result)

    def _dispatch(self, module: ir.Module, layers: list[Placed]) -> list[Placed]:
        """Lowers the layers that the kernels take, and returns the others."""
        fitting: list[Placed] = []
        others: list[Placed] = []
        for op, layer in layers:
            x = parse_torch_tensor(op.operands[0].type)
            (fitting if linear_fits(x, layer.weight) else others).append((op, layer))
        groups = list(same_input(fitting, lambda layer: layer.weight.dtype))
        grouped = {id(op) for group in groups for op, _ in group}
        groups += [[(op, layer)] for op, layer in fitting if id(op) not in grouped]
        known = {id(op): layer for op, layer in fitting}
        for group in groups:
            first = group[0][0]
            biased = any(layer.biased for _, layer in group)
            norms = linear_norms(parse_torch_tensor(first.operands[0].type))
            folded = find_folds([op for op, _ in group], biased=biased, norms=norms)
            members = [known[id(op)] for op in folded.layers]
            x = parse_torch_tensor(folded.x.type)
            labels: list[TorchTensor | str] = []
            for layer in members:
                labels += [layer.weight, *(["bias"] if layer.biased else [])]
            symbol = symbol_name(f"linear.{self.kernel}", x, *labels, *folded.folds.labels)
            results = [parse_torch_tensor(op.results[0].type) for op in folded.replaced]
            text = linear_template(symbol, x, members, results, folded.folds, self.kernel)
            insert_function(module, symbol, text)
            folded.call(symbol, [v for op in folded.layers for v in _operands(op)[1:]])
        return others


def _operands(op: ir.Operation) -> list[ir.Value]:
    return [v for v in op.operands if not is_none(v)]


def _layer(op: ir.Operation) -> Layer:
    x, weight = (parse_torch_tensor(op.operands[i].type) for i in (0, 1))
    if x.shape[-1] != weight.shape[-1]:
        raise ValueError(f"linear: the widths of {x.builtin} and {weight.builtin} differ")
    result = parse_torch_tensor(op.results[0].type)
    return Layer(weight, result, len(_operands(op)) == 3)


def _rows(x: TorchTensor) -> int | None:
    """The number of rows that `x` has as a matrix; None when it is dynamic."""
    leading = x.shape[:-1]
    return None if None in leading else prod(d for d in leading if d is not None)


def _multiples(module: ir.Module) -> dict[ir.Value, int]:
    """The divisor that the export states for the product of each value's leading dimensions."""
    found = {}
    for op in walk(module.operation):
        if op.name == "torch.bind_symbolic_shape":
            map_ = ir.AffineMapAttr(op.attributes["shape_expressions"]).value
            found[op.operands[0]] = prod(_multiple(e) for e in list(map_.results)[:-1])
    return found


def _multiple(expression: ir.AffineExpr) -> int:
    if isinstance(expression, ir.AffineConstantExpr):
        return int(expression.value)
    if isinstance(expression, ir.AffineMulExpr):
        return _multiple(expression.lhs) * _multiple(expression.rhs)
    return 1


def _template(
    symbol: str,
    x: TorchTensor,
    weight: TorchTensor,
    result: TorchTensor,
    biased: bool,
    factor: str,
) -> str:
    n, k = weight.shape
    leading, m = x.shape[:-1], _rows(x)
    rows, out = tensor_type((m, k), x.dtype), tensor_type((m, n), x.dtype)
    axes = f"[[{', '.join(map(str, range(len(leading))))}], [{len(leading)}]]"
    dims = "\n".join(
        f"  %i{i} = arith.constant {i} : index\n  %d{i} = tensor.dim %x, %i{i} : {x.builtin}"
        for i, d in enumerate(leading)
        if d is None
    )
    size = "" if m is not None else "%m"
    shape = ", ".join(f"%d{i}" if d is None else str(d) for i, d in enumerate(result.shape))
    wide = weight.dtype == x.dtype
    widen = "" if wide else f"    %ww = arith.extf %w0 : {weight.dtype} to {x.dtype}\n"
    narrow = ""
    if factor != x.dtype:
        narrow = convert_elements("%narrow", "%rows", TorchTensor((m, k), x.dtype), factor, size)
        widen += f"    %xw = arith.extf %x0 : {factor} to {x.dtype}\n"
    factors = tensor_type((m, k), factor)
    bias_argument = f", %bias: tensor<{n}x{x.dtype}>" if biased else ""
    initial = (
        f"""  %init = linalg.broadcast ins(%bias : tensor<{n}x{x.dtype}>)
      outs(%empty : {out}) dimensions = [0]"""
        if biased
        else f"  %init = linalg.fill ins(%zero : {x.dtype}) outs(%empty : {out}) -> {out}"
    )
    return f"""
util.func private @"{symbol}"(%x: {x.builtin}, %weight: {weight.builtin}{bias_argument})
    -> {result.builtin} {{
{dims}
  %zero = arith.constant 0.0 : {x.dtype}
  %rows = tensor.collapse_shape %x {axes} : {x.builtin} into {rows}
  %c0 = arith.constant 0 : index
  %m = tensor.dim %rows, %c0 : {rows}
  %empty = tensor.empty({size}) : {out}
{initial}
{narrow}
  %product = linalg.generic {{
      indexing_maps = [affine_map<(m, n, k) -> (m, k)>,
                       affine_map<(m, n, k) -> (n, k)>,
                       affine_map<(m, n, k) -> (m, n)>],
      iterator_types = ["parallel", "parallel", "reduction"]
    }} ins({"%narrow" if narrow else "%rows"}, %weight : {factors}, {weight.builtin})
      outs(%init : {out}) {{
  ^bb0(%x0: {factor}, %w0: {weight.dtype}, %sum: {x.dtype}):
{widen}    %p = arith.mulf {"%xw" if narrow else "%x0"}, {"%w0" if wide else "%ww"} : {x.dtype}
    %s = arith.addf %sum, %p : {x.dtype}
    linalg.yield %s : {x.dtype}
  }} -> {out}
  %result = tensor.expand_shape %product {axes} output_shape [{shape}]
      : {out} into {result.builtin}
  util.return %result : {result.builtin}
}}"""


_SMALLEST_BLOCK = 8  # rows of an accumulator: fewer would leave a part of each tile unused


def _blocked(
    symbol: str,
    x: TorchTensor,
    weight: TorchTensor,
    result: TorchTensor,
    biased: bool,
    block: int,
) -> str:
    n, k = weight.shape
    leading = len(x.shape) - 1
    rows = TorchTensor((None, k), x.dtype).builtin
    blocks = TorchTensor((None, block, k), x.dtype).builtin
    flat = TorchTensor((None, n), x.dtype).builtin
    out = TorchTensor((None, block, n), x.dtype).builtin
    axes = f"[[{', '.join(map(str, range(leading)))}], [{leading}]]"
    dims = "\n".join(
        f"  %i{i} = arith.constant {i} : index\n  %d{i} = tensor.dim %x, %i{i} : {x.builtin}"
        for i, d in enumerate(x.shape[:-1])
        if d is None
    )
    shape = ", ".join(f"%d{i}" if d is None else str(d) for i, d in enumerate(result.shape))
    bias_argument = f", %bias: tensor<{n}x{x.dtype}>" if biased else ""
    initial = (
        f"""  %init = linalg.broadcast ins(%bias : tensor<{n}x{x.dtype}>)
      outs(%empty : {out}) dimensions = [0, 1]"""
        if biased
        else f"  %init = linalg.fill ins(%zero : {x.dtype}) outs(%empty : {out}) -> {out}"
    )
    # Not a linalg.generic: IREE collapses the two axes of that into one again.
    return f"""
util.func private @"{symbol}"(%x: {x.builtin}, %weight: {weight.builtin}{bias_argument})
    -> {result.builtin} {{
{dims}
  %zero = arith.constant 0.0 : {x.dtype}
  %rows = tensor.collapse_shape %x {axes} : {x.builtin} into {rows}
  %c0 = arith.constant 0 : index
  %m = tensor.dim %rows, %c0 : {rows}
  %block = arith.constant {block} : index
  %count = arith.divui %m, %block : index
  %blocks = tensor.expand_shape %rows [[0, 1], [2]] output_shape [%count, {block}, {k}]
      : {rows} into {blocks}
  %empty = tensor.empty(%count) : {out}
{initial}
  %product = linalg.contract
      indexing_maps = [affine_map<(b, m, n, k) -> (b, m, k)>,
                       affine_map<(b, m, n, k) -> (n, k)>,
                       affine_map<(b, m, n, k) -> (b, m, n)>]
      ins(%blocks, %weight : {blocks}, {weight.builtin}) outs(%init : {out}) -> {out}
  %flat = tensor.collapse_shape %product [[0, 1], [2]] : {out} into {flat}
  %result = tensor.expand_shape %flat {axes} output_shape [{shape}]
      : {flat} into {result.builtin}
  util.return %result : {result.builtin}
}}"""


_STRIP = 64  # rows of weights that a workgroup takes
_DEPTH = 64  # columns that an iteration of the inner loop takes


def _one_row(
    symbol: str, x: TorchTensor, weight: TorchTensor, result: TorchTensor, biased: bool
) -> str:
    n, k = weight.shape
    assert k is not None
    depth = next(d for d in range(min(k, _DEPTH), 0, -1) if k % d == 0)
    vector, out = f"tensor<{k}x{x.dtype}>", f"tensor<{n}x{x.dtype}>"
    every_in = f"[[{', '.join(map(str, range(len(x.shape))))}]]"
    bias_argument = f", %bias: {out}" if biased else ""
    wide = weight.dtype == x.dtype
    widen = "" if wide else f"    %ww = arith.extf %w0 : {weight.dtype} to {x.dtype}\n"
    initial = "%bias" if biased else "%zeros"
    sizes = ", ".join(map(str, result.shape))
    return f"""
util.func private @"{symbol}"(%x: {x.builtin}, %weight: {weight.builtin}{bias_argument})
    -> {result.builtin} {{
  %zero = arith.constant 0.0 : {x.dtype}
  %row = tensor.collapse_shape %x {every_in} : {x.builtin} into {vector}
  %empty = tensor.empty() : {out}
  %zeros = linalg.fill ins(%zero : {x.dtype}) outs(%empty : {out}) -> {out}
  %product = linalg.generic {{
      indexing_maps = [affine_map<(n, k) -> (k)>,
                       affine_map<(n, k) -> (n, k)>,
                       affine_map<(n, k) -> (n)>],
      iterator_types = ["parallel", "reduction"]
    }} ins(%row, %weight : {vector}, {weight.builtin}) outs({initial} : {out}) attrs = {{
      compilation_info = #iree_codegen.compilation_info<
        lowering_config = #iree_cpu.lowering_config<
          distribution = [{_STRIP}, 0],
          vector_common_parallel = [1, 0], vector_reduction = [0, {depth}]>,
        translation_info = #iree_codegen.translation_info<
          pipeline = #iree_cpu.pipeline<DoubleTilingExpert>>>}} {{
  ^bb0(%x0: {x.dtype}, %w0: {weight.dtype}, %sum: {x.dtype}):
{widen}    %p = arith.mulf %x0, {"%w0" if wide else "%ww"} : {x.dtype}
    %s = arith.addf %sum, %p : {x.dtype}
    linalg.yield %s : {x.dtype}
  }} -> {out}
  %result = tensor.expand_shape %product {every_in} output_shape [{sizes}]
      : {out} into {result.builtin}
  util.return %result : {result.builtin}
}}"""
