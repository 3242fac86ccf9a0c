"""`lower-grouped-matmul`: `edgec::grouped_matmul`, each tile with the weights of its own expert.

Which expert a row belongs to is known on the device only, and stays there. Two forms:

- `form=gather`, for any target: an expert's number for each block of rows, the blocks' weights
  gathered, one batched product. IREE fuses the gather into the product where it can.
- `form=cpu`: a dispatch written out (`edgec.passes.lowerings.grouped_matmul_cpu`), one workgroup
  for an expert and a strip of columns, which loops over as many rows as the expert has. Nothing is
  gathered, weights are read where they lie, once, and experts without rows cost nothing.

With `kernel=<level>` the experts that the level's kernels take become dispatches of these, in the
manner of the second form (see `edgec.passes.kernels.experts`).
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.kernels.experts import grouped_fits, grouped_template
from edgec.passes.kernels.experts_shape import GroupedMatmul
from edgec.passes.lowerings.grouped_matmul_cpu import cpu_template
from edgec.passes.lowerings.grouped_matmul_gather import gather_template
from edgec.passes.rewriting import (
    call_template,
    constant_bool,
    custom_ops,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
)

__all__ = ["LowerGroupedMatmul"]

_FORMS = {"cpu": cpu_template, "gather": gather_template}


@dataclass(frozen=True)
class LowerGroupedMatmul:
    """The pass; `form` is cpu or gather, `kernel` generic or a feature level."""

    form: str = "gather"
    kernel: str = "generic"

    def run(self, module: ir.Module) -> None:
        if self.form not in _FORMS:
            raise ValueError(f"form '{self.form}': must be one of {', '.join(_FORMS)}")
        for op in custom_ops(module, "grouped_matmul"):
            x, weight, bias, offsets, experts, transposed = op.operands
            case = GroupedMatmul(
                parse_torch_tensor(x.type),
                parse_torch_tensor(weight.type),
                biased=not is_none(bias),
                sorted=is_none(experts),
                transposed=constant_bool(transposed),
            )
            fits = self.kernel != "generic" and grouped_fits(case)
            symbol = symbol_name(
                f"grouped_matmul.{self.kernel}" if fits else "grouped_matmul",
                *(case.x, case.weight),
                "bias" if case.biased else "",
                "sorted" if case.sorted else "",
                "transposed" if case.transposed else "",
            )
            if fits:
                text = grouped_template(symbol, case, self.kernel)
            else:
                text = _FORMS[self.form](symbol, case)
            insert_function(module, symbol, text)
            operands = [v for v in (x, weight, bias, offsets, experts) if not is_none(v)]
            call_template(op, symbol, operands, case.result)
