"""GGUF's quantised blocks as codes and scales of edgec's formats, exactly.

Layouts: `ggml-quants.h` and `ggml-common.h` of llama.cpp. Each reader takes raw blocks, u8
`[rows, blocks, bytes]`, and gives codes `[rows, K]` in the order of the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from gguf import GGMLQuantizationType as Type

from edgec.models.weights.packing import Scales
from edgec.weight_formats import WeightFormat

__all__ = ["READERS", "Reader"]

Codes = tuple[torch.Tensor, Scales]


@dataclass(frozen=True)
class Reader:
    """How a type's blocks become a format.

    Attributes:
        form: The format, which holds the type exactly.
        read: Raw blocks to codes and scales.
    """

    form: WeightFormat
    read: Callable[[torch.Tensor], Codes]


def _half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """The f16 at a byte of each block, `[rows, blocks]`."""
    return blocks[..., at : at + 2].contiguous().view(torch.float16)[..., 0]


def _flat(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(values.shape[0], -1)


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """u8 `[..., n]` to `[..., 2 n]`: the low nibbles, then the high ones."""
    return torch.cat([packed & 15, packed >> 4], dim=-1)


def _fields(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """u8 `[..., n]` to `[..., 8 / bits, n]`, the low bits first."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    return packed[..., None, :] >> shifts[:, None] & (1 << bits) - 1


def _fifth_bits(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """The 32 bits at four bytes of each block, as u8 `[rows, blocks, 32]`."""
    bit = torch.arange(8, dtype=torch.uint8)
    return (blocks[..., at : at + 4, None] >> bit & 1).flatten(-2)


def _q8_0(blocks: torch.Tensor) -> Codes:
    return _flat(blocks[..., 2:].contiguous().view(torch.int8)), Scales(_half(blocks, 0))


def _q4_0(blocks: torch.Tensor) -> Codes:
    return _flat(_nibbles(blocks[..., 2:])), Scales(_half(blocks, 0))


def _q4_1(blocks: torch.Tensor) -> Codes:
    return _flat(_nibbles(blocks[..., 4:])), Scales(_half(blocks, 0), -_half(blocks, 2))


def _q5_0(blocks: torch.Tensor) -> Codes:
    codes = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks, 2) << 4
    return _flat(codes), Scales(_half(blocks, 0))


def _q5_1(blocks: torch.Tensor) -> Codes:
    codes = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks, 4) << 4
    return _flat(codes), Scales(_half(blocks, 0), -_half(blocks, 2))


def _six_bits(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and minima of 8 groups, u8 `[rows, blocks, 8]`, from 12 bytes."""
    a, b, c = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = torch.cat([a & 63, c & 15 | a >> 6 << 4], dim=-1)
    return scales, torch.cat([b & 63, c >> 4 | b >> 6 << 4], dim=-1)


def _k_scales(blocks: torch.Tensor) -> Scales:
    scales, minima = _six_bits(blocks[..., 4:16])
    return Scales(_half(blocks, 0), _half(blocks, 2), _flat(scales), _flat(minima))


def _q4_k(blocks: torch.Tensor) -> Codes:
    # 64 weights lie in 32 bytes: the first 32 in their low nibbles, the others in the high ones.
    packed = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)
    return _flat(_nibbles(packed)), _k_scales(blocks)


def _q5_k(blocks: torch.Tensor) -> Codes:
    low = _fields(blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32), 4)  # [.., 4, 2, 32]
    high = _fields(blocks[..., 16:48], 1).reshape(low.shape)
    return _flat(low | high << 4), _k_scales(blocks)


def _q6_k(blocks: torch.Tensor) -> Codes:
    low = _fields(blocks[..., :128].reshape(*blocks.shape[:2], 2, 64), 4)  # [.., 2, 2, 64]
    high = _fields(blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 32), 2)  # [.., 2, 4, 32]
    codes = low.reshape(high.shape) | high << 4
    steps = blocks[..., 192:208].contiguous().view(torch.int8)
    return _flat(codes), Scales(_half(blocks, 208), scale_steps=_flat(steps))


def _q3_k(blocks: torch.Tensor) -> Codes:
    low = _fields(blocks[..., 32:96].reshape(*blocks.shape[:2], 2, 32), 2)  # [.., 2, 4, 32]
    high = _fields(blocks[..., :32], 1).reshape(low.shape)
    packed = blocks[..., 96:108]
    six = _nibbles(packed[..., :8]) | _fields(packed[..., 8:], 2).flatten(-2) << 4
    steps = (six.to(torch.int16) - 32).to(torch.int8)
    return _flat(low | high << 2), Scales(_half(blocks, 108), scale_steps=_flat(steps))


def _q2_k(blocks: torch.Tensor) -> Codes:
    codes = _fields(blocks[..., 16:80].reshape(*blocks.shape[:2], 2, 32), 2)
    steps, minima = blocks[..., :16] & 15, blocks[..., :16] >> 4
    return _flat(codes), Scales(_half(blocks, 80), _half(blocks, 82), _flat(steps), _flat(minima))


def _iq4_xs(blocks: torch.Tensor) -> Codes:
    codes = _nibbles(blocks[..., 8:].reshape(*blocks.shape[:2], 8, 16))
    low = _fields(blocks[..., 4:8, None], 4).flatten(-3)  # group 2 i in the low nibble of byte i
    high = _fields(blocks[..., 2:4, None], 2).flatten(-3)
    steps = ((low | high << 4).to(torch.int16) - 32).to(torch.int8)
    return _flat(codes), Scales(_half(blocks, 0), scale_steps=_flat(steps))


def _tq2_0(blocks: torch.Tensor) -> Codes:
    codes = _fields(blocks[..., :64].reshape(*blocks.shape[:2], 2, 32), 2)
    return _flat(codes), Scales(_half(blocks, 64))


def _tq1_0(blocks: torch.Tensor) -> Codes:
    """Five digits of base 3 in a byte, the highest first, as fractions of 256."""

    def digits(packed: torch.Tensor, count: int) -> torch.Tensor:
        powers = torch.tensor([1, 3, 9, 27, 81][:count], dtype=torch.int32)
        shifted = packed[..., None, :].to(torch.int32) * powers[:, None] & 255
        return (shifted * 3 >> 8).to(torch.uint8)

    parts = (
        digits(blocks[..., :32], 5),
        digits(blocks[..., 32:48], 5),
        digits(blocks[..., 48:52], 4),
    )
    codes = torch.cat([part.flatten(-2) for part in parts], dim=-1)
    return _flat(codes), Scales(_half(blocks, 52))


def _mxfp4(blocks: torch.Tensor) -> Codes:
    # The codebook holds twice the values: an exponent less. 2^-127 becomes 0.
    exponents = torch.clamp(blocks[..., 0].to(torch.int16) - 1, min=0).to(torch.uint8)
    return _flat(_nibbles(blocks[..., 1:])), Scales(exponents)


READERS = {
    Type.Q8_0: Reader(WeightFormat(8), _q8_0),
    Type.Q4_0: Reader(WeightFormat(4), _q4_0),
    Type.Q4_1: Reader(WeightFormat(4, offset="minimum"), _q4_1),
    Type.Q5_0: Reader(WeightFormat(5), _q5_0),
    Type.Q5_1: Reader(WeightFormat(5, offset="minimum"), _q5_1),
    Type.Q2_K: Reader(WeightFormat(2, 16, "minimum", "nibbles"), _q2_k),
    Type.Q3_K: Reader(WeightFormat(3, 16, scales="two_level"), _q3_k),
    Type.Q4_K: Reader(WeightFormat(4, 32, "minimum", "two_level"), _q4_k),
    Type.Q5_K: Reader(WeightFormat(5, 32, "minimum", "two_level"), _q5_k),
    Type.Q6_K: Reader(WeightFormat(6, 16, scales="two_level"), _q6_k),
    Type.IQ4_NL: Reader(WeightFormat(4, codebook="iq4_nl"), _q4_0),
    Type.IQ4_XS: Reader(WeightFormat(4, scales="two_level", codebook="iq4_nl"), _iq4_xs),
    Type.MXFP4: Reader(WeightFormat(4, scales="exponents", codebook="fp4"), _mxfp4),
    Type.TQ1_0: Reader(WeightFormat(2, 256, middle=1), _tq1_0),
    Type.TQ2_0: Reader(WeightFormat(2, 256, middle=1), _tq2_0),
}
"""Types that a format holds exactly."""
