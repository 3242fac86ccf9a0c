"""`static-prefill`: entry points for fixed prompt lengths in place of the one for every length.

Vulkan's code generation tiles a contraction, and uses cooperative matrices, only where every
dimension is static; a dynamic one makes it a reduction, one output at a time. So `prefill` becomes
`prefill_32`, `prefill_64`, ..., and the runtime fills them with the prompt, largest first. The
export states each dynamic dimension as a multiple of one symbol: a size for the prompt fixes all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import walk

__all__ = ["StaticPrefill"]

_OPERATIONS: dict[type[ir.AffineBinaryExpr], Callable[[int, int], int]] = {
    ir.AffineAddExpr: operator.add,
    ir.AffineMulExpr: operator.mul,
    ir.AffineFloorDivExpr: operator.floordiv,
    ir.AffineModExpr: operator.mod,
}


@dataclass(frozen=True)
class StaticPrefill:
    """`sizes`: the prompt lengths in tokens, joined by `/`, such as `32/64/128`."""

    sizes: str | int = "32/64/128/256"

    def run(self, module: ir.Module) -> None:
        for function in list(module.body.operations):
            if _name(function.operation) == "prefill":
                for size in map(int, str(self.sizes).split("/")):
                    clone = function.operation.clone(ip=ir.InsertionPoint(function))
                    name = ir.StringAttr.get(f"prefill_{size}", module.context)
                    clone.attributes["sym_name"] = name
                    _specialize(clone, size)
                function.operation.erase()


def _name(op: ir.Operation) -> str:
    return ir.StringAttr(op.attributes["sym_name"]).value if "sym_name" in op.attributes else ""


def _specialize(function: ir.Operation, size: int) -> None:
    """Gives every tensor of the function the shape that it has for prompts of `size` tokens."""
    operations = walk(function)
    symbols = [op for op in operations if op.name == "torch.symbolic_int"]
    shapes = [op for op in operations if op.name == "torch.bind_symbolic_shape"]
    block = function.regions[0].blocks[0]
    symbol = _solve(block.arguments[0], shapes, size)
    for op in shapes:
        value, *used = op.operands
        if len(used) != 1:
            raise ValueError(f"{value.type}: a shape of {len(used)} symbols, expected one")
        map_ = ir.AffineMapAttr(op.attributes["shape_expressions"]).value
        value.set_type(_static(value.type, [_evaluate(e, symbol) for e in map_.results]))
        op.erase()
    for op in symbols:
        op.erase()
    type_ = ir.FunctionType(ir.TypeAttr(function.attributes["function_type"]).value)
    inputs = [argument.type for argument in block.arguments]
    function.attributes["function_type"] = ir.TypeAttr.get(
        ir.FunctionType.get(inputs, list(type_.results), function.context)
    )


def _solve(tokens: ir.Value, shapes: list[ir.Operation], size: int) -> int:
    """The value of the export's symbol for which `tokens` is `[1, size]`."""
    for op in shapes:
        if op.operands[0] == tokens:
            length = ir.AffineMapAttr(op.attributes["shape_expressions"]).value.results[1]
            step = _evaluate(length, 1)
            if size % step == 0 and _evaluate(length, size // step) == size:
                return size // step
            raise ValueError(f"a prompt of {size} tokens is not one of {length}")
    raise ValueError("the prompt's length is not symbolic")


def _evaluate(expression: ir.AffineExpr, symbol: int) -> int:
    if isinstance(expression, ir.AffineConstantExpr):
        return int(expression.value)
    if isinstance(expression, ir.AffineSymbolExpr):
        return symbol
    for kind, apply in _OPERATIONS.items():
        if isinstance(expression, kind):
            return apply(_evaluate(expression.lhs, symbol), _evaluate(expression.rhs, symbol))
    raise ValueError(f"a dimension of {expression} cannot be evaluated")


def _static(type_: ir.Type, shape: list[int]) -> ir.Type:
    dtype = str(type_).rpartition(",")[2]
    return ir.Type.parse(f"!torch.vtensor<[{','.join(map(str, shape))}],{dtype}", type_.context)
