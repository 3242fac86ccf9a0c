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

from iree.compiler import ir

from edgec.passes.emit import Function, Tensor, Value
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
    call_template,
    constant_int,
    custom_ops,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
)

__all__ = ["LowerQuantizedLinear", "halves", "multiply"]

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
            x = parse_torch_tensor(op.operands[0].type)
            symbol = symbol_name("quantized_linear", x, *_labels(layer))
            insert_function(module, symbol, _function(symbol, x, layer, self.form))
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

        def alike(layer: Layer) -> tuple[object, ...]:
            return layer.shape.weight_format, layer.shape.group

        for group in list(same_input(fitting, alike)):
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
    shape = QuantizedShape.of(x.rows, constant_int(op.operands[4]), x, weight, scales)
    result = parse_torch_tensor(op.results[0].type)
    return Layer(shape, weight, scales, result, not is_none(op.operands[3]))


def _given(op: ir.Operation) -> list[ir.Value]:
    """Weights, scales and, if there is one, the bias."""
    return [v for v in list(op.operands)[1:4] if not is_none(v)]


def _labels(layer: Layer) -> list[Tensor | str]:
    bias = ["bias"] if layer.biased else []
    return [layer.weight, layer.scales, str(layer.shape.n), *bias]


def _function(symbol: str, x: Tensor, layer: Layer, form: str) -> str:
    bias = Tensor((layer.shape.n,), "f32") if layer.biased else None
    f = Function(symbol, x=x, weight=layer.weight, scales=layer.scales, bias=bias)
    rows = f.rows(f["x"])
    product = (_contraction if form == "fused" else _apart)(f, rows, layer.shape)
    if layer.biased:
        product = f.generic("i j, j -> i j", [product, f["bias"]], lambda a, b: a + b)
    return f.returns(f.unrows(product, f["x"]))


def _contraction(f: Function, rows: Value, shape: QuantizedShape) -> Value:
    """The layer as a `linalg.generic` over panels."""
    m = rows.size(0)
    activations = halves(f, f.expand(rows, m, shape.blocks), shape.bits)
    weights = [_grouped(f, shape), *_factors(f, shape)]

    def add(*elements: Value) -> Value:
        *read, total = elements
        return total + multiply(read[: len(activations)], *read[len(activations) :])

    axes = ["m g b j"] * len(activations) + ["p g b n j"] + ["p g n"] * (len(weights) - 1)
    wide = f.generic(f"{', '.join(axes)} -> m p n", [*activations, *weights], add, init=0.0)
    return f.slice(f.collapse(wide, 1, 2), (0, 0), (m, shape.n))


def _apart(f: Function, rows: Value, shape: QuantizedShape) -> Value:
    """The matrix dequantised, `[N, K]` in f32, then a plain product."""

    def dequantise(byte: Value, scale: Value, zero: Value | None = None) -> Value:
        integer = byte.to("i32", signed=shape.bits == 8)
        if shape.bits == 4:
            integer = (integer >> f.index("h").to("i32") * 4 & 15) - 8
        weight = integer.to("f32")
        return (weight if zero is None else weight - zero.to("f32")) * scale.to("f32")

    weights = [_grouped(f, shape), *_factors(f, shape)]
    axes = ["p g b n j"] + ["p g n"] * (len(weights) - 1)
    wide = f.generic(
        f"{', '.join(axes)} -> p n g b h j", weights, dequantise, sizes={"h": shape.columns // 4}
    )
    matrix = f.slice(f.collapse(wide, 2, 4), (0, 0), (shape.n, shape.k))
    return f.generic("m k, n k -> m n", [rows, matrix], lambda a, b, total: total + a * b, init=0.0)


def _grouped(f: Function, shape: QuantizedShape) -> Value:
    """The packed weights `[panels, groups, blocks, 16, 4]`."""
    return f.expand(f["weight"], shape.panels, shape.blocks[:2], 16, 4)


def _factors(f: Function, shape: QuantizedShape) -> list[Value]:
    """The scales `[panels, groups, 16]` and, if there are any, the zero points."""
    scales = f["scales"]
    if not shape.zero_points:
        return [scales]
    sizes = (1, shape.panels, shape.blocks[0], 16)
    return [f.slice(scales, (i, 0, 0, 0), sizes, drop=0) for i in range(2)]


def halves(f: Function, activations: Value, bits: int) -> list[Value]:
    """Activations `[..., 4]` of 8 bits, or of 4 `[..., 2, 4]` apart for low and high nibbles.

    A byte holds two weights of 4 bits. Both are taken from it in the body, each with its own
    activation. A dimension for the nibble instead, and its number in the body or as an operand,
    is what Vulkan's code generation cannot compile, or computes wrongly.
    """
    if bits == 8:
        return [activations]
    *sizes, _, _ = activations.sizes
    rank = len(sizes)
    return [f.slice(activations, (*[0] * rank, i, 0), (*sizes, 1, 4), drop=rank) for i in range(2)]


def multiply(
    activations: list[Value], byte: Value, scale: Value, zero: Value | None = None
) -> Value:
    """The sum of the activations times the weights of one byte: one, or two nibbles."""
    if len(activations) == 1:
        integers = [byte.to("i32")]
    else:
        wide = byte.to("i32", signed=False)
        integers = [(wide & 15) - 8, (wide >> 4) - 8]
    weights = [integer.to("f32") for integer in integers]
    if zero is not None:
        weights = [weight - zero.to("f32") for weight in weights]
    total, *more = [a * weight for a, weight in zip(activations, weights, strict=True)]
    for product in more:
        total = total + product
    return total * scale.to("f32")
