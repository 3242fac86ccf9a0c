"""Quantised linear layers that read the same row, as one dispatch: QKV, gate and up.

A decode step's products are short. One dispatch for several of them halves the waiting for each
other that workers do between dispatches, and a workgroup's cost of rounding the row is shared.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.passes.kernel_call import executable, wrap_kernel
from edgec.passes.quantized_kernel import KERNELS, MAX_FUSED_K, QuantizedShape, workgroup_panels
from edgec.passes.rewriting import TorchTensor, tensor_type

__all__ = ["Layer", "merged_template", "merging_key"]

_KINDS = ("i8", "i4", "i4z")
_PARTS = (2, 3)  # layers that a kernel takes


@dataclass(frozen=True)
class Layer:
    """One of the layers: its sizes, and the types as in `edgec::quantized_linear`."""

    shape: QuantizedShape
    weight: TorchTensor
    scales: TorchTensor
    result: TorchTensor
    biased: bool


def merging_key(layer: Layer) -> object:
    """What layers that a kernel takes together have in common; None where it takes one alone."""
    shape = layer.shape
    if shape.m != 1 or shape.k > MAX_FUSED_K:
        return None
    return shape.kind, shape.group


def merged_template(symbol: str, x: TorchTensor, layers: list[Layer], level: str) -> str:
    """The executable and the function `symbol` of %x and, layer by layer, weight, scales, bias."""
    first = layers[0].shape
    parts, k = len(layers), first.k
    panels = sum(layer.shape.panels for layer in layers)
    row = tensor_type((1, k), "f32")
    axes = f"[[{', '.join(str(i) for i in range(len(x.shape) - 1))}], [{len(x.shape) - 1}]]"
    arguments, given, types, outs, sizes, after, results = [], [], [], [], [], [], []
    for i, layer in enumerate(layers):
        n, out = layer.shape.n, tensor_type((1, layer.shape.n), "f32")
        arguments += [f"%w{i}: {layer.weight.builtin}", f"%s{i}: {layer.scales.builtin}"]
        given += [f"%w{i}", f"%s{i}"]
        types += [layer.weight.builtin, layer.scales.builtin]
        outs.append(out)
        sizes.append(f"  %n{i} = arith.constant {n} : index")
        product = f"%product#{i}"
        if layer.biased:
            arguments.append(f"%bias{i}: tensor<{n}xf32>")
            after.append(_add_bias(i, n, out))
            product = f"%biased{i}"
        shape = ", ".join(map(str, layer.result.shape))
        after.append(f"""  %result{i} = tensor.expand_shape {product} {axes}
      output_shape [{shape}] : {out} into {layer.result.builtin}""")
        results.append(layer.result.builtin)
    numbers = ", ".join(f"%n{i}" for i in range(parts))
    newline = "\n"
    return f"""
{_executable(level)}
util.func private @"{symbol}"(%x: {x.builtin}, {", ".join(arguments)}) -> ({", ".join(results)}) {{
  %row = tensor.collapse_shape %x {axes} : {x.builtin} into {row}
{newline.join(sizes)}
  %k = arith.constant {k} : index
  %group = arith.constant {first.group} : index
  %panels = arith.constant {panels} : index
  %each = arith.constant {workgroup_panels(panels, first)} : index
  %product:{parts} = flow.dispatch @edgec_merged_linear::@matvec{parts}_{first.kind}[
      %panels, %each](%row, {", ".join(given)},
      {numbers}, %k, %group, %each)
      : ({row}, {", ".join(types)}, {", ".join(["index"] * (parts + 3))}) -> ({", ".join(outs)})
{newline.join(after)}
  util.return {", ".join(f"%result{i}" for i in range(parts))} : {", ".join(results)}
}}"""


def _add_bias(i: int, n: int, out: str) -> str:
    same = "affine_map<(i, j) -> (i, j)>"
    return f"""  %empty{i} = tensor.empty() : {out}
  %biased{i} = linalg.generic {{
      indexing_maps = [{same}, affine_map<(i, j) -> (j)>, {same}],
      iterator_types = ["parallel", "parallel"]
    }} ins(%product#{i}, %bias{i} : {out}, tensor<{n}xf32>) outs(%empty{i} : {out}) {{
  ^bb0(%a: f32, %b: f32, %unused: f32):
    %c = arith.addf %a, %b : f32
    linalg.yield %c : f32
  }} -> {out}"""


def _executable(level: str) -> str:
    exports, functions = "", ""
    for parts in _PARTS:
        for kind in _KINDS:
            exports += f"""
  stream.executable.export public @matvec{parts}_{kind} workgroups(%panels: index, %each: index)
      -> (index, index, index) {{
    %c1 = arith.constant 1 : index
    %x = arith.ceildivui %panels, %each : index
    stream.return %x, %c1, %c1 : index, index, index
  }}"""
            functions += wrap_kernel(
                f"matvec{parts}_{kind}",
                f"edgec_quantized_matvec{parts}_{kind}",
                ["f32", *["i8", "f16"] * parts, *["f32"] * parts],
                indices=[*(f"n{i}" for i in range(parts)), "k", "group", "each"],
                body="""
      %x = stream.dispatch.workgroup.id[0] : index
      %first = arith.muli %x, %each : index""",
                extra=["first", "each"],
                hidden=("each",),
            )
    return executable("edgec_merged_linear", KERNELS, level, exports, functions)
