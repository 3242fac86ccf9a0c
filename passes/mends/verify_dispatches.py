"""`verify-dispatches`: no dispatch is one of those that IREE computes wrongly.

`cut-double-reads` keeps IREE from forming them. Should one be formed in another way, there is no
program, and not one that gives wrong answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.mends.double_reads import double_reader, reduces
from edgec.passes.rewriting import walk

__all__ = ["VerifyDispatches"]


@dataclass(frozen=True)
class VerifyDispatches:
    """Raises ValueError with the first such dispatch's name; on the stage `stream`."""

    def run(self, module: ir.Module) -> None:
        for executable in module.body.operations:
            if executable.operation.name != "stream.executable":
                continue
            for op in walk(executable.operation):
                for result in op.results if reduces(op) else ():
                    if (reader := double_reader(result)) is not None:
                        name = ir.StringAttr(executable.attributes["sym_name"]).value
                        raise ValueError(
                            f"{name}: {reader.name} reads the result of {op.name} at two places; "
                            "in one dispatch, IREE computes that wrongly"
                        )
