"""`bound-reductions`: what a reduction reads is stored first where it is needed again afterwards.

A normalisation reads its input twice: for the sum, and to scale it. IREE fuses the operation that
makes the input (the residual's addition) with both, and on Vulkan then keeps the whole input, all
rows of it, in shared memory: a block of 32 rows of 1,024 asks for 32,800 of 32,768 bytes. Behind a
barrier the addition goes with the contraction before it, and the rows are read from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from iree.compiler import ir

from edgec.passes.rewriting import cut_fusion, walk

__all__ = ["BoundReductions"]


@dataclass(frozen=True)
class BoundReductions:
    """`bytes`: tensors of at most this size are left alone."""

    bytes: int = 0

    def run(self, module: ir.Module) -> None:
        for op in walk(module.operation):
            if not _elementwise(op) or not self._large(op.results[0].type):
                continue
            users = [use.owner for use in op.results[0].uses]
            if len(users) > 1 and any(_reaches_reduction(user) for user in users):
                cut_fusion(op.results[0])

    def _large(self, type_: ir.Type) -> bool:
        """Whether a tensor may need more than `bytes`; a dynamic one may."""
        tensor = ir.RankedTensorType(type_)
        if not tensor.has_static_shape:
            return True
        return bool(prod(tensor.shape) * tensor.element_type.width // 8 > self.bytes)


def _elementwise(op: ir.Operation) -> bool:
    """Whether an operation makes one float tensor, element by element."""
    if op.name != "linalg.generic" or len(op.results) != 1 or _reduces(op):
        return False
    return isinstance(ir.RankedTensorType(op.results[0].type).element_type, ir.FloatType)


def _reduces(op: ir.Operation) -> bool:
    return "reduction" in str(op.attributes["iterator_types"])


def _reaches_reduction(op: ir.Operation) -> bool:
    """Whether `op` reduces, or is element by element and feeds an operation that does."""
    if op.name != "linalg.generic":
        return False
    # A contraction reads two tensors: it is tiled, and keeps no row.
    if _reduces(op):
        return len(op.operands) == 2
    return any(_reaches_reduction(use.owner) for result in op.results for use in result.uses)
