"""`lower-quantized-cache-update`: rows rounded to int8, and two slices written into the buffers."""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.lowerings.cache_update import first_row, write_rows
from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    constant_bool,
    custom_ops,
    insert_function,
    parse_torch_tensor,
    symbol_name,
    tensor_type,
)

__all__ = ["LowerQuantizedCacheUpdate"]


@dataclass(frozen=True)
class LowerQuantizedCacheUpdate:
    """Instantiates one function for each form of the operator in the module."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "quantized_cache_update"):
            cache, scales, new = (parse_torch_tensor(op.operands[i].type) for i in range(3))
            if cache.shape[0] is None or (new.shape[0] or 0) > cache.shape[0]:
                raise ValueError(
                    f"quantized_cache_update: {new.builtin} does not fit in {cache.builtin}"
                )
            *operands, last = op.operands
            ring = constant_bool(last)
            symbol = symbol_name("quantized_cache_update", cache, new, "ring" if ring else "")
            insert_function(module, symbol, _template(symbol, cache, scales, new, ring))
            call_template(op, symbol, operands, cache, scales)


def _template(
    symbol: str, cache: TorchTensor, scales: TorchTensor, new: TorchTensor, ring: bool
) -> str:
    tokens, heads, _ = new.shape
    dynamic = "%tokens" if tokens is None else ""
    factors = TorchTensor((tokens, heads), "f32")
    rows, most = tensor_type(new.shape, "i8"), tensor_type((tokens, heads), "f32")
    row, element = "affine_map<(t, h, d) -> (t, h)>", "affine_map<(t, h, d) -> (t, h, d)>"
    return f"""
util.func private @"{symbol}"(%cache: {cache.builtin}, %scales: {scales.builtin},
    %new: {new.builtin}, %start: tensor<i64>) -> ({cache.builtin}, {scales.builtin}) {{
  %c0 = arith.constant 0 : index
  %zero = arith.constant 0.0 : f32
  %tiny = arith.constant 1.0e-30 : f32
  %steps = arith.constant 127.0 : f32
  %tokens = tensor.dim %new, %c0 : {new.builtin}
{first_row(cache, ring)}
  %most_empty = tensor.empty({dynamic}) : {most}
  %most_zero = linalg.fill ins(%zero : f32) outs(%most_empty : {most}) -> {most}
  %most = linalg.generic {{
      indexing_maps = [{element}, {row}],
      iterator_types = ["parallel", "parallel", "reduction"]
    }} ins(%new : {new.builtin}) outs(%most_zero : {most}) {{
  ^bb0(%x: f32, %m: f32):
    %a = math.absf %x : f32
    %l = arith.maximumf %a, %m : f32
    linalg.yield %l : f32
  }} -> {most}
  %rows_empty = tensor.empty({dynamic}) : {rows}
  %rows = linalg.generic {{
      indexing_maps = [{element}, {row}, {element}],
      iterator_types = ["parallel", "parallel", "parallel"]
    }} ins(%new, %most : {new.builtin}, {most}) outs(%rows_empty : {rows}) {{
  ^bb0(%x: f32, %m: f32, %unused: i8):
    %quotient = arith.divf %steps, %m : f32
    %some = arith.cmpf ogt, %m, %tiny : f32
    %inverse = arith.select %some, %quotient, %zero : f32
    %scaled = arith.mulf %x, %inverse : f32
    %whole = math.roundeven %scaled : f32
    %integer = arith.fptosi %whole : f32 to i8
    linalg.yield %integer : i8
  }} -> {rows}
  %factors = linalg.generic {{
      indexing_maps = [affine_map<(t, h) -> (t, h)>, affine_map<(t, h) -> (t, h)>],
      iterator_types = ["parallel", "parallel"]
    }} ins(%most : {most}) outs(%most_empty : {most}) {{
  ^bb0(%m: f32, %unused: f32):
    %factor = arith.divf %m, %steps : f32
    linalg.yield %factor : f32
  }} -> {most}
{write_rows("%new_cache", "%rows", "%cache", TorchTensor(new.shape, "i8"), cache, ring)}
{write_rows("%new_scales", "%factors", "%scales", factors, scales, ring)}
  util.return %new_cache, %new_scales : {cache.builtin}, {scales.builtin}
}}"""
