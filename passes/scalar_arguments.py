"""`scalar-arguments`: entry points take i64 scalars by value instead of as device tensors.

A position that lies in device memory would have to be read back before any shape that depends on
it is known. Passed by value it is there from the start, and nothing waits. Sums and differences of
such scalars are computed on the host for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import constant_int

__all__ = ["ScalarArguments"]


@dataclass(frozen=True)
class ScalarArguments:
    """Rewrites every argument of type `!torch.vtensor<[],si64>`."""

    def run(self, module: ir.Module) -> None:
        for function in module.body.operations:
            if function.operation.name == "func.func" and list(function.regions[0].blocks):
                _rewrite(function.operation)


_SCALAR = "!torch.vtensor<[],si64>"
_ARITHMETIC = {
    "torch.aten.add.Tensor": "arith.addi",
    "torch.aten.add.Scalar": "arith.addi",
    "torch.aten.sub.Tensor": "arith.subi",
    "torch.aten.sub.Scalar": "arith.subi",
}


def _rewrite(function: ir.Operation) -> None:
    context = function.context
    type_ = ir.FunctionType(ir.TypeAttr(function.attributes["function_type"]).value)
    block = function.regions[0].blocks[0]
    inputs = list(type_.inputs)
    # Tensor to its value, an i64.
    known: dict[ir.Value, ir.Value] = {}
    body = list(block.operations)
    for index, argument in enumerate(block.arguments):
        if str(argument.type) != _SCALAR:
            continue
        tensor = argument.type
        argument.set_type(ir.Type.parse("!torch.int", context))
        inputs[index] = argument.type
        with ir.InsertionPoint(body[0]), ir.Location.unknown(context):
            scalar = _to_i64(argument)
            back = _as_tensor(scalar, tensor)
        argument.replace_all_uses_except(back, scalar.owner.operation)
        known[back] = scalar
    for view in body:
        op = view.operation
        if op.name not in _ARITHMETIC or str(op.results[0].type) != _SCALAR:
            continue
        left, right, alpha = op.operands
        if left not in known or constant_int(alpha) != 1:
            continue
        with ir.InsertionPoint(op), ir.Location.unknown(context):
            if str(right.type) == "!torch.int":
                right = _to_i64(right)
            elif right in known:
                right = known[right]
            else:
                continue
            value = ir.Operation.create(
                _ARITHMETIC[op.name], results=[right.type], operands=[known[left], right]
            ).results[0]
            tensor = _as_tensor(value, op.results[0].type)
        op.results[0].replace_all_uses_with(tensor)
        known[tensor] = value
        op.erase()
    new_type = ir.FunctionType.get(inputs, list(type_.results), context)
    function.attributes["function_type"] = ir.TypeAttr.get(new_type)


def _to_i64(number: ir.Value) -> ir.Value:
    return ir.Operation.create(
        "torch_c.to_i64", results=[ir.IntegerType.get_signless(64)], operands=[number]
    ).results[0]


def _as_tensor(value: ir.Value, type_: ir.Type) -> ir.Value:
    element = ir.Operation.create(
        "tensor.from_elements", results=[ir.Type.parse("tensor<i64>")], operands=[value]
    )
    return ir.Operation.create(
        "torch_c.from_builtin_tensor", results=[type_], operands=[element.results[0]]
    ).results[0]
