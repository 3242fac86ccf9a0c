"""`symbolic-bounds`: states the true lower bound of exported symbolic dimensions.

torch.export treats the sizes 0 and 1 apart, so it says of `n` in a dimension `32*n` that it is at
least 2. IREE believes it. A prompt of 32 tokens has `n = 1`: the bound must say 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import walk

__all__ = ["SymbolicBounds"]


@dataclass(frozen=True)
class SymbolicBounds:
    """Rewrites every `torch.symbolic_int` that starts at 2."""

    def run(self, module: ir.Module) -> None:
        for op in walk(module.operation):
            if op.name != "torch.symbolic_int":
                continue
            minimum = ir.IntegerAttr(op.attributes["min_val"])
            if minimum.value == 2:
                op.attributes["min_val"] = ir.IntegerAttr.get(minimum.type, 1)
