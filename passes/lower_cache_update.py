"""`lower-cache-update`: `edgec::cache_update` as one contiguous slice written into the buffer."""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    convert_elements,
    custom_ops,
    insert_function,
    parse_torch_tensor,
    symbol_name,
    tensor_type,
)

__all__ = ["LowerCacheUpdate"]


@dataclass(frozen=True)
class LowerCacheUpdate:
    """Instantiates one function for each form of the operator in the module."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "cache_update"):
            cache, new, _ = (parse_torch_tensor(v.type) for v in op.operands)
            if cache.shape[0] is None or (new.shape[0] or 0) > cache.shape[0]:
                raise ValueError(f"cache_update: {new.builtin} does not fit in {cache.builtin}")
            symbol = symbol_name("cache_update", cache, new)
            insert_function(module, symbol, _template(symbol, cache, new))
            call_template(op, symbol, list(op.operands), cache)


def _template(symbol: str, cache: TorchTensor, new: TorchTensor) -> str:
    tokens = "%tokens" if new.shape[0] is None else new.shape[0]
    size = "%tokens" if new.shape[0] is None else ""
    stored = tensor_type(new.shape, cache.dtype)
    convert = convert_elements("%rows", "%new", new, cache.dtype, size)
    rows = "%new" if new.dtype == cache.dtype else "%rows"
    return f"""
util.func private @"{symbol}"(%cache: {cache.builtin}, %new: {new.builtin}, %start: tensor<i64>)
    -> {cache.builtin} {{
  %c0 = arith.constant 0 : index
  %tokens = tensor.dim %new, %c0 : {new.builtin}
  %start_i64 = tensor.extract %start[] : tensor<i64>
  %start_any = arith.index_cast %start_i64 : i64 to index
  %first = util.assume.int %start_any<umin = 0, umax = {cache.shape[0]}> : index
{convert}
  %result = tensor.insert_slice {rows} into
      %cache[%first, 0, 0] [{tokens}, {new.shape[1]}, {new.shape[2]}] [1, 1, 1]
      : {stored} into {cache.builtin}
  util.return %result : {cache.builtin}
}}"""
