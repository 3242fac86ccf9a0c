"""`workload-ordinals`: a dispatch has as many workgroups as its sizes ask for.

The number of workgroups is computed from the sizes of a dispatch, its workload, and inside it each
size says which of them it is. IREE 3.13 leaves out sizes that are the same, `[%n, %n, %depth]`,
and numbers those inside anew, but the computation goes on with all of them: for `%depth`, now the
second, it takes `%n`. The workgroups are then too few, and a part of the result is never written.
A size that was left out is also numbered as the first, whichever it was the same as
(`deduplicateWorkloads` in FoldUniformOperands.cpp).

After it, at the stage `stream`, this gives the computation each size once, and each size inside the
number that its value has where the dispatch is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import walk

__all__ = ["WorkloadOrdinals"]

_COUNT = "iree_tensor_ext.dispatch.workgroup_count_from_slice"
_ORDINAL = "iree_tensor_ext.dispatch.workload.ordinal"


@dataclass(frozen=True)
class WorkloadOrdinals:
    """Corrects all executables; raises ValueError where a size's number cannot be told."""

    def run(self, module: ir.Module) -> None:
        calls: dict[str, list[ir.Operation]] | None = None
        for executable in module.body.operations:
            if executable.operation.name != "stream.executable":
                continue
            inside = walk(executable.operation)
            functions = {_symbol(op): op for op in inside if op.name == "func.func"}
            for export in [op for op in inside if op.name == "stream.executable.export"]:
                count = next((op for op in walk(export) if op.name == _COUNT), None)
                if count is None or not (repeated := _correct_count(count)):
                    continue
                function = functions[ir.FlatSymbolRefAttr(export.attributes["function_ref"]).value]
                ordinals = [op for op in walk(function) if op.name == _ORDINAL]
                unsure = [
                    op for op in ordinals if ir.IntegerAttr(op.attributes["ordinal"]).value == 0
                ]
                if not any(repeated):
                    continue  # those that were left out are the first size indeed
                if calls is None:
                    calls = _calls(module)
                where = f"{_symbol(executable.operation)}::{_symbol(export)}"
                for op in unsure:
                    _number(op, function, calls.get(where, []), where)


def _correct_count(count: ir.Operation) -> list[int]:
    """Leaves each size in `count` once; the numbers of the sizes that it had again."""
    numbers = [ir.BlockArgument(value).arg_number for value in count.operands]
    kept = sorted(set(numbers))
    if len(kept) == len(numbers):
        return []
    first = list(dict.fromkeys(numbers))
    if first != kept or kept != list(range(len(kept))):
        raise ValueError(f"{count}: sizes in an order that is not known")
    values = {ir.BlockArgument(v).arg_number: v for v in count.operands}
    with ir.InsertionPoint(count), count.location:
        new = ir.Operation.create(
            _COUNT, results=[r.type for r in count.results], operands=[values[i] for i in kept]
        )
    for old, result in zip(count.results, new.results, strict=True):
        old.replace_all_uses_with(result)
    count.erase()
    return [n for i, n in enumerate(numbers) if n in numbers[:i]]


def _number(
    ordinal: ir.Operation, function: ir.Operation, calls: list[ir.Operation], where: str
) -> None:
    """Gives a size inside a dispatch the number of its value in the workload of all calls."""
    arguments = [
        a for a in function.regions[0].blocks[0].arguments if "!stream." not in str(a.type)
    ]
    position = next(
        (arguments.index(v) for v in _origins(ordinal.operands[0]) if v in arguments), None
    )
    found: set[int] = set()
    for call in calls:
        workload, operands = _segments(call)
        origins = [] if position is None else list(_origins(operands[position]))
        found.add(next((i for i, v in enumerate(workload) if v in origins), -1))
    if len(found) != 1 or -1 in found:
        raise ValueError(f"{where}: cannot tell which size a dispatch means")
    index = ir.IndexType.get(ordinal.context)
    ordinal.attributes["ordinal"] = ir.IntegerAttr.get(index, found.pop())


_CASTS = (
    "arith.extui", "arith.index_cast", "arith.index_castui", "arith.ori", "arith.trunci",
)  # fmt: skip


def _origins(value: ir.Value) -> Iterator[ir.Value]:
    """`value` and, behind conversions of integers, what it was made of.

    Of an integer in two halves, the lower one.
    """
    yield value
    while not isinstance(value.owner, ir.Block):
        op = value.owner.operation
        if op.name == "util.assume.int":
            value = op.operands[ir.OpResult(value).result_number]
        elif op.name in _CASTS:
            value = op.operands[0]
        else:
            return
        yield value


def _segments(call: ir.Operation) -> tuple[list[ir.Value], list[ir.Value]]:
    """The workload and the operands that are numbers, of a `stream.cmd.dispatch`."""
    sizes = list(ir.DenseI32ArrayAttr(call.attributes["operandSegmentSizes"]))
    values = list(call.operands)
    return values[: sizes[0]], values[sizes[0] : sizes[0] + sizes[1]]


def _calls(module: ir.Module) -> dict[str, list[ir.Operation]]:
    """Every dispatch by the executable and export that it calls, `executable::export`."""
    found: dict[str, list[ir.Operation]] = {}
    for op in walk(module.operation):
        if op.name == "stream.cmd.dispatch":
            for entry in ir.ArrayAttr(op.attributes["entry_points"]):
                found.setdefault("::".join(ir.SymbolRefAttr(entry).value), []).append(op)
    return found


def _symbol(op: ir.Operation) -> str | None:
    return ir.StringAttr(op.attributes["sym_name"]).value if "sym_name" in op.attributes else None
