"""`state-in-place`: a call updates a state buffer where it lies, without a copy.

A mutated torch argument becomes a `hal.tensor.alias` at the end of the function. The cache is
used (by attention) between its update and that alias, so IREE makes the update into a fresh copy
of the whole cache, on every call. With the alias right after the update, and later readers taking
the aliased value, the update happens in the caller's buffer. An alias with readers then needs no
place in the barrier either: the results that remain there depend on it. A dispatch of a kernel that
writes into the buffer and computes something else beside needs no alias at all: its result lies
there, and where nothing reads that, a barrier would copy it.

IREE imports an i8 buffer that is written to as `si8`; what reads and writes it is `i8`, by way of
bitcasts. They would stand between an update and its alias, so the buffer becomes `i8` first.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import walk

__all__ = ["StateInPlace"]


@dataclass(frozen=True)
class StateInPlace:
    """Rewrites every barrier, one for each entry point."""

    def run(self, module: ir.Module) -> None:
        for op in [op for op in walk(module.operation) if op.name == "hal.tensor.import"]:
            _import_unsigned(op)
        for op in [op for op in walk(module.operation) if op.name == "hal.tensor.barrier"]:
            _alias_unsigned(op)
            _rewrite(op)


def _import_unsigned(op: ir.Operation) -> None:
    """Imports as i8 what only bitcasts to i8 read."""
    readers = [use.owner.operation for use in op.results[0].uses]
    if "xsi8>" not in str(op.results[0].type):
        return
    if any(r.name != "tensor.bitcast" for r in readers):
        raise ValueError("an i8 state buffer has a reader that is not lowered")
    unsigned = readers[0].results[0].type if readers else op.results[0].type
    attributes = _attributes(op)
    attributes["target_encoding"] = ir.TypeAttr.get(unsigned)
    with ir.InsertionPoint(op), op.location:
        new = ir.Operation.create(
            op.name, results=[unsigned], operands=list(op.operands), attributes=attributes
        )
    for reader in readers:
        reader.results[0].replace_all_uses_with(new.results[0])
        reader.erase()
    op.erase()


def _attributes(op: ir.Operation) -> dict[str, ir.Attribute]:
    named = [op.attributes[i] for i in range(len(op.attributes))]
    return {a.name: a.attr for a in named}


def _alias_unsigned(barrier: ir.Operation) -> None:
    """Aliases the i8 value where a barrier joins the alias of its bitcast."""
    for i, value in enumerate(list(barrier.operands)[:-1]):
        alias = None if isinstance(value.owner, ir.Block) else value.owner.operation
        if alias is None or alias.name != "hal.tensor.alias" or "xsi8>" not in str(value.type):
            continue
        cast = alias.operands[0].owner.operation
        if cast.name != "tensor.bitcast":
            raise ValueError("an i8 state buffer is written by something that is not lowered")
        with ir.InsertionPoint(alias), alias.location:
            new = ir.Operation.create(
                alias.name,
                results=[cast.operands[0].type],
                operands=[cast.operands[0], *list(alias.operands)[1:]],
                attributes=_attributes(alias),
            )
        barrier.operands[i] = new.results[0]
        barrier.results[i].set_type(cast.operands[0].type)
        alias.erase()
        cast.erase()


def _rewrite(barrier: ir.Operation) -> None:
    *joined, fence = barrier.operands
    kept: list[tuple[ir.Value, ir.OpResult]] = []
    erased: list[ir.Operation] = []
    for value, result in zip(joined, barrier.results, strict=True):
        alias = None if isinstance(value.owner, ir.Block) else value.owner.operation
        if alias is None or alias.name != "hal.tensor.alias" or any(True for _ in result.uses):
            kept.append((value, result))
            continue
        source = alias.operands[0]
        if isinstance(source.owner, ir.Block):
            raise ValueError("a state buffer is aliased without being updated")
        if _written_there(source, alias):
            erased.append(alias)
            continue
        alias.move_after(source.owner.operation)
        source.replace_all_uses_except(alias.results[0], alias)
        if all(use.owner.operation == barrier for use in alias.results[0].uses):
            kept.append((value, result))  # nothing else keeps the update alive
    if not kept:
        raise ValueError("an entry point has no result but its state")
    with ir.InsertionPoint(barrier), barrier.location:
        new = ir.Operation.create(
            "hal.tensor.barrier",
            results=[value.type for value, _ in kept],
            operands=[*(value for value, _ in kept), fence],
        )
    for (_, old), result in zip(kept, new.results, strict=True):
        old.replace_all_uses_with(result)
    for op in (barrier, *erased):
        op.erase()


def _written_there(source: ir.Value, alias: ir.Operation) -> bool:
    """Whether `source` is what a dispatch wrote into the imported buffer that is aliased."""
    dispatch, index = source.owner.operation, ir.OpResult(source).result_number
    if dispatch.name != "flow.dispatch" or "tied_operands" not in dispatch.attributes:
        return False
    tied = [ir.IntegerAttr(a).value for a in ir.ArrayAttr(dispatch.attributes["tied_operands"])]
    workload = ir.DenseI32ArrayAttr(dispatch.attributes["operandSegmentSizes"])[0]
    buffer = dispatch.operands[workload + tied[index]] if tied[index] >= 0 else None
    if buffer is None or isinstance(buffer.owner, ir.Block):
        return False
    imported = buffer.owner.operation
    if imported.name != "hal.tensor.import" or imported.operands[0] not in list(alias.operands):
        return False
    # Something must need what it computes: only then it is there.
    return any(
        use.owner.operation.name != "hal.tensor.alias"
        for result in dispatch.results
        for use in result.uses
    )
