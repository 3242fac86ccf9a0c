"""`edgec::grouped_matmul` for CPUs: a dispatch written out, so that its loop may end early.

How many rows an expert has is data. A tensor operation's sizes must be known before it starts, but
a workgroup's own code may loop as often as it likes: it reads its expert's offsets and multiplies
tile after tile of rows with the strip of weights that stays in its cache.
"""

from __future__ import annotations

from edgec.passes.grouped_matmul_shape import ROW_BLOCK, GroupedMatmul

__all__ = ["cpu_template"]

_STRIP_BYTES = 256 << 10
"""Of weights, at most, that one workgroup reads: they should stay in a core's cache."""

_TENSOR = "!iree_tensor_ext.dispatch.tensor"


def cpu_template(symbol: str, case: GroupedMatmul) -> str:
    dynamic = case.rows is None
    bytes_each = 4 if case.weight.dtype == "f32" else 2
    strip = _divisor(case.n, max(16, min(64, _STRIP_BYTES // (case.k * bytes_each))))
    block = ROW_BLOCK if case.sorted else 1
    x, w, y = case.x.builtin, case.weight.builtin, case.result.builtin
    rows = "{%rows}" if dynamic else ""
    inner = "{%all}" if dynamic else ""
    groups, count = case.groups, "?" if dynamic and not case.sorted else ""
    grid = f"{case.experts}" if case.sorted else ("%rows" if dynamic else f"{case.rows}")
    group_size = "{%rows}" if count else ""
    bias_operand = ", %bias" if case.biased else ""
    bias_type = f", {case.bias}" if case.biased else ""
    bias_argument = f",\n       %ba: {_TENSOR}<readonly:{case.bias}>" if case.biased else ""
    ties = ""
    x_in, y_out, g_in = "%xa", "%ya", "%ga"
    if dynamic:
        ties = f"""      %all = iree_tensor_ext.dispatch.workload.ordinal %ra, 2 : index
      %xt = flow.dispatch.tie_shape %xa : {_TENSOR}<readonly:{x}>{inner}
      %yt = flow.dispatch.tie_shape %ya : {_TENSOR}<writeonly:{y}>{inner}
"""
        x_in, y_out = "%xt", "%yt"
        if count:
            ties += (
                f"      %gt = flow.dispatch.tie_shape %ga : {_TENSOR}<readonly:{groups}>{inner}\n"
            )
            g_in = "%gt"
    size = "%all" if count else str(case.experts + 1 if case.sorted else case.rows)
    group_inner = inner if count else ""
    grid_constant = grid if grid.startswith("%") else "%groups"
    constant = "" if grid.startswith("%") else f"  %groups = arith.constant {grid} : index\n"
    return f"""
util.func private @"{symbol}"(%x: {x}, %weight: {w}{f", %bias: {case.bias}" if case.biased else ""},
    %index: {groups}) -> {y} {{
  %c0 = arith.constant 0 : index
  %rows = tensor.dim %x, %c0 : {x}
  %strips = arith.constant {case.n // strip} : index
{constant}  %result = flow.dispatch.workgroups[%strips, {grid_constant}](%x, %weight, %index{", %rows" if dynamic else ""}{bias_operand})
      : ({x}{rows}, {w}, {groups}{group_size}{", index" if dynamic else ""}{bias_type}) -> {y}{rows} =
      (%xa: {_TENSOR}<readonly:{x}>,
       %wa: {_TENSOR}<readonly:{w}>,
       %ga: {_TENSOR}<readonly:{groups}>{",%ra: index" if dynamic else ""}{bias_argument},
       %ya: {_TENSOR}<writeonly:{y}>) {{
{ties}      %zero = arith.constant 0.0 : f32
      %one = arith.constant 1 : index
      %block = arith.constant {block} : index
      %strip = arith.constant {strip} : index
      %s = flow.dispatch.workgroup.id[0] : index
      %g = flow.dispatch.workgroup.id[1] : index
      %column = arith.muli %s, %strip : index
      %numbers = iree_tensor_ext.dispatch.tensor.load {g_in}, offsets = [0], sizes = [{size}], strides = [1]
          : {_TENSOR}<readonly:{groups}>{group_inner} -> {groups}
{_rows_of_group(case)}
{_tile(case, strip, block, x_in, y_out, inner)}
      }}
      flow.return
    }} count(%a: index, %b: index) -> (index, index, index) {{
      %unit = arith.constant 1 : index
      flow.return %a, %b, %unit : index, index, index
    }}
  util.return %result : {y}
}}"""


def _rows_of_group(case: GroupedMatmul) -> str:
    """Opens a loop over the first rows `%m` of this workgroup's tiles."""
    if case.sorted:
        return f"""      %next = arith.addi %g, %one : index
      %begin_i32 = tensor.extract %numbers[%g] : {case.groups}
      %end_i32 = tensor.extract %numbers[%next] : {case.groups}
      %begin = arith.index_cast %begin_i32 : i32 to index
      %end = arith.index_cast %end_i32 : i32 to index
      scf.for %m = %begin to %end step %block {{"""
    return f"""      %expert_i32 = tensor.extract %numbers[%g] : {case.groups}
      %expert = arith.index_cast %expert_i32 : i32 to index
      %end = arith.addi %g, %one : index
      scf.for %m = %g to %end step %block {{"""


def _tile(
    case: GroupedMatmul, strip: int, block: int, x_in: str, y_out: str, inner: str
) -> str:
    """The product of one tile of rows with one strip of an expert's matrix."""
    x, w, y, k = case.x.builtin, case.weight.builtin, case.result.builtin, case.k
    element = case.weight.dtype
    expert = "%g" if case.sorted else "%expert"
    place, sizes = (
        (f"[{expert}, 0, %column]", f"[1, {k}, {strip}]")
        if case.transposed
        else (f"[{expert}, %column, 0]", f"[1, {strip}, {k}]")
    )
    matrix = f"tensor<{k}x{strip}x{element}>" if case.transposed else f"tensor<{strip}x{k}x{element}>"
    rows, tile = f"tensor<{block}x{k}xf32>", f"tensor<{block}x{strip}xf32>"
    wide = "%b" if element == "f32" else "%wb"
    vector = _vectors(case, strip, block)
    if case.biased:
        initial = f"""        %bias_row = iree_tensor_ext.dispatch.tensor.load %ba, offsets = [{expert}, %column],
            sizes = [1, {strip}], strides = [1, 1]
            : {_TENSOR}<readonly:{case.bias}> -> tensor<{strip}xf32>
        %initial = linalg.broadcast ins(%bias_row : tensor<{strip}xf32>) outs(%empty : {tile})
            dimensions = [0]"""
    else:
        initial = f"""        %initial = linalg.fill ins(%zero : f32) outs(%empty : {tile}) -> {tile}"""
    return f"""        %xs = iree_tensor_ext.dispatch.tensor.load {x_in}, offsets = [%m, 0],
            sizes = [{block}, {k}], strides = [1, 1] : {_TENSOR}<readonly:{x}>{inner} -> {rows}
        %ws = iree_tensor_ext.dispatch.tensor.load %wa, offsets = {place}, sizes = {sizes},
            strides = [1, 1, 1] : {_TENSOR}<readonly:{w}> -> {matrix}
        %empty = tensor.empty() : {tile}
{initial}
        %product = linalg.generic {{
            indexing_maps = [affine_map<(m, n, k) -> (m, k)>,
                             {case.weight_map("m, n, k", "n", "k")},
                             affine_map<(m, n, k) -> (m, n)>],
            iterator_types = ["parallel", "parallel", "reduction"]
          }} ins(%xs, %ws : {rows}, {matrix}) outs(%initial : {tile}) attrs = {{
            compilation_info = #iree_codegen.compilation_info<
              lowering_config = #iree_cpu.lowering_config<distribution = [0, 0, 0], {vector}>,
              translation_info = #iree_codegen.translation_info<
                pipeline = #iree_cpu.pipeline<DoubleTilingExpert>>>}} {{
        ^bb0(%a: f32, %b: {element}, %sum: f32):
{case.widen("%b", "%wb")}          %p = arith.mulf %a, {wide} : f32
          %t = arith.addf %sum, %p : f32
          linalg.yield %t : f32
        }} -> {tile}
        iree_tensor_ext.dispatch.tensor.store %product, {y_out}, offsets = [%m, %column],
            sizes = [{block}, {strip}], strides = [1, 1]
            : {tile} -> {_TENSOR}<writeonly:{y}>{inner}"""


def _vectors(case: GroupedMatmul, strip: int, block: int) -> str:
    """Sizes of the vector operations.

    Several rows share each vector of weights. One row reads them once, along a matrix's rows as
    they lie in memory: two to three times as fast there as the form for several rows.
    """
    if block == 1 and not case.transposed:
        rows, columns = 1, 1
    else:
        rows, columns = min(block, 8), _divisor(strip, 16)
    depth = _divisor(case.k, 32 if columns == 1 else 16)
    parallel = f"vector_common_parallel = [{rows}, {columns}, 0]"
    return f"{parallel}, vector_reduction = [0, 0, {depth}]"


def _divisor(n: int, limit: int) -> int:
    """The largest divisor of `n` up to `limit`: every tile is whole."""
    return next(d for d in range(min(n, limit), 0, -1) if n % d == 0)
