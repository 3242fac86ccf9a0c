"""Dispatches of the CPU kernel in compiler/ukernels/argmax.h."""

from __future__ import annotations

from math import inf

from edgec.passes.emit import Function, Tensor, Value
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
    f = Function(symbol, x=Tensor((height, width), "f32"))
    numbers = {"rows": height, "n": width, "per": per, "parts": parts}
    made = [("f32", (height, parts)), ("i32", (height, parts))]
    found = dispatch(f, ARGMAX, "argmax", {"x": f["x"]}, made, numbers)

    def better(a: Value, a_place: Value, b: Value, b_place: Value) -> tuple[Value, Value]:
        earlier = a.is_("oeq", b) & a_place.is_("slt", b_place)
        wins = a.is_("ogt", b) | earlier
        return wins.choose(a, b), wins.choose(a_place, b_place)

    best = f.generics("m n, m n -> m, m", found, better, inits=[-inf, 0], dtypes=["f32", "i32"])
    return executable(ARGMAX, level) + f.returns(*best)
