"""Matchers for the operations that make a value of the torch dialect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import constant_bool, constant_float, constant_int, parse_torch_tensor

__all__ = ["BIND_SHAPE", "RmsNorm", "constant_of", "factors", "made_by", "readers", "rms_norm"]

BIND_SHAPE = "torch.bind_symbolic_shape"
"""Reads a value in name only: it states its shape."""


def made_by(value: ir.Value, name: str) -> ir.Operation | None:
    """The operation `torch.<name>` that makes a value; None if another does, or a block has it."""
    if isinstance(value.owner, ir.Block) or value.owner.operation.name != f"torch.{name}":
        return None
    return value.owner.operation


def readers(value: ir.Value) -> list[ir.Operation]:
    """The readers of a value, once for each time; without those that only state its shape."""
    owners = [use.owner.operation for use in value.uses]
    return [op for op in owners if op.name != BIND_SHAPE]


def constant_of(value: ir.Value) -> float | None:
    """The value of a constant number; None for what is computed."""
    if made_by(value, "constant.int"):
        return constant_int(value)
    return constant_float(value) if made_by(value, "constant.float") else None


@dataclass(frozen=True)
class RmsNorm:
    """`x / sqrt(mean(x²) + epsilon)` over the last dimension, times `weights` f32 `[K]`, or None.

    Attributes:
        ops: The operations that compute it.
    """

    x: ir.Value
    weights: ir.Value | None
    epsilon: float
    ops: tuple[ir.Operation, ...]


def rms_norm(value: ir.Value) -> RmsNorm | None:
    """The RMS norm of f32 over the last dimension that makes `value`; None for anything else."""
    columns = parse_torch_tensor(value.type).shape[-1:]
    weighted = [
        (op, x, w) for op, x, w in factors(value) if parse_torch_tensor(w.type).shape == columns
    ]
    for op, scaled, weights in [*weighted, (None, value, None)]:
        for product, x, factor in factors(scaled):
            if found := _inverse_rms(factor, x):
                ops = (product, *found[0], *([op] if op else []))
                return RmsNorm(x, weights, found[1], ops)
    return None


def factors(value: ir.Value) -> Iterator[tuple[ir.Operation, ir.Value, ir.Value]]:
    """The factors of a product of f32, in both orders, the first of the product's shape."""
    op = made_by(value, "aten.mul.Tensor")
    if op is not None:
        types = [parse_torch_tensor(v.type) for v in (*op.operands, value)]
        for i, j in ((0, 1), (1, 0)):
            if types[i].dtype == types[j].dtype == "f32" and types[i].shape == types[2].shape:
                yield op, op.operands[i], op.operands[j]


def _inverse_rms(factor: ir.Value, x: ir.Value) -> tuple[list[ir.Operation], float] | None:
    """The operations of `rsqrt(mean(x * x) + epsilon)` along the last dimension, and epsilon."""
    root = made_by(factor, "aten.rsqrt")
    shifted = root and made_by(root.operands[0], "aten.add.Scalar")
    mean = shifted and made_by(shifted.operands[0], "aten.mean.dim")
    if root is None or shifted is None or mean is None:
        return None
    epsilon, times = (constant_of(v) for v in list(shifted.operands)[1:])
    squares = mean.operands[0]
    power = made_by(squares, "aten.pow.Tensor_Scalar")
    product = made_by(squares, "aten.mul.Tensor")
    if power is not None:
        squared = power.operands[0] == x and constant_of(power.operands[1]) == 2
    else:
        squared = product is not None and list(product.operands) == [x, x]
    square = power or product
    if square is None or not squared or epsilon is None or times != 1:
        return None
    rank = len(parse_torch_tensor(x.type).shape)
    listed = made_by(mean.operands[1], "prim.ListConstruct")
    dims = [constant_of(d) for d in listed.operands] if listed else []
    if dims not in ([-1], [rank - 1]) or not constant_bool(mean.operands[2]):
        return None
    return [root, shifted, mean, square], epsilon
