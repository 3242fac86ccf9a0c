"""`edgec::grouped_matmul` for any target: the weights of each block of rows gathered, one product.

The number of blocks is known beforehand (rounding every expert's rows up costs a bounded number),
so that nothing is read back to the host. Blocks past the last offset take the last expert; what
they compute is never read.
"""

from __future__ import annotations

from edgec.passes.kernels.experts_shape import ROW_BLOCK, GroupedMatmul

__all__ = ["expert_of_block", "gather_template"]


def gather_template(symbol: str, case: GroupedMatmul) -> str:
    """The function `symbol` that computes `case`, as text."""
    block = ROW_BLOCK if case.sorted else 1
    dynamic = case.rows is None
    blocks = "?" if case.rows is None else str(case.rows // block)
    count = "%blocks" if dynamic else ""
    comma = "%blocks, " if dynamic else f"{blocks}, "
    x, y, n, k = case.x.builtin, case.result.builtin, case.n, case.k
    element, matrix = case.weight.dtype, "x".join(map(str, case.weight.shape[1:]))
    rows = f"tensor<{blocks}x{block}x{k}xf32>"
    products = f"tensor<{blocks}x{block}x{n}xf32>"
    gathered = f"tensor<{blocks}x{matrix}x{element}>"
    ids = f"tensor<{blocks}xi32>"
    wide = "%b" if element == "f32" else "%wb"
    place = "(g, k, n)" if case.transposed else "(g, n, k)"
    initial = f"  %initial = linalg.fill ins(%zero : f32) outs(%empty : {products}) -> {products}"
    if case.biased:
        bias = f"tensor<{blocks}x{n}xf32>"
        initial = f"""  %bias_empty = tensor.empty({count}) : {bias}
  %biases = iree_linalg_ext.gather dimension_map = [0] ins(%bias, %ids : {case.bias}, {ids})
      outs(%bias_empty : {bias}) -> {bias}
  %initial = linalg.broadcast ins(%biases : {bias}) outs(%empty : {products}) dimensions = [1]"""
    # Rows that name their experts are blocks of their own.
    index = "%index" if case.sorted else "%ids"
    bias_argument = f", %bias: {case.bias}" if case.biased else ""
    return f"""
util.func private @"{symbol}"(%x: {x}, %weight: {case.weight.builtin}{bias_argument},
    {index}: {case.groups}) -> {y} {{
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %block = arith.constant {block} : index
  %all = tensor.dim %x, %c0 : {x}
  %blocks = arith.divui %all, %block : index
{expert_of_block(case.experts, ids, count) if case.sorted else ""}
  %rows = tensor.expand_shape %x [[0, 1], [2]] output_shape [{comma}{block}, {k}] : {x} into {rows}
  %gathered_empty = tensor.empty({count}) : {gathered}
  %gathered = iree_linalg_ext.gather dimension_map = [0]
      ins(%weight, %ids : {case.weight.builtin}, {ids}) outs(%gathered_empty : {gathered})
      -> {gathered}
  %empty = tensor.empty({count}) : {products}
{initial}
  %products = linalg.generic {{
      indexing_maps = [affine_map<(g, m, n, k) -> (g, m, k)>,
                       affine_map<(g, m, n, k) -> {place}>,
                       affine_map<(g, m, n, k) -> (g, m, n)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]
    }} ins(%rows, %gathered : {rows}, {gathered}) outs(%initial : {products}) {{
  ^bb0(%a: f32, %b: {element}, %sum: f32):
{case.widen("%b", "%wb")}          %p = arith.mulf %a, {wide} : f32
    %s = arith.addf %sum, %p : f32
    linalg.yield %s : f32
  }} -> {products}
  %result = tensor.collapse_shape %products [[0, 1], [2]] : {products} into {y}
  util.return %result : {y}
}}"""


def expert_of_block(experts: int, ids: str, count: str) -> str:
    """Text that computes %ids, of type `ids` and with `count` as its dynamic size, if any.

    The expert of each block: how many experts end at or before the block's first row.
    """
    offsets = f"tensor<{experts + 1}xi32>"
    return f"""  %none = arith.constant 0 : i32
  %ends = tensor.extract_slice %index[1] [{experts}] [1]
      : {offsets} to tensor<{experts}xi32>
  %ids_empty = tensor.empty({count}) : {ids}
  %ids_zero = linalg.fill ins(%none : i32) outs(%ids_empty : {ids}) -> {ids}
  %ended = linalg.generic {{
      indexing_maps = [affine_map<(g, e) -> (e)>, affine_map<(g, e) -> (g)>],
      iterator_types = ["parallel", "reduction"]
    }} ins(%ends : tensor<{experts}xi32>) outs(%ids_zero : {ids}) {{
  ^bb0(%end: i32, %sum: i32):
    %g = linalg.index 0 : index
    %first = arith.muli %g, %block : index
    %first_i32 = arith.index_cast %first : index to i32
    %past = arith.cmpi sle, %end, %first_i32 : i32
    %one = arith.extui %past : i1 to i32
    %s = arith.addi %sum, %one : i32
    linalg.yield %s : i32
  }} -> {ids}
  %ids = linalg.generic {{
      indexing_maps = [affine_map<(g) -> (g)>, affine_map<(g) -> (g)>],
      iterator_types = ["parallel"]
    }} ins(%ended : {ids}) outs(%ids_empty : {ids}) {{
  ^bb0(%e: i32, %unused: i32):
    %last = arith.constant {experts - 1} : i32
    %expert = arith.minsi %e, %last : i32
    linalg.yield %expert : i32
  }} -> {ids}"""
