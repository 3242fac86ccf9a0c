"""`verify-lowered`: no operator of edgec's is left without a lowering."""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import walk

__all__ = ["VerifyLowered"]


@dataclass(frozen=True)
class VerifyLowered:
    """Fails on any `torch.operator`."""

    def run(self, module: ir.Module) -> None:
        left = {
            ir.StringAttr(op.attributes["name"]).value
            for op in walk(module.operation)
            if op.name == "torch.operator"
        }
        if left:
            raise ValueError(f"no lowering for {', '.join(sorted(left))}")
