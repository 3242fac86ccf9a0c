"""A function around dispatches of linear layers: what both kinds of weights share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgec.passes.emit import Function, Size, Tensor, Value
from edgec.passes.kernels.calls import Made
from edgec.passes.kernels.folds import Folds
from edgec.passes.kernels.table import ACTIVATIONS

__all__ = ["Product", "ProductCall", "product_function"]


@dataclass(frozen=True)
class Product:
    """Linear layers over the rows of one tensor.

    Attributes:
        x: The tensor, `[..., K]`.
        features: How many each layer has.
        weights: The types of each layer's weights, or of weights and scales.
        biased: Whether each layer has a bias.
        results: Types of the results, `[..., N]`.
        folds: What is folded in.
    """

    x: Tensor
    features: tuple[int, ...]
    weights: tuple[tuple[Tensor, ...], ...]
    biased: tuple[bool, ...]
    results: Sequence[Tensor]
    folds: Folds

    @property
    def k(self) -> int:
        k = self.x.shape[-1]
        assert k is not None
        return k

    @property
    def gated(self) -> bool:
        return self.folds.activation is not None


@dataclass(frozen=True)
class ProductCall:
    """The operands and numbers of a product's dispatch.

    Attributes:
        f: The function that dispatches it.
        values: What a kernel may read, by the names of its buffers. What a form does not have is
            something that the kernel does not read.
        numbers: What both kinds of kernels are told.
        results: What a kernel makes.
    """

    f: Function
    values: dict[str, Value]
    numbers: dict[str, Size | float]
    results: Sequence[Made]


def product_function(
    symbol: str, product: Product, compute: Callable[[ProductCall], Sequence[Value]]
) -> str:
    """The function `symbol` of the rows, the layers' weights and biases, and what is folded in.

    Args:
        symbol: Its name.
        product: The layers.
        compute: Writes the dispatches; returns the results as matrices.
    """
    folds, k = product.folds, product.k
    layers = zip(product.features, product.weights, product.biased, strict=True)
    arguments: dict[str, Tensor] = {"x": product.x}
    for i, (n, weights, biased) in enumerate(layers):
        arguments |= {f"{name}{i}": type_ for name, type_ in zip("ws", weights, strict=False)}
        arguments |= {f"b{i}": Tensor((n,), "f32")} if biased else {}
    arguments |= {"norm": Tensor((k,), "f32")} if folds.weighted else {}
    arguments |= {} if folds.alpha is None else {"added": product.results[0]}
    f = Function(symbol, **arguments)
    rows = f.rows(f["x"])
    unread = dict.fromkeys(["norm", "added", *(f"b{i}" for i in range(len(product.biased)))], rows)
    values = unread | {name: f[name] for name in arguments} | {"x": rows}
    if "added" in f:
        values["added"] = f.rows(f["added"]).known(rows.size(0))
    m, features = rows.size(0), product.features
    numbers: dict[str, Size | float] = {f"n{i}": n for i, n in enumerate(features)}
    numbers |= {
        "m": m, "k": k, "folds": folds.bits(product.biased),
        "activation": ACTIVATIONS.index(folds.activation or ACTIVATIONS[0]),
        "eps": folds.eps or 0.0, "alpha": 1.0 if folds.alpha is None else folds.alpha,
    }  # fmt: skip
    results = [("f32", (m, n)) for n in (features[:1] if product.gated else features)]
    made = compute(ProductCall(f, values, numbers, results))
    return f.returns(*(f.unrows(matrix, f["x"]) for matrix in made))
