"""`lower-linear-scan`: `edgec::linear_scan` as one operation that runs over the tokens in order.

The token's dimension is a reduction of the state: no target distributes it, and each keeps its
order, since the combination (a product and a sum) is none that it could regroup. Channels are
independent, and what is distributed. The state of a channel stays in a register.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.emit import Function, Tensor, Value
from edgec.passes.rewriting import (
    call_template,
    custom_ops,
    insert_function,
    parse_torch_tensor,
    symbol_name,
)

__all__ = ["LowerLinearScan"]


@dataclass(frozen=True)
class LowerLinearScan:
    """Instantiates one function for each form of the operator in the module."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "linear_scan"):
            decay, state = (parse_torch_tensor(op.operands[i].type) for i in (0, 2))
            if decay.shape[1:] != state.shape or state.shape[0] is None:
                raise ValueError(f"linear_scan: {decay.builtin} from state {state.builtin}")
            symbol = symbol_name("linear_scan", decay)
            insert_function(module, symbol, _template(symbol, decay, state))
            call_template(op, symbol, list(op.operands), decay, state)


def _template(symbol: str, decay: Tensor, state: Tensor) -> str:
    f = Function(symbol, decay=decay, update=decay, state=state)

    def step(decay: Value, update: Value, state: Value) -> tuple[Value, Value]:
        new = decay * state + update
        return new, new

    results = f.generics(
        "t c, t c -> t c, c", [f["decay"], f["update"]], step,
        inits=[None, f["state"]], dtypes=["f32", "f32"], reduced="t",
    )  # fmt: skip
    return f.returns(*results)
