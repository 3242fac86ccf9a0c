"""Reads what the SPIR-V modules inside a compiled program declare."""

from __future__ import annotations

import struct

__all__ = ["capabilities"]

_MAGIC = struct.pack("<I", 0x07230203)
_HEADER = 20
_CAPABILITY = 17

# Numbers from the SPIR-V specification, for what not every device has.
_NAMES = {
    9: "Float16",
    10: "Float64",
    11: "Int64",
    22: "Int16",
    39: "Int8",
    61: "GroupNonUniform",
    63: "GroupNonUniformArithmetic",
    65: "GroupNonUniformShuffle",
    66: "GroupNonUniformShuffle",
    4433: "StorageBuffer16BitAccess",
    4434: "StorageBuffer16BitAccess",
    4448: "StorageBuffer8BitAccess",
    4449: "StorageBuffer8BitAccess",
    6019: "DotProduct",
    6022: "CooperativeMatrixKHR",
}


def capabilities(program: bytes) -> frozenset[str]:
    """The optional capabilities of all shaders in an IREE program.

    Capabilities come first in a module, right after its header, as instructions of two words.
    """
    found: set[str] = set()
    at = program.find(_MAGIC)
    while at >= 0:
        word = at + _HEADER
        while word + 8 <= len(program):
            instruction, operand = struct.unpack_from("<II", program, word)
            if instruction & 0xFFFF != _CAPABILITY:
                break
            if operand in _NAMES:
                found.add(_NAMES[operand])
            word += 8
        at = program.find(_MAGIC, at + 4)
    return frozenset(found)
