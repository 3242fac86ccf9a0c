"""Dispatches of the CPU kernel in compiler/ukernels/argmax.h, as MLIR text."""

from __future__ import annotations

from edgec.passes.kernels.calls import dispatch, executable, workgroup_share
from edgec.passes.kernels.table import ARGMAX, argmax

__all__ = ["argmax_fits", "argmax_template"]

_FEWEST = 8192
"""With fewer numbers a second dispatch costs as much as the kernel saves."""


def argmax_fits(width: int) -> bool:
    """Whether rows of `width` numbers are worth it."""
    return width >= _FEWEST


def argmax_template(symbol: str, height: int, width: int, level: str) -> str:
    """The executable and the function `symbol` that calls it and chooses among the parts.

    A part without any number above minus infinity never wins; where all are such, 0 stands.
    """
    per = workgroup_share(-(-width // argmax.BLOCK), argmax.BLOCK * 4) * argmax.BLOCK
    parts = -(-width // per)
    x, value, index = (
        f"tensor<{height}x{width}xf32>", f"tensor<{height}xf32>", f"tensor<{height}xi32>"
    )  # fmt: skip
    part_value, part_index = f"tensor<{height}x{parts}xf32>", f"tensor<{height}x{parts}xi32>"
    part = dispatch("%part", ARGMAX, "argmax", {"x": ("%x", x)}, [part_value, part_index])
    return f"""
#part = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>
{executable(ARGMAX, level)}
util.func private @"{symbol}"(%x: {x}) -> ({value}, {index}) {{
  %low = arith.constant 0xFF800000 : f32
  %zero = arith.constant 0 : i32
  %rows = arith.constant {height} : index
  %n = arith.constant {width} : index
  %per = arith.constant {per} : index
  %parts = arith.constant {parts} : index{part}
  %value_empty = tensor.empty() : {value}
  %index_empty = tensor.empty() : {index}
  %value_low = linalg.fill ins(%low : f32) outs(%value_empty : {value}) -> {value}
  %index_zero = linalg.fill ins(%zero : i32) outs(%index_empty : {index}) -> {index}
  %best:2 = linalg.generic {{
      indexing_maps = [#part, #part, #row, #row], iterator_types = ["parallel", "reduction"]
    }} ins(%part#0, %part#1 : {part_value}, {part_index})
       outs(%value_low, %index_zero : {value}, {index}) {{
  ^bb0(%a: f32, %a_place: i32, %b: f32, %b_place: i32):
    %larger = arith.cmpf ogt, %a, %b : f32
    %equal = arith.cmpf oeq, %a, %b : f32
    %earlier = arith.cmpi slt, %a_place, %b_place : i32
    %first = arith.andi %equal, %earlier : i1
    %wins = arith.ori %larger, %first : i1
    %most = arith.select %wins, %a, %b : f32
    %place = arith.select %wins, %a_place, %b_place : i32
    linalg.yield %most, %place : f32, i32
  }} -> ({value}, {index})
  util.return %best#0, %best#1 : {value}, {index}
}}"""
