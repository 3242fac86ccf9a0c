"""`lower-quantized-linear`: `edgec::quantized_linear` as a contraction or as a kernel's dispatch.

The contraction works on every target: it unpacks, scales and multiplies in its body, so that the
weights are read in their packed form. With `kernel=<level>` the layers that the level's kernel can
compute become dispatches of it (see `edgec.passes.quantized_kernel`); the others stay contractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from iree.compiler import ir

from edgec.passes.merged_linear import Layer, Placed, hoist, merged_template, same_input
from edgec.passes.quantized_kernel import QuantizedShape, kernel_fits, kernel_template
from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    call_together,
    constant_int,
    custom_ops,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
    tensor_type,
)

__all__ = ["LowerQuantizedLinear", "Nibbles", "integer_of"]


@dataclass(frozen=True)
class LowerQuantizedLinear:
    """Attributes: kernel: `generic`, or the feature level whose kernels are linked in."""

    kernel: str = "generic"

    def run(self, module: ir.Module) -> None:
        layers = [(op, _layer(op)) for op in custom_ops(module, "quantized_linear")]
        if self.kernel != "generic":
            layers = self._merge(module, layers)
        for op, layer in layers:
            compute = _contraction(layer.shape)
            extra, kind = "", "quantized_linear"
            if self.kernel != "generic" and kernel_fits(layer.shape):
                extra, compute = kernel_template(layer.shape, self.kernel)
                kind = f"quantized_linear.{self.kernel}"
            x = parse_torch_tensor(op.operands[0].type)
            symbol = symbol_name(kind, x, *_labels(layer))
            text = extra + _function(symbol, x, layer, compute)
            insert_function(module, symbol, text)
            operands = [v for v in list(op.operands)[:4] if not is_none(v)]
            call_template(op, symbol, operands, layer.result)

    def _merge(self, module: ir.Module, layers: list[Placed]) -> list[Placed]:
        """Lowers the layers of one row that share it, and returns the others."""
        fitting = [(op, layer) for op, layer in layers if kernel_fits(layer.shape)]
        left = {id(op): (op, layer) for op, layer in layers}
        for group in same_input(fitting):
            first, members = group[0][0], [layer for _, layer in group]
            given = [v for op, _ in group for v in list(op.operands)[1:4] if not is_none(v)]
            if not all(hoist(v, first) for v in given):
                continue
            x = parse_torch_tensor(first.operands[0].type)
            labels = [label for layer in members for label in _labels(layer)]
            symbol = symbol_name(f"quantized_linear.{self.kernel}", x, *labels)
            insert_function(module, symbol, merged_template(symbol, x, members, self.kernel))
            call_together([op for op, _ in group], symbol, [first.operands[0], *given])
            for op, _ in group:
                del left[id(op)]
        return list(left.values())


def _layer(op: ir.Operation) -> Layer:
    x, weight, scales = (parse_torch_tensor(op.operands[i].type) for i in range(3))
    leading = x.shape[:-1]
    m = None if None in leading else prod(d for d in leading if d is not None)
    shape = QuantizedShape.of(m, constant_int(op.operands[4]), x, weight, scales)
    result = parse_torch_tensor(op.results[0].type)
    return Layer(shape, weight, scales, result, not is_none(op.operands[3]))


def _labels(layer: Layer) -> list[TorchTensor | str]:
    bias = ["bias"] if layer.biased else []
    return [layer.weight, layer.scales, str(layer.shape.n), *bias]


def _function(symbol: str, x: TorchTensor, layer: Layer, compute: str) -> str:
    """A function around `compute`, which turns %rows [m, k] into %product [m, n]."""
    shape, weight, scales, result = layer.shape, layer.weight, layer.scales, layer.result
    n, biased = shape.n, layer.biased
    leading = x.shape[:-1]
    rows, out = tensor_type((shape.m, shape.k), "f32"), tensor_type((shape.m, n), "f32")
    axes = f"[[{', '.join(map(str, range(len(leading))))}], [{len(leading)}]]"
    dims = "\n".join(
        f"  %i{i} = arith.constant {i} : index\n  %d{i} = tensor.dim %x, %i{i} : {x.builtin}"
        for i, d in enumerate(leading)
        if d is None
    )
    sizes = ", ".join(f"%d{i}" if d is None else str(d) for i, d in enumerate(result.shape))
    bias, argument = "", ""
    if biased:
        argument = f", %bias: tensor<{n}xf32>"
        bias = f"""
  %biased = linalg.generic {{
      indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j)>,
                       affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]
    }} ins(%product, %bias : {out}, tensor<{n}xf32>) outs(%out : {out}) {{
  ^bb0(%a: f32, %b: f32, %unused: f32):
    %c = arith.addf %a, %b : f32
    linalg.yield %c : f32
  }} -> {out}"""
    return f"""
util.func private @"{symbol}"(%x: {x.builtin}, %weight: {weight.builtin},
    %scales: {scales.builtin}{argument}) -> {result.builtin} {{
{dims}
  %c0 = arith.constant 0 : index
  %rows = tensor.collapse_shape %x {axes} : {x.builtin} into {rows}
  %m = tensor.dim %rows, %c0 : {rows}
  %out = tensor.empty({"" if shape.m is not None else "%m"}) : {out}
{compute}{bias}
  %result = tensor.expand_shape {"%biased" if biased else "%product"} {axes}
      output_shape [{sizes}] : {out} into {result.builtin}
  util.return %result : {result.builtin}
}}"""


def _contraction(shape: QuantizedShape) -> str:
    """The layer as a `linalg.generic` over panels; a nibble's place is a dimension of its own."""
    m, n, k, group = shape.m, shape.n, shape.k, shape.group
    columns = 4 if shape.bits == 8 else 8
    groups, blocks, halves = k // group, group // columns, columns // 4
    rows = tensor_type((m, k), "f32")
    split = tensor_type((m, groups, blocks, halves, 4), "f32")
    packed = tensor_type((shape.panels, k // columns, 16, 4), "i8")
    grouped = tensor_type((shape.panels, groups, blocks, 16, 4), "i8")
    scales = tensor_type((shape.panels, groups, 16), "f16")
    zeros = _ZeroPoints.of(shape, scales)
    wide = tensor_type((m, shape.panels, 16), "f32")
    flat, out = tensor_type((m, shape.panels * 16), "f32"), tensor_type((m, n), "f32")
    size = "%m" if m is None else str(m)
    integer = integer_of(shape.bits)
    nibbles = Nibbles.of(shape.bits, "m, p, n, g, b, h, j", "h")
    return f"""
  %zero = arith.constant 0.0 : f32{nibbles.define}
  %split = tensor.expand_shape %rows [[0], [1, 2, 3, 4]]
      output_shape [{size}, {groups}, {blocks}, {halves}, 4] : {rows} into {split}
  %grouped = tensor.expand_shape %weight [[0], [1, 2], [3], [4]]
      output_shape [{shape.panels}, {groups}, {blocks}, 16, 4] : {packed} into {grouped}
{zeros.slices}
  %wide_empty = tensor.empty({"%m" if m is None else ""}) : {wide}
  %wide_zero = linalg.fill ins(%zero : f32) outs(%wide_empty : {wide}) -> {wide}
  %wide = linalg.generic {{
      indexing_maps = [affine_map<(m, p, n, g, b, h, j) -> (m, g, b, h, j)>,
                       affine_map<(m, p, n, g, b, h, j) -> (p, g, b, n, j)>,
                       affine_map<(m, p, n, g, b, h, j) -> (p, g, n)>,{zeros.map}
                       {nibbles.map}
                       affine_map<(m, p, n, g, b, h, j) -> (m, p, n)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction",
                        "reduction", "reduction"]
    }} ins({zeros.operands}{nibbles.operand}
           : {split}, {grouped}, {zeros.types}{nibbles.type})
      outs(%wide_zero : {wide}) {{
  ^bb0(%a: f32, %w: i8, %scale: f16{zeros.argument}{nibbles.argument}, %sum: f32):
{integer}
    %float = arith.sitofp %integer : i32 to f32{zeros.subtract}
    %scale_f32 = arith.extf %scale : f16 to f32
    %dequantized = arith.mulf {zeros.value}, %scale_f32 : f32
    %p = arith.mulf %a, %dequantized : f32
    %s = arith.addf %sum, %p : f32
    linalg.yield %s : f32
  }} -> {wide}
  %flat = tensor.collapse_shape %wide [[0], [1, 2]] : {wide} into {flat}
  %product = tensor.extract_slice %flat[0, 0] [{size}, {n}] [1, 1] : {flat} to {out}"""


@dataclass(frozen=True)
class _ZeroPoints:
    """What zero points add to the contraction's text; without them, nothing."""

    operands: str
    types: str
    slices: str = ""
    map: str = ""
    argument: str = ""
    subtract: str = ""
    value: str = "%float"

    @staticmethod
    def of(shape: QuantizedShape, scales: str) -> _ZeroPoints:
        if not shape.zero_points:
            return _ZeroPoints("%split, %grouped, %scales", scales)
        groups = shape.k // shape.group
        both = tensor_type((2, shape.panels, groups, 16), "f16")
        slices = "\n".join(
            f"""\
  %{name} = tensor.extract_slice %scales[{i}, 0, 0, 0] [1, {shape.panels}, {groups}, 16]
      [1, 1, 1, 1] : {both} to {scales}"""
            for i, name in enumerate(("factors", "zeros"))
        )
        return _ZeroPoints(
            operands="%split, %grouped, %factors, %zeros",
            types=f"{scales}, {scales}",
            slices=slices,
            map="\n                       affine_map<(m, p, n, g, b, h, j) -> (p, g, n)>,",
            argument=", %z: f16",
            subtract="""
    %z_f32 = arith.extf %z : f16 to f32
    %above = arith.subf %float, %z_f32 : f32""",
            value="%above",
        )


def integer_of(bits: int) -> str:
    """Text of a `linalg.generic`'s body that makes %integer, i32, of the packed byte %w.

    With 4 bits it needs %shift, which `Nibbles` adds to the operands.
    """
    if bits == 8:
        return "    %integer = arith.extsi %w : i8 to i32"
    return """    %byte = arith.extui %w : i8 to i32
    %shifted = arith.shrui %byte, %shift : i32
    %mask = arith.constant 15 : i32
    %nibble = arith.andi %shifted, %mask : i32
    %eight = arith.constant 8 : i32
    %integer = arith.subi %nibble, %eight : i32"""


@dataclass(frozen=True)
class Nibbles:
    """What says which nibble of a byte is meant: an operand, for 4 bits; text of its parts.

    The number of the dimension would do, but Vulkan's code generation keeps vectors of such
    numbers in shared memory, which cannot hold them.
    """

    define: str = ""
    map: str = ""
    operand: str = ""
    type: str = ""
    argument: str = ""

    @staticmethod
    def of(bits: int, dims: str, dim: str) -> Nibbles:
        """`dims` are the dimensions of the `linalg.generic`, with commas; `dim` is the nibble's."""
        if bits == 8:
            return Nibbles()
        return Nibbles(
            define="\n  %shifts = arith.constant dense<[0, 4]> : tensor<2xi32>",
            map=f"affine_map<({dims}) -> ({dim})>,",
            operand=", %shifts",
            type=", tensor<2xi32>",
            argument=", %shift: i32",
        )
