"""`lower-linear-scan`: `edgec::linear_scan` as one operation that runs over the tokens in order.

The token's dimension is a reduction of the state: no target distributes it, and each keeps its
order, since the combination (a product and a sum) is none that it could regroup. Channels are
independent, and what is distributed. The state of a channel stays in a register.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import (
    TorchTensor,
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


def _template(symbol: str, decay: TorchTensor, state: TorchTensor) -> str:
    x, s = decay.builtin, state.builtin
    size = "" if decay.shape[0] is not None else "%tokens"
    return f"""
util.func private @"{symbol}"(%decay: {x}, %update: {x}, %state: {s}) -> ({x}, {s}) {{
  %c0 = arith.constant 0 : index
  %tokens = tensor.dim %decay, %c0 : {x}
  %empty = tensor.empty({size}) : {x}
  %result:2 = linalg.generic {{
      indexing_maps = [affine_map<(c, t) -> (t, c)>, affine_map<(c, t) -> (t, c)>,
                       affine_map<(c, t) -> (t, c)>, affine_map<(c, t) -> (c)>],
      iterator_types = ["parallel", "reduction"]
    }} ins(%decay, %update : {x}, {x}) outs(%empty, %state : {x}, {s}) {{
  ^bb0(%a: f32, %b: f32, %unused: f32, %h: f32):
    %kept = arith.mulf %a, %h : f32
    %new = arith.addf %kept, %b : f32
    linalg.yield %new, %new : f32, f32
  }} -> ({x}, {s})
  util.return %result#0, %result#1 : {x}, {s}
}}"""
