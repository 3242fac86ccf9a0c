"""`edgec::grouped_matmul` for CPUs: a dispatch written out, so that its loop may end early.

How many rows an expert has is data. A tensor operation's sizes must be known before it starts, but
a workgroup's own code may loop as often as it likes: it reads its expert's offsets and multiplies
tile after tile of rows with the strip of weights that stays in its cache.
"""

from __future__ import annotations

from edgec.passes.kernels.experts_shape import ROW_BLOCK, GroupedMatmul

__all__ = ["cpu_template"]

_STRIP_BYTES = 256 << 10
"""Bytes of weights, at most, that one workgroup reads: they should stay in a core's cache."""

_TENSOR = "!iree_tensor_ext.dispatch.tensor"


def cpu_template(symbol: str, case: GroupedMatmul) -> str:
    """The function `symbol` that computes `case`, as text."""
    strip = _divisor(case.n, max(16, min(64, _STRIP_BYTES // (case.k * _bytes(case)))))
    block = ROW_BLOCK if case.sorted else 1
    x, w, y = case.x.builtin, case.weight.builtin, case.result.builtin
    groups, biases = case.groups.builtin, case.bias.builtin if case.bias else ""
    # Tensors with a dynamic number of rows carry it, outside of the dispatch and inside.
    dynamic = case.rows is None
    rows, all_rows = ("{%rows}", "{%all}") if dynamic else ("", "")
    group_rows, group_all = ("", "") if case.sorted else (rows, all_rows)
    numbers = str(case.experts + 1) if case.sorted else ("%all" if dynamic else str(case.rows))
    count = "%experts" if case.sorted else "%rows"
    operands = ["%x", "%weight", "%index"]
    types = [f"{x}{rows}", w, f"{groups}{group_rows}"]
    arguments = [
        f"%x_in: {_TENSOR}<readonly:{x}>",
        f"%weight_in: {_TENSOR}<readonly:{w}>",
        f"%index_in: {_TENSOR}<readonly:{groups}>",
    ]
    if dynamic:
        operands, types = [*operands, "%rows"], [*types, "index"]
        arguments.append("%rows_in: index")
    if case.biased:
        operands, types = [*operands, "%bias"], [*types, biases]
        arguments.append(f"%bias_in: {_TENSOR}<readonly:{biases}>")
    arguments.append(f"%y_out: {_TENSOR}<writeonly:{y}>")
    bias = f"%bias: {biases}, " if case.biased else ""
    comma = ",\n       "
    return f"""
util.func private @"{symbol}"(%x: {x}, %weight: {w},
    {bias}%index: {groups}) -> {y} {{
  %c0 = arith.constant 0 : index
  %rows = tensor.dim %x, %c0 : {x}
  %experts = arith.constant {case.experts} : index
  %strips = arith.constant {case.n // strip} : index
  %result = flow.dispatch.workgroups[%strips, {count}]({", ".join(operands)})
      : ({", ".join(types)})
      -> {y}{rows} =
      ({comma.join(arguments)}) {{
{_ties(case) if dynamic else ""}      %zero = arith.constant 0.0 : f32
      %one = arith.constant 1 : index
      %block = arith.constant {block} : index
      %strip = arith.constant {strip} : index
      %s = flow.dispatch.workgroup.id[0] : index
      %g = flow.dispatch.workgroup.id[1] : index
      %column = arith.muli %s, %strip : index
      %numbers = iree_tensor_ext.dispatch.tensor.load {_inside("%index_in", case)},
          offsets = [0], sizes = [{numbers}], strides = [1]
          : {_TENSOR}<readonly:{groups}>{group_all} -> {groups}
{_rows_of_group(case)}
{_tile(case, strip, block, all_rows)}
      }}
      flow.return
    }} count(%a: index, %b: index) -> (index, index, index) {{
      %unit = arith.constant 1 : index
      flow.return %a, %b, %unit : index, index, index
    }}
  util.return %result : {y}
}}"""


def _bytes(case: GroupedMatmul) -> int:
    return 4 if case.weight.dtype == "f32" else 2


def _tied(case: GroupedMatmul) -> dict[str, str]:
    """Values with a dynamic number of rows: each name in the dispatch to its type."""
    if case.rows is not None:
        return {}
    tied = {
        "%x_in": f"{_TENSOR}<readonly:{case.x.builtin}>",
        "%y_out": f"{_TENSOR}<writeonly:{case.result.builtin}>",
    }
    if not case.sorted:
        tied["%index_in"] = f"{_TENSOR}<readonly:{case.groups.builtin}>"
    return tied


def _inside(name: str, case: GroupedMatmul) -> str:
    """The name of a dispatch's argument once its number of rows is tied to it."""
    return f"{name}_tied" if name in _tied(case) else name


def _ties(case: GroupedMatmul) -> str:
    ordinal = 2 if case.sorted else 1  # after the two, or with the one, that size the grid
    lines = [f"%all = iree_tensor_ext.dispatch.workload.ordinal %rows_in, {ordinal} : index"]
    for name, type_ in _tied(case).items():
        lines.append(f"{name}_tied = flow.dispatch.tie_shape {name} : {type_}{{%all}}")
    return "".join(f"      {line}\n" for line in lines)


def _rows_of_group(case: GroupedMatmul) -> str:
    """Opens a loop over the first rows `%m` of this workgroup's tiles."""
    if case.sorted:
        return f"""      %next = arith.addi %g, %one : index
      %begin_i32 = tensor.extract %numbers[%g] : {case.groups.builtin}
      %end_i32 = tensor.extract %numbers[%next] : {case.groups.builtin}
      %begin = arith.index_cast %begin_i32 : i32 to index
      %end = arith.index_cast %end_i32 : i32 to index
      scf.for %m = %begin to %end step %block {{"""
    return f"""      %expert_i32 = tensor.extract %numbers[%g] : {case.groups.builtin}
      %expert = arith.index_cast %expert_i32 : i32 to index
      %end = arith.addi %g, %one : index
      scf.for %m = %g to %end step %block {{"""


def _tile(case: GroupedMatmul, strip: int, block: int, inner: str) -> str:
    """The product of one tile of rows with one strip of an expert's matrix."""
    x, w, y, k = case.x.builtin, case.weight.builtin, case.result.builtin, case.k
    element = case.weight.dtype
    expert = "%g" if case.sorted else "%expert"
    place, sizes = (
        (f"[{expert}, 0, %column]", f"[1, {k}, {strip}]")
        if case.transposed
        else (f"[{expert}, %column, 0]", f"[1, {strip}, {k}]")
    )
    matrix = (
        f"tensor<{k}x{strip}x{element}>" if case.transposed else f"tensor<{strip}x{k}x{element}>"
    )
    rows, tile = f"tensor<{block}x{k}xf32>", f"tensor<{block}x{strip}xf32>"
    wide, widen = "%b", ""
    if element != "f32":
        wide, widen = "%wb", f"          %wb = arith.extf %b : {element} to f32\n"
    vector = _vectors(case, strip, block)
    if case.bias:
        initial = f"""        %bias_row = iree_tensor_ext.dispatch.tensor.load %bias_in,
            offsets = [{expert}, %column], sizes = [1, {strip}], strides = [1, 1]
            : {_TENSOR}<readonly:{case.bias.builtin}> -> tensor<{strip}xf32>
        %initial = linalg.broadcast ins(%bias_row : tensor<{strip}xf32>) outs(%empty : {tile})
            dimensions = [0]"""
    else:
        initial = f"""        %initial = linalg.fill ins(%zero : f32)
            outs(%empty : {tile}) -> {tile}"""
    return f"""        %xs = iree_tensor_ext.dispatch.tensor.load {_inside("%x_in", case)},
            offsets = [%m, 0], sizes = [{block}, {k}], strides = [1, 1]
            : {_TENSOR}<readonly:{x}>{inner} -> {rows}
        %ws = iree_tensor_ext.dispatch.tensor.load %weight_in, offsets = {place}, sizes = {sizes},
            strides = [1, 1, 1] : {_TENSOR}<readonly:{w}> -> {matrix}
        %empty = tensor.empty() : {tile}
{initial}
        %product = linalg.generic {{
            indexing_maps = [affine_map<(m, n, k) -> (m, k)>,
                             affine_map<(m, n, k) -> ({"k, n" if case.transposed else "n, k"})>,
                             affine_map<(m, n, k) -> (m, n)>],
            iterator_types = ["parallel", "parallel", "reduction"]
          }} ins(%xs, %ws : {rows}, {matrix}) outs(%initial : {tile}) attrs = {{
            compilation_info = #iree_codegen.compilation_info<
              lowering_config = #iree_cpu.lowering_config<distribution = [0, 0, 0], {vector}>,
              translation_info = #iree_codegen.translation_info<
                pipeline = #iree_cpu.pipeline<DoubleTilingExpert>>>}} {{
        ^bb0(%a: f32, %b: {element}, %sum: f32):
{widen}          %p = arith.mulf %a, {wide} : f32
          %t = arith.addf %sum, %p : f32
          linalg.yield %t : f32
        }} -> {tile}
        iree_tensor_ext.dispatch.tensor.store %product, {_inside("%y_out", case)},
            offsets = [%m, %column], sizes = [{block}, {strip}], strides = [1, 1]
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
