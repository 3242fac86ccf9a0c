"""`scalar-arguments`: entry points take i64 scalars by value instead of as device tensors.

A position that lies in device memory would have to be read back before any shape that depends on
it is known. Passed by value it is there from the start, and nothing waits.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

__all__ = ["ScalarArguments"]


@dataclass(frozen=True)
class ScalarArguments:
    """Rewrites every argument of type `!torch.vtensor<[],si64>`."""

    def run(self, module: ir.Module) -> None:
        for function in module.body.operations:
            if function.operation.name == "func.func" and list(function.regions[0].blocks):
                _rewrite(function.operation)


def _rewrite(function: ir.Operation) -> None:
    context = function.context
    type_ = ir.FunctionType(ir.TypeAttr(function.attributes["function_type"]).value)
    block = function.regions[0].blocks[0]
    inputs = list(type_.inputs)
    for index, argument in enumerate(block.arguments):
        if str(argument.type) != "!torch.vtensor<[],si64>":
            continue
        tensor = argument.type
        argument.set_type(ir.Type.parse("!torch.int", context))
        inputs[index] = argument.type
        with ir.InsertionPoint.at_block_begin(block), ir.Location.unknown(context):
            scalar = ir.Operation.create(
                "torch_c.to_i64",
                results=[ir.IntegerType.get_signless(64)],
                operands=[argument],
            )
            element = ir.Operation.create(
                "tensor.from_elements",
                results=[ir.Type.parse("tensor<i64>")],
                operands=[scalar.results[0]],
            )
            back = ir.Operation.create(
                "torch_c.from_builtin_tensor", results=[tensor], operands=[element.results[0]]
            )
        argument.replace_all_uses_except(back.results[0], scalar)
    new_type = ir.FunctionType.get(inputs, list(type_.results), context)
    function.attributes["function_type"] = ir.TypeAttr.get(new_type)
