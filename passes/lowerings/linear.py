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

from edgec.passes.emit import Function, Tensor, Value
from edgec.passes.kernels.linear import Layer, linear_fits, linear_norms, linear_template
from edgec.passes.patterns.folds import find_folds
from edgec.passes.patterns.same_input import same_input
from edgec.passes.rewriting import (
    call_template,
    custom_ops,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
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
            factor = weight.dtype if self.compute == "weights" and x.rows != 1 else x.dtype
            block = gcd(self.block, multiples.get(op.operands[0], 1)) if x.rows is None else 1
            block = block if block >= _SMALLEST_BLOCK else 1
            symbol = symbol_name(
                "linear",
                x,
                weight,
                "" if factor == x.dtype else factor,
                "bias" if biased else "",
                "" if block == 1 else f"by{block}",
            )
            bias = Tensor(weight.shape[:1], x.dtype) if biased else None
            f = Function(symbol, x=x, weight=weight, bias=bias)
            if self.form == "cpu" and x.rows == 1:
                text = f.returns(_one_row(f))
            elif block > 1:
                text = f.returns(_blocked(f, block))
            else:
                text = f.returns(_plain(f, factor))
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
            labels: list[Tensor | str] = []
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


def _multiply(a: Value, w: Value, sum_: Value) -> Value:
    return sum_ + a.to(sum_.dtype) * w.to(sum_.dtype)


def _plain(f: Function, factor: str) -> Value:
    x, weight = f["x"], f["weight"]
    rows = f.rows(x)
    init = f.broadcast(f["bias"], [0], (rows.size(0), weight.size(0))) if "bias" in f else 0.0
    factors = [f.convert(rows, factor), weight]
    product = f.generic("m k, n k -> m n", factors, _multiply, init=init, dtype=x.dtype)
    return f.unrows(product, x)


_SMALLEST_BLOCK = 8  # rows of an accumulator: fewer would leave a part of each tile unused


def _blocked(f: Function, block: int) -> Value:
    x, weight = f["x"], f["weight"]
    rows = f.rows(x)
    count = f.const(rows.size(0), "index") // block
    blocks = f.expand(rows, (count, block), rows.size(1))
    sizes = (count, block, weight.size(0))
    init = f.broadcast(f["bias"], [0, 1], sizes) if "bias" in f else f.fill(0.0, x.dtype, sizes)
    # Not a linalg.generic: IREE collapses the two axes of that into one again.
    maps = ", ".join(
        f"affine_map<(b, m, n, k) -> ({axes})>" for axes in ("b, m, k", "n, k", "b, m, n")
    )
    product = f.op(
        f"linalg.contract indexing_maps = [{maps}] ins({blocks}, {weight} : {blocks.type}, "
        f"{weight.type}) outs({init} : {init.type}) -> {init.type}",
        init.tensor,
        sizes,
    )
    return f.unrows(f.collapse(product, 2, 1), x)


_STRIP = 64  # rows of weights that a workgroup takes
_DEPTH = 64  # columns that an iteration of the inner loop takes


def _one_row(f: Function) -> Value:
    x, weight = f["x"], f["weight"]
    k = weight.tensor.shape[1]
    assert k is not None
    depth = next(d for d in range(min(k, _DEPTH), 0, -1) if k % d == 0)
    init: Value | float = 0.0
    if "bias" in f:
        init = f["bias"]
    product = f.generic(
        "k, n k -> n",
        [f.collapse(x, len(x.sizes)), weight],
        _multiply,
        init=init,
        dtype=x.dtype,
        attributes=f"""
      compilation_info = #iree_codegen.compilation_info<
        lowering_config = #iree_cpu.lowering_config<
          distribution = [{_STRIP}, 0],
          vector_common_parallel = [1, 0], vector_reduction = [0, {depth}]>,
        translation_info = #iree_codegen.translation_info<
          pipeline = #iree_cpu.pipeline<DoubleTilingExpert>>>""",
    )
    return f.expand(product, (*x.sizes[:-1], weight.size(0)))
