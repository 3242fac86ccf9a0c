"""A function around a dispatch of linear layers, as MLIR text: what both kinds of weights share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.passes.kernels.calls import Operand
from edgec.passes.kernels.folds import Folds
from edgec.passes.kernels.table import ACTIVATIONS
from edgec.passes.rewriting import TorchTensor, tensor_type

__all__ = ["Product", "product_function"]


@dataclass(frozen=True)
class Product:
    """A dispatch of linear layers over the rows of one tensor.

    Attributes:
        m: How many rows; None when dynamic.
        k: Their columns.
        features: Of each layer.
        weights: The types of each layer's weights, or of weights and scales.
        biased: Whether each layer has a bias.
        folds: What is folded in.
    """

    m: int | None
    k: int
    features: tuple[int, ...]
    weights: tuple[tuple[str, ...], ...]
    biased: tuple[bool, ...]
    folds: Folds

    @property
    def gated(self) -> bool:
        return self.folds.activation is not None

    @property
    def sizes(self) -> str:
        return "{%m}" if self.m is None else ""

    @property
    def rows(self) -> Operand:
        return "%rows", tensor_type((self.m, self.k), "f32") + self.sizes

    @property
    def norm(self) -> Operand:
        """The norm's weight; without one, something that the kernel does not read."""
        return ("%norm", f"tensor<{self.k}xf32>") if self.folds.weighted else self.rows

    @property
    def added(self) -> Operand:
        """The operand that is added, or a dummy that is not read."""
        if self.folds.alpha is None:
            return self.rows
        return "%added", tensor_type((self.m, self.features[0]), "f32") + self.sizes

    @property
    def biases(self) -> list[Operand]:
        return [
            (f"%bias{i}", f"tensor<{n}xf32>") if biased else self.rows
            for i, (n, biased) in enumerate(zip(self.features, self.biased, strict=True))
        ]

    @property
    def matrices(self) -> list[Operand]:
        return [
            (f"%w{i}_{j}", type_)
            for i, types in enumerate(self.weights)
            for j, type_ in enumerate(types)
        ]

    @property
    def operands(self) -> dict[str, Operand]:
        """The operands that a kernel may read, by the names of its buffers."""
        names = [
            f"{name}{i}" for i, types in enumerate(self.weights) for name in "ws"[: len(types)]
        ]
        named = dict(zip(names, self.matrices, strict=True))
        named |= {f"b{i}": bias for i, bias in enumerate(self.biases)}
        return named | {"x": self.rows, "norm": self.norm, "added": self.added}

    @property
    def results(self) -> list[str]:
        features = self.features[:1] if self.gated else self.features
        return [tensor_type((self.m, n), "f32") + self.sizes for n in features]

    @property
    def constants(self) -> str:
        """Arguments for the kernels: %folds, %activation, %eps and %alpha."""
        folds = self.folds
        return f"""
  %folds = arith.constant {folds.bits(self.biased)} : index
  %activation = arith.constant {ACTIVATIONS.index(folds.activation or ACTIVATIONS[0])} : index
  %eps = arith.constant {folds.eps or 0.0:.9e} : f32
  %alpha = arith.constant {1.0 if folds.alpha is None else folds.alpha:.9e} : f32"""


def product_function(
    symbol: str, x: TorchTensor, product: Product, results: Sequence[TorchTensor], compute: str
) -> str:
    """The function `symbol` of %x, the layers' weights and biases, and what is folded in.

    Args:
        x: The type of %x, `[..., K]`.
        product: Of %rows, %x as a matrix.
        results: Types, `[..., N]`.
        compute: Text that makes %product, one or several, of %rows and %m.
    """
    leading, rows = x.shape[:-1], tensor_type((product.m, product.k), "f32")
    axes = f"[[{', '.join(map(str, range(len(leading))))}], [{len(leading)}]]"
    dims = "\n".join(
        f"  %i{i} = arith.constant {i} : index\n  %d{i} = tensor.dim %x, %i{i} : {x.builtin}"
        for i, d in enumerate(leading)
        if d is None
    )
    arguments, matrices = [("%x", x.builtin)], iter(product.matrices)
    for i, types in enumerate(product.weights):
        arguments += [next(matrices) for _ in types]
        arguments += [product.biases[i]] if product.biased[i] else []
    arguments += [product.norm] if product.folds.weighted else []
    flatten, after = "", ""
    if product.folds.alpha is not None:
        whole, flat = results[0].builtin, tensor_type((product.m, product.features[0]), "f32")
        arguments.append(("%other", whole))
        flatten = f"\n  %added = tensor.collapse_shape %other {axes} : {whole} into {flat}"
    several = len(results) > 1
    for i, result in enumerate(results):
        sizes = ", ".join(f"%d{j}" if d is None else str(d) for j, d in enumerate(result.shape))
        flat = tensor_type((product.m, result.shape[-1]), "f32")
        after += f"""
  %result{i} = tensor.expand_shape %product{f"#{i}" if several else ""} {axes}
      output_shape [{sizes}] : {flat} into {result.builtin}"""
    returned = ", ".join(result.builtin for result in results)
    return f"""
util.func private @"{symbol}"({", ".join(f"{v}: {t}" for v, t in arguments)}) -> ({returned}) {{
{dims}
  %c0 = arith.constant 0 : index
  %rows = tensor.collapse_shape %x {axes} : {x.builtin} into {rows}
  %m = tensor.dim %rows, %c0 : {rows}{flatten}{compute}{after}
  util.return {", ".join(f"%result{i}" for i in range(len(results)))} : {returned}
}}"""
