"""`lower-quantized-linear`: `edgec::quantized_linear` as a contraction or as a kernel's dispatch.

The contraction unpacks, scales and multiplies in its body, so that the weights are read in their
packed form; CUDA's code generation cannot distribute it and takes `form=apart`. With
`kernel=<level>` the layers that the level's kernel can compute become dispatches of it (see
`edgec.passes.kernels.quantized`), with their norm, activation or residual sum
(`edgec.passes.patterns.folds`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from iree.compiler import ir

from edgec.passes.kernels.quantized import (
    Layer,
    QuantizedShape,
    kernel_fits,
    one_row,
    quantized_template,
)
from edgec.passes.patterns.folds import Folded, find_folds
from edgec.passes.patterns.same_input import same_input
from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    constant_int,
    custom_ops,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
    tensor_type,
)

__all__ = ["Halves", "LowerQuantizedLinear"]

Placed = tuple[ir.Operation, Layer]


@dataclass(frozen=True)
class LowerQuantizedLinear:
    """Attributes:

    kernel: `generic`, or the feature level whose kernels are linked in.
    form: `fused` or, for code generation that cannot distribute that, `apart`: the weights are
        dequantised by an operation of their own.
    """

    kernel: str = "generic"
    form: str = "fused"

    def __post_init__(self) -> None:
        if self.form not in ("fused", "apart"):
            raise ValueError(f"form={self.form}: must be fused or apart")

    def run(self, module: ir.Module) -> None:
        layers = [(op, _layer(op)) for op in custom_ops(module, "quantized_linear")]
        if self.kernel != "generic":
            layers = self._dispatch(module, layers)
        for op, layer in layers:
            compute = (_contraction if self.form == "fused" else _apart)(layer.shape)
            x = parse_torch_tensor(op.operands[0].type)
            symbol = symbol_name("quantized_linear", x, *_labels(layer))
            insert_function(module, symbol, _function(symbol, x, layer, compute))
            call_template(op, symbol, [op.operands[0], *_given(op)], layer.result)

    def _dispatch(self, module: ir.Module, layers: list[Placed]) -> list[Placed]:
        """Lowers the layers that the kernels take, and returns the others."""
        known = {id(op): layer for op, layer in layers if kernel_fits(layer.shape)}
        fitting = [(op, layer) for op, layer in layers if id(op) in known]
        for folded in self._groups(fitting):
            members = [known[id(op)] for op in folded.layers]
            x = parse_torch_tensor(folded.x.type)
            labels = [label for layer in members for label in _labels(layer)]
            kind = f"quantized_linear.{self.kernel}"
            symbol = symbol_name(kind, x, *labels, *folded.folds.labels)
            results = [parse_torch_tensor(op.results[0].type) for op in folded.replaced]
            text = quantized_template(symbol, x, members, results, folded.folds, self.kernel)
            insert_function(module, symbol, text)
            folded.call(symbol, [v for op in folded.layers for v in _given(op)])
        return [(op, layer) for op, layer in layers if id(op) not in known]

    def _groups(self, fitting: list[Placed]) -> Iterator[Folded]:
        """Layers that are one dispatch: of one row those that share it, of more a gate's two."""
        grouped = set()
        for group in list(same_input(fitting, lambda layer: (layer.shape.form, layer.shape.group))):
            ops, biased = [op for op, _ in group], any(layer.biased for _, layer in group)
            folded = find_folds(ops, biased=biased, norms=True)
            if folded.folds.activation is not None or all(one_row(la.shape) for _, la in group):
                grouped |= {id(op) for op in ops}
                yield folded
        for op, layer in fitting:
            if id(op) not in grouped:
                yield find_folds([op], biased=layer.biased, norms=True)


def _layer(op: ir.Operation) -> Layer:
    x, weight, scales = (parse_torch_tensor(op.operands[i].type) for i in range(3))
    leading = x.shape[:-1]
    m = None if None in leading else prod(d for d in leading if d is not None)
    shape = QuantizedShape.of(m, constant_int(op.operands[4]), x, weight, scales)
    result = parse_torch_tensor(op.results[0].type)
    return Layer(shape, weight, scales, result, not is_none(op.operands[3]))


def _given(op: ir.Operation) -> list[ir.Value]:
    """Weights, scales and, if there is one, the bias."""
    return [v for v in list(op.operands)[1:4] if not is_none(v)]


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
    """The layer as a `linalg.generic` over panels."""
    m, n, k, group = shape.m, shape.n, shape.k, shape.group
    columns = 4 if shape.bits == 8 else 8
    groups, blocks = k // group, group // columns
    rows = tensor_type((m, k), "f32")
    inner = (4,) if shape.bits == 8 else (2, 4)
    split = tensor_type((m, groups, blocks, *inner), "f32")
    packed = tensor_type((shape.panels, k // columns, 16, 4), "i8")
    grouped = tensor_type((shape.panels, groups, blocks, 16, 4), "i8")
    scales = tensor_type((shape.panels, groups, 16), "f16")
    zeros = _ZeroPoints.of(shape, scales)
    wide = tensor_type((m, shape.panels, 16), "f32")
    flat, out = tensor_type((m, shape.panels * 16), "f32"), tensor_type((m, n), "f32")
    size = "%m" if m is None else str(m)
    halves = Halves.of(
        shape.bits,
        "%split",
        (m, groups, blocks),
        size,
        (_DIMS, "m, g, b, j"),
        above=shape.zero_points,
    )
    axes = ", ".join(str(i) for i in range(1, 3 + len(inner)))
    return f"""
  %zero = arith.constant 0.0 : f32
  %split = tensor.expand_shape %rows [[0], [{axes}]]
      output_shape [{size}, {groups}, {blocks}, {", ".join(map(str, inner))}]
      : {rows} into {split}{halves.define}
  %grouped = tensor.expand_shape %weight [[0], [1, 2], [3], [4]]
      output_shape [{shape.panels}, {groups}, {blocks}, 16, 4] : {packed} into {grouped}
{zeros.slices}
  %wide_empty = tensor.empty({"%m" if m is None else ""}) : {wide}
  %wide_zero = linalg.fill ins(%zero : f32) outs(%wide_empty : {wide}) -> {wide}
  %wide = linalg.generic {{
      indexing_maps = [{halves.maps}
                       affine_map<({_DIMS}) -> (p, g, b, n, j)>,
                       affine_map<({_DIMS}) -> (p, g, n)>,{zeros.map}
                       affine_map<({_DIMS}) -> (m, p, n)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction", "reduction",
                        "reduction"]
    }} ins({halves.operands}, %grouped, {zeros.operands}
           : {halves.types}, {grouped}, {zeros.types})
      outs(%wide_zero : {wide}) {{
  ^bb0({halves.arguments}, %w: i8, %scale: f16{zeros.argument}, %sum: f32):
{halves.product}
    %s = arith.addf %sum, %p : f32
    linalg.yield %s : f32
  }} -> {wide}
  %flat = tensor.collapse_shape %wide [[0], [1, 2]] : {wide} into {flat}
  %product = tensor.extract_slice %flat[0, 0] [{size}, {n}] [1, 1] : {flat} to {out}"""


_DIMS = "m, p, n, g, b, j"


def _apart(shape: QuantizedShape) -> str:
    """The matrix dequantised, `[N, K]` in f32, then a plain product."""
    m, n, k, group, panels = shape.m, shape.n, shape.k, shape.group, shape.panels
    columns = 4 if shape.bits == 8 else 8
    groups, blocks, halves = k // group, group // columns, columns // 4
    rows, out = tensor_type((m, k), "f32"), tensor_type((m, n), "f32")
    packed = tensor_type((panels, k // columns, 16, 4), "i8")
    grouped = tensor_type((panels, groups, blocks, 16, 4), "i8")
    scales = tensor_type((panels, groups, 16), "f16")
    zeros = _ZeroPoints.of(shape, scales)
    wide = tensor_type((panels, 16, groups, blocks, halves, 4), "f32")
    flat, matrix = tensor_type((panels * 16, k), "f32"), tensor_type((n, k), "f32")
    integer = "    %integer = arith.extsi %w : i8 to i32"
    if shape.bits == 4:
        integer = """    %half = linalg.index 4 : index
    %half_i32 = arith.index_cast %half : index to i32
    %four = arith.constant 4 : i32
    %shift = arith.muli %half_i32, %four : i32
    %byte = arith.extui %w : i8 to i32
    %shifted = arith.shrui %byte, %shift : i32
    %mask = arith.constant 15 : i32
    %nibble = arith.andi %shifted, %mask : i32
    %eight = arith.constant 8 : i32
    %integer = arith.subi %nibble, %eight : i32"""
    above = "    %above = arith.sitofp %integer : i32 to f32"
    if shape.zero_points:
        above = """    %float = arith.sitofp %integer : i32 to f32
    %z_f32 = arith.extf %z : f16 to f32
    %above = arith.subf %float, %z_f32 : f32"""
    scale_map = "affine_map<(p, n, g, b, h, j) -> (p, g, n)>,"
    return f"""
  %zero = arith.constant 0.0 : f32
  %grouped = tensor.expand_shape %weight [[0], [1, 2], [3], [4]]
      output_shape [{panels}, {groups}, {blocks}, 16, 4] : {packed} into {grouped}
{zeros.slices}
  %wide_empty = tensor.empty() : {wide}
  %wide = linalg.generic {{
      indexing_maps = [affine_map<(p, n, g, b, h, j) -> (p, g, b, n, j)>,
                       {scale_map} {scale_map if shape.zero_points else ""}
                       affine_map<(p, n, g, b, h, j) -> (p, n, g, b, h, j)>],
      iterator_types = ["parallel", "parallel", "parallel", "parallel", "parallel", "parallel"]
    }} ins(%grouped, {zeros.operands} : {grouped}, {zeros.types}) outs(%wide_empty : {wide}) {{
  ^bb0(%w: i8, %scale: f16{zeros.argument}, %unused: f32):
{integer}
{above}
    %scale_f32 = arith.extf %scale : f16 to f32
    %value = arith.mulf %above, %scale_f32 : f32
    linalg.yield %value : f32
  }} -> {wide}
  %flat = tensor.collapse_shape %wide [[0, 1], [2, 3, 4, 5]] : {wide} into {flat}
  %matrix = tensor.extract_slice %flat[0, 0] [{n}, {k}] [1, 1] : {flat} to {matrix}
  %start = linalg.fill ins(%zero : f32) outs(%out : {out}) -> {out}
  %product = linalg.generic {{
      indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>,
                       affine_map<(m, n, k) -> (m, n)>],
      iterator_types = ["parallel", "parallel", "reduction"]
    }} ins(%rows, %matrix : {rows}, {matrix}) outs(%start : {out}) {{
  ^bb0(%a: f32, %b: f32, %sum: f32):
    %p = arith.mulf %a, %b : f32
    %s = arith.addf %sum, %p : f32
    linalg.yield %s : f32
  }} -> {out}"""


@dataclass(frozen=True)
class _ZeroPoints:
    """What zero points add to the contraction's text; without them, nothing."""

    operands: str
    types: str
    slices: str = ""
    map: str = ""
    argument: str = ""

    @staticmethod
    def of(shape: QuantizedShape, scales: str) -> _ZeroPoints:
        if not shape.zero_points:
            return _ZeroPoints("%scales", scales)
        groups = shape.k // shape.group
        both = tensor_type((2, shape.panels, groups, 16), "f16")
        slices = "\n".join(
            f"""\
  %{name} = tensor.extract_slice %scales[{i}, 0, 0, 0] [1, {shape.panels}, {groups}, 16]
      [1, 1, 1, 1] : {both} to {scales}"""
            for i, name in enumerate(("factors", "zeros"))
        )
        return _ZeroPoints(
            operands="%factors, %zeros",
            types=f"{scales}, {scales}",
            slices=slices,
            map=f"\n                       affine_map<({_DIMS}) -> (p, g, n)>,",
            argument=", %z: f16",
        )


@dataclass(frozen=True)
class Halves:
    """The activations of a contraction, apart for low and high nibbles; text of its parts.

    A byte holds two weights of 4 bits. Both are taken from it in the body, each with its own
    activation. A dimension for the nibble instead, and its number in the body or as an operand,
    is what Vulkan's code generation cannot compile, or computes wrongly.
    """

    define: str
    operands: str
    types: str
    arguments: str
    maps: str
    product: str

    @staticmethod
    def of(
        bits: int,
        source: str,
        sizes: tuple[int | None, ...],
        size: str,
        dims: tuple[str, str],
        *,
        above: bool = False,
    ) -> Halves:
        """The text for activations `[*sizes, 4]` with 8 bits, `[*sizes, 2, 4]` with 4.

        Args:
            bits: 8 or 4.
            source: The value that has them.
            sizes: Of dimensions before the columns of a block; the first may be dynamic.
            size: Of the first, as a value or number.
            dims: Of the `linalg.generic`: all, and those of the activations.
            above: Whether %z, f16, is subtracted from the integers.
        """
        inner = tensor_type((*sizes, 4), "f32")
        one = f"affine_map<({dims[0]}) -> ({dims[1]})>,"
        if bits == 8:
            return Halves("", source, inner, "%a: f32", one, _product(above, ("a", "w", "signed")))
        outer = tensor_type((*sizes, 2, 4), "f32")
        rank = len(sizes)
        lengths = ", ".join([size, *map(str, sizes[1:]), "1", "4"])
        define = "".join(
            f"""
  %{name} = tensor.extract_slice {source}[{"0, " * rank}{i}, 0] [{lengths}]
      [{"1, " * rank}1, 1] : {outer} to {inner}"""
            for i, name in enumerate(("low_half", "high_half"))
        )
        return Halves(
            define,
            "%low_half, %high_half",
            f"{inner}, {inner}",
            "%a: f32, %a_high: f32",
            f"{one} {one}",
            _product(above, ("a", "low", "low"), ("a_high", "high", "high")),
        )


_INTEGERS = {
    "signed": "    %w_i32 = arith.extsi %w : i8 to i32",
    "low": """    %byte = arith.extui %w : i8 to i32
    %mask = arith.constant 15 : i32
    %eight = arith.constant 8 : i32
    %low_nibble = arith.andi %byte, %mask : i32
    %low_i32 = arith.subi %low_nibble, %eight : i32""",
    "high": """    %four = arith.constant 4 : i32
    %high_nibble = arith.shrui %byte, %four : i32
    %high_i32 = arith.subi %high_nibble, %eight : i32""",
}


def _product(above: bool, *parts: tuple[str, str, str]) -> str:
    """Text of a body that makes %p, f32: activations by the weights of one byte, and %scale."""
    lines = ["    %z_f32 = arith.extf %z : f16 to f32"] if above else []
    for activation, name, integer in parts:
        lines += [_INTEGERS[integer], f"    %{name}_f32 = arith.sitofp %{name}_i32 : i32 to f32"]
        if above:
            lines.append(f"    %{name}_above = arith.subf %{name}_f32, %z_f32 : f32")
        weight = f"%{name}_{'above' if above else 'f32'}"
        lines.append(f"    %{name}_p = arith.mulf %{activation}, {weight} : f32")
    total = f"%{parts[0][1]}_p"
    if len(parts) == 2:
        lines.append(f"    %both_p = arith.addf {total}, %{parts[1][1]}_p : f32")
        total = "%both_p"
    lines.append("    %scale_f32 = arith.extf %scale : f16 to f32")
    lines.append(f"    %p = arith.mulf {total}, %scale_f32 : f32")
    return "\n".join(lines)
