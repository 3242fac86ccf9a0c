"""Operations of a linear layer's neighbours that kernels compute in the layers' own dispatch.

Before the layers: the RMS norm of what they read. After them: a sum with another tensor, the
residual stream; or, of two layers, the activation of one times the other, a gate. In an exported
module these are a handful of operations that all models write alike; what is written otherwise
stays a dispatch of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from iree.compiler import ir

from edgec.passes.kernels.folds import Folds
from edgec.passes.patterns.matching import RmsNorm, constant_of, made_by, readers, rms_norm
from edgec.passes.rewriting import call_together

__all__ = ["Folded", "find_folds"]

_LAYERS = ("torch.edgec.linear", "torch.edgec.quantized_linear")


@dataclass(frozen=True)
class Folded:
    """Layers of one dispatch with what is folded in.

    Attributes:
        folds: Its form.
        layers: The layers, a gate's first.
        x: What the dispatch reads.
        operands: The norm's weight and the tensor that is added, as far as there are.
        replaced: The operations whose results the dispatch has, in its results' order.
        unused: Those that have no reader any more then, readers first.
    """

    folds: Folds
    layers: list[ir.Operation]
    x: ir.Value
    operands: list[ir.Value]
    replaced: list[ir.Operation]
    unused: list[ir.Operation]

    def call(self, symbol: str, given: list[ir.Value]) -> None:
        """Calls the function `symbol` of `x`, what is `given` for the layers, and `operands`."""
        call_together(self.replaced, symbol, [self.x, *given, *self.operands])
        for op in self.unused:
            for use in list(op.results[0].uses):
                use.owner.operation.erase()  # what states its shape
            op.erase()


def find_folds(layers: list[ir.Operation], *, biased: bool, norms: bool) -> Folded:
    """Operations that can be folded into the dispatch of layers that read one value.

    Args:
        layers: One to three linear layers of a module.
        biased: Whether any of them has a bias.
        norms: Whether the kernel can take the norm.
    """
    x, operands, folds = layers[0].operands[0], [], Folds()
    if norms and (norm := _norm_of_layers(x)):
        x, operands = norm.x, [v for v in [norm.weights] if v is not None]
        folds = Folds(norm.epsilon, weighted=norm.weights is not None)
    if len(layers) == 2 and not biased:
        for order in (layers, layers[::-1]):
            if gate := _gate(*order):
                activation, product = gate
                name = _activation(activation)
                folds = replace(folds, activation=name)
                unused = [activation, *order]
                return Folded(folds, order, x, operands, [product], unused)
    if len(layers) == 1 and (added := _added(layers[0])):
        other, alpha, chain = added
        folds = replace(folds, alpha=alpha)
        *between, total = chain
        return Folded(folds, layers, x, [*operands, other], [total], [*between[::-1], *layers])
    return Folded(folds, layers, x, operands, layers, [])


def _norm_of_layers(value: ir.Value) -> RmsNorm | None:
    """The norm that makes `value`, if nothing but linear layers reads it."""
    if not all(_is_layer(reader) for reader in readers(value)):
        return None
    while (alias := made_by(value, "aten.alias")) is not None:
        value = alias.operands[0]
        if len(readers(value)) > 1:
            return None
    return rms_norm(value)


def _gate(gate: ir.Operation, up: ir.Operation) -> tuple[ir.Operation, ir.Operation] | None:
    """The activation of the first layer's result and its product with the second's."""
    activation, product = _only_reader(gate), _only_reader(up)
    if activation is None or product is None or _activation(activation) is None:
        return None
    if product.name != "torch.aten.mul.Tensor" or _only_reader(activation) != product:
        return None
    # Their types differ where one were broadcast.
    return (activation, product) if gate.results[0].type == up.results[0].type else None


def _activation(op: ir.Operation) -> str | None:
    if op.name == "torch.aten.silu":
        return "silu"
    if op.name == "torch.aten.gelu":
        kind = op.operands[1].owner.operation
        if ir.StringAttr(kind.attributes["value"]).value == "tanh":
            return "gelu_tanh"
    return None


def _added(layer: ir.Operation) -> tuple[ir.Value, float, list[ir.Operation]] | None:
    """The tensor that a layer's result is added to, its factor, the operations up to the sum."""
    result, alpha, chain = layer.results[0], 1.0, []
    reader = _only_reader(layer)
    if reader is not None and reader.name == "torch.aten.mul.Scalar":
        factor = constant_of(reader.operands[1])
        if factor is None:
            return None
        result, alpha, chain = reader.results[0], factor, [reader]
        reader = _only_reader(reader)
    if reader is None or reader.name != "torch.aten.add.Tensor":
        return None
    a, b, factor_of_b = reader.operands
    other = b if a == result else a
    same = other.type == reader.results[0].type == layer.results[0].type
    if not same or a == b or constant_of(factor_of_b) != 1:
        return None
    return other, alpha, [*chain, reader]


def _is_layer(op: ir.Operation) -> bool:
    return op.name == "torch.operator" and ir.StringAttr(op.attributes["name"]).value in _LAYERS


def _only_reader(op: ir.Operation) -> ir.Operation | None:
    """The operation that reads the result of `op`, if there is one alone, which reads it once."""
    found = readers(op.results[0])
    return found[0] if len(found) == 1 else None
