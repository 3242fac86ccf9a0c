"""`lower-layer-norm`: `aten.layer_norm` as two reductions and one scaling, sharing nothing.

The usual form computes `x - mean` once and uses it twice, around the reduction that finds the
variance. IREE fuses all of it into one dispatch and keeps a tile of differences on the stack, where
rows of a few hundred elements no longer fit, and compilation fails. Here the reduction and the
scaling each take the subtraction into their bodies, which costs less than the trip to memory; and a
barrier keeps the residual sum before the norm, which has other users, out of the dispatch.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    constant_float,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
    tensor_type,
    walk,
)

__all__ = ["LowerLayerNorm"]


@dataclass(frozen=True)
class LowerLayerNorm:
    """Rewrites norms of f32 over the last dimension; any other is left as it is."""

    def run(self, module: ir.Module) -> None:
        for op in walk(module.operation):
            if op.name != "torch.aten.layer_norm":
                continue
            x, _, weight, bias, epsilon, _ = op.operands
            type_ = parse_torch_tensor(x.type)
            sizes = op.operands[1].owner.operation.operands
            if len(sizes) != 1 or type_.dtype != "f32":
                continue
            scaled = [not is_none(value) for value in (weight, bias)]
            eps = constant_float(epsilon)
            symbol = symbol_name(
                "layer_norm", type_, f"eps{eps!r}", *("w" * scaled[0], "b" * scaled[1])
            )
            insert_function(module, symbol, _template(symbol, type_, eps, *scaled))
            operands = [x, *(v for v in (weight, bias) if not is_none(v))]
            call_template(op, symbol, operands, type_)


def _template(symbol: str, x: TorchTensor, epsilon: float, weighted: bool, biased: bool) -> str:
    rank, width = len(x.shape), x.shape[-1]
    rows = tensor_type(x.shape[:-1], "f32")
    axes = [f"d{i}" for i in range(rank)]
    dims = ", ".join(axes)
    whole = f"affine_map<({dims}) -> ({dims})>"
    row = f"affine_map<({dims}) -> ({', '.join(axes[:-1])})>"
    column = f"affine_map<({dims}) -> ({axes[-1]})>"
    kinds = ['"parallel"'] * rank
    reduction = ", ".join([*kinds[:-1], '"reduction"'])
    dynamic = [i for i, d in enumerate(x.shape) if d is None]
    sizes = ", ".join(f"%n{i}" for i in dynamic)
    dynamic_sizes = f"{{{sizes}}}" if dynamic else ""
    measure = "\n".join(
        f"  %i{i} = arith.constant {i} : index\n  %n{i} = tensor.dim %x, %i{i} : {x.builtin}"
        for i in dynamic
    )
    vector = f"tensor<{width}xf32>"
    extra = [name for name, used in (("weight", weighted), ("bias", biased)) if used]
    arguments = "".join(f", %{name}: {vector}" for name in extra)
    scale = "    %2 = arith.mulf %1, %w : f32\n" if weighted else ""
    scaled = "%2" if weighted else "%1"
    shift = f"    %3 = arith.addf {scaled}, %c : f32\n" if biased else ""
    block = "".join(f", %{short}: f32" for short, on in (("w", weighted), ("c", biased)) if on)
    return f"""
util.func private @"{symbol}"(%x: {x.builtin}{arguments}) -> {x.builtin} {{
{measure}
  %zero = arith.constant 0.0 : f32
  %count = arith.constant {width}.0 : f32
  %epsilon = arith.constant {epsilon:e} : f32
  %rows = tensor.empty({sizes}) : {rows}
  %start = linalg.fill ins(%zero : f32) outs(%rows : {rows}) -> {rows}
  %x_own = iree_tensor_ext.compute_barrier.start %x : {x.builtin}{dynamic_sizes} -> {x.builtin}
  %sum = linalg.generic {{indexing_maps = [{whole}, {row}], iterator_types = [{reduction}]}}
      ins(%x_own : {x.builtin}) outs(%start : {rows}) {{
  ^bb0(%a: f32, %acc: f32):
    %s = arith.addf %acc, %a : f32
    linalg.yield %s : f32
  }} -> {rows}
  %squares = linalg.generic {{indexing_maps = [{whole}, {row}, {row}],
      iterator_types = [{reduction}]}}
      ins(%x_own, %sum : {x.builtin}, {rows}) outs(%start : {rows}) {{
  ^bb0(%a: f32, %t: f32, %acc: f32):
    %mean = arith.divf %t, %count : f32
    %d = arith.subf %a, %mean : f32
    %q = arith.mulf %d, %d : f32
    %s = arith.addf %acc, %q : f32
    linalg.yield %s : f32
  }} -> {rows}
  %empty = tensor.empty({sizes}) : {x.builtin}
  %result = linalg.generic {{
      indexing_maps = [{", ".join([whole, row, row, *([column] * len(extra)), whole])}],
      iterator_types = [{", ".join(kinds)}]}}
      ins({", ".join(["%x_own", "%sum", "%squares", *(f"%{name}" for name in extra)])}
          : {", ".join([x.builtin, rows, rows, *([vector] * len(extra))])})
      outs(%empty : {x.builtin}) {{
  ^bb0(%a: f32, %t: f32, %v: f32{block}, %unused: f32):
    %mean = arith.divf %t, %count : f32
    %d = arith.subf %a, %mean : f32
    %variance = arith.divf %v, %count : f32
    %stable = arith.addf %variance, %epsilon : f32
    %r = math.rsqrt %stable : f32
    %1 = arith.mulf %d, %r : f32
{scale}{shift}    linalg.yield {"%3" if biased else scaled} : f32
  }} -> {x.builtin}
  util.return %result : {x.builtin}
}}"""
