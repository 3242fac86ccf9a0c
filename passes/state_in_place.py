"""`state-in-place`: a call updates a state buffer where it lies, without a copy.

A mutated torch argument becomes a `hal.tensor.alias` at the end of the function. The cache is
used (by attention) between its update and that alias, so IREE makes the update into a fresh copy
of the whole cache, on every call. With the alias right after the update, and later readers taking
the aliased value, the update happens in the caller's buffer. An alias with readers then needs no
place in the barrier either: the results that remain there depend on it.
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
        for op in walk(module.operation):
            if op.name == "hal.tensor.barrier":
                _rewrite(op)


def _rewrite(barrier: ir.Operation) -> None:
    *joined, fence = barrier.operands
    kept: list[tuple[ir.Value, ir.OpResult]] = []
    for value, result in zip(joined, barrier.results, strict=True):
        alias = None if isinstance(value.owner, ir.Block) else value.owner.operation
        if alias is None or alias.name != "hal.tensor.alias" or any(True for _ in result.uses):
            kept.append((value, result))
            continue
        source = alias.operands[0]
        if isinstance(source.owner, ir.Block):
            raise ValueError("a state buffer is aliased without being updated")
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
    barrier.erase()
