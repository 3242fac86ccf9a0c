"""`lower-quantized-embedding`: `edgec::quantized_embedding` as a gather that dequantises."""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import (
    TorchTensor,
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
            insert_function(module, symbol, _template(symbol, ids, weight, scales, result, width))
            call_template(op, symbol, list(op.operands)[:3], result)


def _template(
    symbol: str,
    ids: TorchTensor,
    weight: TorchTensor,
    scales: TorchTensor,
    result: TorchTensor,
    width: int,
) -> str:
    columns, groups, zeros = weight.shape[1], scales.shape[-2], len(scales.shape) == 4
    if not columns or not groups or (columns * 4 != width and columns * 8 != width):
        raise ValueError(f"quantized_embedding: {weight} does not hold {width} columns")
    per_block, group = width // columns, width // groups
    sizes = "" if ids.shape[1] is not None else "%tokens"
    if per_block == 4:
        integer = "    %integer = arith.extsi %byte : i8 to i32"
    else:
        integer = """    %wide = arith.extui %byte : i8 to i32
    %in_block = arith.remui %column, %per_block : index
    %half = arith.divui %in_block, %four : index
    %bits = arith.muli %half, %four : index
    %shift = arith.index_cast %bits : index to i32
    %shifted = arith.shrui %wide, %shift : i32
    %mask = arith.constant 15 : i32
    %nibble = arith.andi %shifted, %mask : i32
    %zero = arith.constant 8 : i32
    %integer = arith.subi %nibble, %zero : i32"""
    scale, zero = "%p, %g, %n", ""
    shifted = "%float"
    if zeros:
        scale, shifted = "%c0, %p, %g, %n", "%above"
        zero = f"""
    %z = tensor.extract %scales[%c1, %p, %g, %n] : {scales.builtin}
    %z_f32 = arith.extf %z : f16 to f32
    %above = arith.subf %float, %z_f32 : f32"""
    return f"""
util.func private @"{symbol}"(%ids: {ids.builtin}, %weight: {weight.builtin},
    %scales: {scales.builtin}) -> {result.builtin} {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %four = arith.constant 4 : index
  %panel = arith.constant 16 : index
  %per_block = arith.constant {per_block} : index
  %group = arith.constant {group} : index
  %tokens = tensor.dim %ids, %c1 : {ids.builtin}
  %empty = tensor.empty({sizes}) : {result.builtin}
  %result = linalg.generic {{
      indexing_maps = [affine_map<(b, t, k) -> (b, t)>, affine_map<(b, t, k) -> (b, t, k)>],
      iterator_types = ["parallel", "parallel", "parallel"]
    }} ins(%ids : {ids.builtin}) outs(%empty : {result.builtin}) {{
  ^bb0(%id: {ids.dtype}, %unused: f32):
    %column = linalg.index 2 : index
    %row = arith.index_cast %id : {ids.dtype} to index
    %p = arith.divui %row, %panel : index
    %n = arith.remui %row, %panel : index
    %block = arith.divui %column, %per_block : index
    %j = arith.remui %column, %four : index
    %g = arith.divui %column, %group : index
    %byte = tensor.extract %weight[%p, %block, %n, %j] : {weight.builtin}
    %scale = tensor.extract %scales[{scale}] : {scales.builtin}
{integer}
    %float = arith.sitofp %integer : i32 to f32{zero}
    %scale_f32 = arith.extf %scale : f16 to f32
    %value = arith.mulf {shifted}, %scale_f32 : f32
    linalg.yield %value : f32
  }} -> {result.builtin}
  util.return %result : {result.builtin}
}}"""
