"""Dispatches of the CPU kernels in compiler/ukernels/linear.h, as MLIR text.

One dispatch computes one, two or three layers that read the same rows: QKV, gate and up. A few
rows, a decode step, are read as they are; more are turned into panels by a dispatch before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from edgec.passes.kernel_call import executable, workgroup_share, wrap_kernel
from edgec.passes.rewriting import TorchTensor, tensor_type

__all__ = ["PACKED", "Layer", "linear_fits", "linear_template"]

_DTYPES = ("f32", "f16", "bf16")
_PARTS = (1, 2, 3)  # layers that a kernel takes
PACKED = (32, 512)
"""Rows, whole panels, and columns that a workgroup turns into panels."""

_STEP, _FEW, _PANEL, _MOST_ROWS = 32, 8, 16, 256  # as in linear.h
_MANY_WEIGHTS = (24, 48)
"""Rows of weights of a workgroup with many rows: whole tiles of every level. The smaller where the
larger would leave fewer than `_BUSY` workgroups."""
_BUSY = 32
_FEW_WEIGHTS = 4  # rows of weights of a tile with few rows


@dataclass(frozen=True)
class Layer:
    """One of the layers, with the types as in `edgec::linear`."""

    weight: TorchTensor
    result: TorchTensor
    biased: bool


def linear_fits(x: TorchTensor, weight: TorchTensor) -> bool:
    """Whether the kernels take a layer: whole steps of columns, f32 activations."""
    k = weight.shape[-1]
    return x.dtype == "f32" and weight.dtype in _DTYPES and k is not None and k % _STEP == 0


def linear_template(symbol: str, x: TorchTensor, layers: list[Layer], level: str) -> str:
    """The executable and the function `symbol` of %x and, layer by layer, weight and bias."""
    leading = x.shape[:-1]
    m = None if None in leading else prod(d for d in leading if d is not None)
    k = x.shape[-1]
    assert k is not None
    rows = tensor_type((m, k), "f32")
    axes = f"[[{', '.join(map(str, range(len(leading))))}], [{len(leading)}]]"
    dims = [
        f"  %i{i} = arith.constant {i} : index\n  %d{i} = tensor.dim %x, %i{i} : {x.builtin}"
        for i, d in enumerate(leading)
        if d is None
    ]
    arguments, after = [], []
    for i, layer in enumerate(layers):
        n = layer.weight.shape[0]
        assert n is not None
        out, product = tensor_type((m, n), "f32"), _product(i, len(layers))
        arguments.append(f"%w{i}: {layer.weight.builtin}")
        if layer.biased:
            arguments.append(f"%bias{i}: tensor<{n}xf32>")
            after.append(_add_bias(i, n, product, out, m is None))
            product = f"%biased{i}"
        sizes = [f"%d{j}" if d is None else str(d) for j, d in enumerate(layer.result.shape)]
        after.append(f"""  %result{i} = tensor.expand_shape {product} {axes}
      output_shape [{", ".join(sizes)}] : {out} into {layer.result.builtin}""")
    results = ", ".join(layer.result.builtin for layer in layers)
    newline = "\n"
    return f"""
{_executable(level)}
util.func private @"{symbol}"(%x: {x.builtin}, {", ".join(arguments)}) -> ({results}) {{
{newline.join(dims)}
  %rows = tensor.collapse_shape %x {axes} : {x.builtin} into {rows}
  %c0 = arith.constant 0 : index
  %m = tensor.dim %rows, %c0 : {rows}
{_dispatch(m, k, layers)}
{newline.join(after)}
  util.return {", ".join(f"%result{i}" for i in range(len(layers)))} : {results}
}}"""


def _product(i: int, parts: int) -> str:
    return f"%product#{i}" if parts > 1 else "%product"


def _dispatch(m: int | None, k: int, layers: list[Layer]) -> str:
    parts, dtype = len(layers), layers[0].weight.dtype
    features = [layer.weight.shape[0] or 0 for layer in layers]
    few = m is not None and m <= _FEW
    each = _few_weights(sum(features), k, dtype) if few else _many_weights(sum(features))
    constants = {f"n{i}": n for i, n in enumerate(features)}
    constants |= {"k": k, "total": sum(features), "each": each}
    lines = "\n".join(f"  %{name} = arith.constant {v} : index" for name, v in constants.items())
    dynamic = "{%m}" if m is None else ""
    rows = tensor_type((m, k), "f32")
    names = ", ".join(["%m", *(f"%n{i}" for i in range(parts)), "%k", "%each"])
    indices = ", ".join(["index"] * (parts + 3))
    weights = ", ".join(f"%w{i}" for i in range(parts))
    types = ", ".join(layer.weight.builtin for layer in layers)
    outs = ", ".join(f"{tensor_type((m, n), 'f32')}{dynamic}" for n in features)
    product = f"%product{f':{parts}' if parts > 1 else ''}"
    if few:
        return f"""{lines}
  {product} = flow.dispatch @edgec_linear::@few{parts}_{dtype}[%total, %each](
      %rows, {weights}, {names}) : ({rows}, {types}, {indices}) -> ({outs})"""
    panels = tensor_type((None if m is None else -(-m // _PANEL) * _PANEL, k), "f32")
    size = "{%padded}" if m is None else ""
    return f"""{lines}
  %panel = arith.constant {_PANEL} : index
  %count = arith.ceildivui %m, %panel : index
  %padded = arith.muli %count, %panel : index
  %panels = flow.dispatch @edgec_linear::@pack[%m, %k](%rows, %m, %k)
      : ({rows}{dynamic}, index, index) -> {panels}{size}
  {product} = flow.dispatch @edgec_linear::@many{parts}_{dtype}[%total, %each, %m](
      %panels, {weights}, {names}) : ({panels}{size}, {types}, {indices}) -> ({outs})"""


def _few_weights(rows: int, k: int, dtype: str) -> int:
    """Rows of weights of a workgroup with few rows: whole tiles."""
    tile = _FEW_WEIGHTS * k * (4 if dtype == "f32" else 2)
    return workgroup_share(-(-rows // _FEW_WEIGHTS), tile) * _FEW_WEIGHTS


def _many_weights(rows: int) -> int:
    small, large = _MANY_WEIGHTS
    return large if rows >= large * _BUSY else small


def _add_bias(i: int, n: int, product: str, out: str, dynamic: bool) -> str:
    same = "affine_map<(i, j) -> (i, j)>"
    return f"""  %empty{i} = tensor.empty({"%m" if dynamic else ""}) : {out}
  %biased{i} = linalg.generic {{
      indexing_maps = [{same}, affine_map<(i, j) -> (j)>, {same}],
      iterator_types = ["parallel", "parallel"]
    }} ins({product}, %bias{i} : {out}, tensor<{n}xf32>) outs(%empty{i} : {out}) {{
  ^bb0(%a: f32, %b: f32, %unused: f32):
    %c = arith.addf %a, %b : f32
    linalg.yield %c : f32
  }} -> {out}"""


def _executable(level: str) -> str:
    exports = [_PACK_EXPORT]
    functions = [
        wrap_kernel(
            "pack",
            "edgec_linear_pack",
            ["f32", "f32"],
            indices=["m", "k"],
            body=f"""
      %x = stream.dispatch.workgroup.id[0] : index
      %rows = arith.constant {PACKED[0]} : index
      %row = arith.muli %x, %rows : index
      %y = stream.dispatch.workgroup.id[1] : index
      %columns = arith.constant {PACKED[1]} : index
      %column = arith.muli %y, %columns : index""",
            extra=["row", "rows", "column", "columns"],
        )
    ]
    for parts in _PARTS:
        for dtype in _DTYPES:
            exports += [_few_export(parts, dtype), _many_export(parts, dtype)]
            functions += [_few_function(parts, dtype), _many_function(parts, dtype)]
    return executable("edgec_linear", "linear", level, "".join(exports), "".join(functions))


_PACK_EXPORT = f"""
  stream.executable.export public @pack workgroups(%m: index, %k: index)
      -> (index, index, index) {{
    %c1 = arith.constant 1 : index
    %rows = arith.constant {PACKED[0]} : index
    %columns = arith.constant {PACKED[1]} : index
    %x = arith.ceildivui %m, %rows : index
    %y = arith.ceildivui %k, %columns : index
    stream.return %x, %y, %c1 : index, index, index
  }}"""


def _few_export(parts: int, dtype: str) -> str:
    return f"""
  stream.executable.export public @few{parts}_{dtype} workgroups(%total: index, %each: index)
      -> (index, index, index) {{
    %c1 = arith.constant 1 : index
    %x = arith.ceildivui %total, %each : index
    stream.return %x, %c1, %c1 : index, index, index
  }}"""


def _many_export(parts: int, dtype: str) -> str:
    return f"""
  stream.executable.export public @many{parts}_{dtype} workgroups(
      %total: index, %each: index, %m: index) -> (index, index, index) {{
    %c1 = arith.constant 1 : index
    %most = arith.constant {_MOST_ROWS} : index
    %x = arith.ceildivui %total, %each : index
    %y = arith.ceildivui %m, %most : index
    stream.return %x, %y, %c1 : index, index, index
  }}"""


_FIRST = """
      %x = stream.dispatch.workgroup.id[0] : index
      %first = arith.muli %x, %each : index"""


def _few_function(parts: int, dtype: str) -> str:
    return wrap_kernel(
        f"few{parts}_{dtype}",
        f"edgec_linear{parts}_few_{dtype}",
        ["f32", *[dtype] * parts, *["f32"] * parts],
        indices=["m", *(f"n{i}" for i in range(parts)), "k", "each"],
        body=_FIRST,
        extra=["first", "each"],
        hidden=("each",),
    )


def _many_function(parts: int, dtype: str) -> str:
    return wrap_kernel(
        f"many{parts}_{dtype}",
        f"edgec_linear{parts}_many_{dtype}",
        ["f32", *[dtype] * parts, *["f32"] * parts],
        indices=["m", *(f"n{i}" for i in range(parts)), "k", "each"],
        body=f"""{_FIRST}
      %y = stream.dispatch.workgroup.id[1] : index
      %rows = arith.constant {_MOST_ROWS} : index
      %row = arith.muli %y, %rows : index""",
        extra=["first", "each", "row", "rows"],
        hidden=("each",),
    )
