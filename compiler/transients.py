"""Memory that a call allocates besides weights and state, read off the program itself.

Scheduled for a device, in IREE's stream dialect, a function allocates its intermediate results in
a few `stream.resource.alloca`, whose sizes are constants or follow from the prompt's length and
the position. Evaluated for the longest prompt at the end of the context they are what a call takes
at most.
"""

from __future__ import annotations

from collections.abc import Callable

from iree.compiler import ir

from edgec.passes.rewriting import walk

__all__ = ["transient_bytes"]

_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.divui": lambda a, b: a // b,
    "arith.divsi": lambda a, b: a // b,
    "arith.ceildivui": lambda a, b: -(-a // b),
    "arith.ceildivsi": lambda a, b: -(-a // b),
    "arith.remui": lambda a, b: a % b,
    "arith.maxui": max,
    "arith.maxsi": max,
    "arith.minui": min,
    "arith.minsi": min,
    "util.align": lambda a, b: -(-a // b) * b,
}
_SAME = frozenset({"arith.index_cast", "arith.index_castui", "arith.extsi", "arith.extui"})


def transient_bytes(text: str, prompt: int, context: int) -> int:
    """The most that one call of any function of a module allocates, in bytes.

    Args:
        text: The module after `iree-compile --compile-to=stream`.
        prompt: The longest prompt of one call, in tokens.
        context: The longest sequence, in tokens.

    Raises:
        ValueError: a size that depends on something else.
    """
    with ir.Context():
        module = ir.Module.parse(text)
        most = 0
        for function in module.body.operations:
            sizes = [
                _value(op.operands[0], prompt, context)
                for op in walk(function.operation)
                if op.name == "stream.resource.alloca"
            ]
            most = max(most, sum(sizes))
        return most


def _value(value: ir.Value, prompt: int, context: int) -> int:
    """An index: a constant, the prompt's length, the position, or what is computed of them."""
    if isinstance(value.owner, ir.Block):
        # The scalars of an entry point are `start` and `length`, one a position, one no longer.
        if str(value.type) in ("i64", "index"):
            return context
        raise ValueError(f"a size that depends on an argument {value.type}")
    op = value.owner.operation

    def operand(index: int) -> int:
        return _value(op.operands[index], prompt, context)

    if op.name == "arith.constant":
        return int(ir.IntegerAttr(op.attributes["value"]).value)
    if op.name == "hal.buffer_view.dim":
        return prompt
    if op.name == "util.assume.int":
        return operand(ir.OpResult(value).result_number)
    if op.name in _SAME:
        return operand(0)
    if op.name == "arith.select":
        return max(operand(1), operand(2))
    if op.name in _ARITHMETIC:
        return _ARITHMETIC[op.name](operand(0), operand(1))
    raise ValueError(f"a size computed by {op.name}")
