"""`cut-double-reads`: a reduction is not fused with what reads its result at two places.

IREE computes such a dispatch wrongly (`edgec.passes.mends.double_reads`). Behind a barrier the
result is stored before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.mends.double_reads import double_reader, reduces
from edgec.passes.rewriting import cut_fusion, walk

__all__ = ["CutDoubleReads"]


@dataclass(frozen=True)
class CutDoubleReads:
    """Cuts where they are read the results of all reductions for which that is needed."""

    def run(self, module: ir.Module) -> None:
        for op in walk(module.operation):
            if not (reduces(op) or op.name.startswith("iree_linalg_ext.")):
                continue
            for result in op.results:
                if isinstance(result.type, ir.RankedTensorType) and double_reader(result):
                    cut_fusion(result)
