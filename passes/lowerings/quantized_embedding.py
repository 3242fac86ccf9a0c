"""`lower-quantized-embedding`: `edgec::quantized_embedding` as a gather that dequantises."""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.emit import Function, Tensor, Value
from edgec.passes.rewriting import (
    call_template,
    constant_int,
    custom_ops,
    insert_function,
    parse_torch_tensor,
    symbol_name,
)

__all__ = ["LowerQuantizedEmbedding"]


@dataclass(frozen=True)
class LowerQuantizedEmbedding:
    """Takes packed tables of 8 and 4 bits."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "quantized_embedding"):
            ids, weight, scales = (parse_torch_tensor(op.operands[i].type) for i in range(3))
            width = constant_int(op.operands[3])
            result = parse_torch_tensor(op.results[0].type)
            symbol = symbol_name("quantized_embedding", ids, weight, scales, str(width))
            insert_function(module, symbol, _template(symbol, ids, weight, scales, width))
            call_template(op, symbol, list(op.operands)[:3], result)


def _template(symbol: str, ids: Tensor, weight: Tensor, scales: Tensor, width: int) -> str:
    columns, groups, zeros = weight.shape[1], scales.shape[-2], len(scales.shape) == 4
    if not columns or not groups or (columns * 4 != width and columns * 8 != width):
        raise ValueError(f"quantized_embedding: {weight} does not hold {width} columns")
    per_block, group = width // columns, width // groups
    f = Function(symbol, ids=ids, weight=weight, scales=scales)

    def dequantise(id_: Value) -> Value:
        column, row = f.index("k"), id_.to("index")
        panel, n = row // 16, row % 16
        place = (panel, column // group, n)
        byte = f["weight"][panel, column // per_block, n, column % 4]
        integer = byte.to("i32", signed=per_block == 4)
        if per_block == 8:
            shift = (column % per_block // 4 * 4).to("i32")
            integer = (integer >> shift & 15) - 8
        value, scale = integer.to("f32"), f["scales"][(0, *place) if zeros else place]
        if zeros:
            value = value - f["scales"][(1, *place)].to("f32")
        return value * scale.to("f32")

    return f.returns(f.generic("b t -> b t k", [f["ids"]], dequantise, sizes={"k": width}))
