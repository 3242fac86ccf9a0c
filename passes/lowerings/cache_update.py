"""`lower-cache-update`: `edgec::cache_update` as one contiguous slice written into the buffer.

In a ring a block may go past the last row: then it is two slices, the second at row 0. Its size is
0 where the block fits.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.limits import LONGEST
from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    constant_bool,
    convert_elements,
    custom_ops,
    insert_function,
    parse_torch_tensor,
    symbol_name,
    tensor_type,
)

__all__ = ["LowerCacheUpdate", "first_row", "write_rows"]


@dataclass(frozen=True)
class LowerCacheUpdate:
    """Instantiates one function for each form of the operator in the module."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "cache_update"):
            *operands, ring = op.operands
            cache, new, _ = (parse_torch_tensor(v.type) for v in operands)
            if cache.shape[0] is None or (new.shape[0] or 0) > cache.shape[0]:
                raise ValueError(f"cache_update: {new.builtin} does not fit in {cache.builtin}")
            wraps = constant_bool(ring)
            symbol = symbol_name("cache_update", cache, new, "ring" if wraps else "")
            insert_function(module, symbol, _template(symbol, cache, new, wraps))
            call_template(op, symbol, operands, cache)


def _template(symbol: str, cache: TorchTensor, new: TorchTensor, ring: bool) -> str:
    size = "%tokens" if new.shape[0] is None else ""
    convert = convert_elements("%rows", "%new", new, cache.dtype, size)
    rows = "%new" if new.dtype == cache.dtype else "%rows"
    return f"""
util.func private @"{symbol}"(%cache: {cache.builtin}, %new: {new.builtin}, %start: tensor<i64>)
    -> {cache.builtin} {{
  %c0 = arith.constant 0 : index
  %tokens = tensor.dim %new, %c0 : {new.builtin}
{first_row(cache, ring)}
{convert}
{write_rows("%result", rows, "%cache", TorchTensor(new.shape, cache.dtype), cache, ring)}
  util.return %result : {cache.builtin}
}}"""


def first_row(cache: TorchTensor, ring: bool) -> str:
    """`%first`: the row of the position `%start`."""
    limit = LONGEST if ring else cache.shape[0]
    position = "%position" if ring else "%first"
    text = f"""  %start_i64 = tensor.extract %start[] : tensor<i64>
  %start_any = arith.index_cast %start_i64 : i64 to index
  {position} = util.assume.int %start_any<umin = 0, umax = {limit}> : index"""
    if not ring:
        return text
    return f"""{text}
  %capacity = arith.constant {cache.shape[0]} : index
  %first = arith.remui %position, %capacity : index"""


def write_rows(
    result: str, rows: str, cache: str, new: TorchTensor, to: TorchTensor, ring: bool
) -> str:
    """`result`: `cache` with `rows` from row `%first` on; in a ring those past its end at row 0.

    Args:
        new: The type of `rows`; `%tokens` of them.
        to: That of `cache`.
    """
    inner = [str(size) for size in new.shape[1:]]
    zeros, ones = ["0"] * len(inner), ", ".join(["1"] * len(new.shape))

    def insert(name: str, part: str, into: str, at: str, size: str, type_: str) -> str:
        return f"""  {name} = tensor.insert_slice {part} into
      {into}[{", ".join([at, *zeros])}] [{", ".join([size, *inner])}] [{ones}]
      : {type_} into {to.builtin}"""

    size = "%tokens" if new.shape[0] is None else str(new.shape[0])
    if not ring or new.shape[0] == 1:
        return insert(result, rows, cache, "%first", size, new.builtin)
    some = tensor_type((None, *new.shape[1:]), new.dtype)
    before, fit, after = f"{result}_before", f"{result}_fit", f"{result}_after"

    def cut(name: str, at: str, count: str) -> str:
        return f"""  {name} = tensor.extract_slice {rows}[{", ".join([at, *zeros])}]
      [{", ".join([count, *inner])}] [{ones}] : {new.builtin} to {some}"""

    return f"""  {result}_room = arith.subi %capacity, %first : index
  {result}_fitting = arith.minui {result}_room, %tokens : index
  {result}_left = arith.subi %tokens, {result}_fitting : index
{cut(fit, "0", f"{result}_fitting")}
{cut(after, f"{result}_fitting", f"{result}_left")}
{insert(before, fit, cache, "%first", f"{result}_fitting", some)}
{insert(result, after, before, "0", f"{result}_left", some)}"""
