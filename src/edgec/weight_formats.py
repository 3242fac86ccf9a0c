"""Weight formats: what the codes of a quantised matrix are, and how they are stored.

docs/quantisation.md defines the layouts. The quantiser, the readers of checkpoints that come
quantised, the lowerings, the CPU kernels and `edgec inspect` all read a format from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.errors import InputError

__all__ = [
    "BLOCK",
    "CODEBOOKS",
    "FORMATS",
    "OFFSETS",
    "PANEL",
    "SCALES",
    "SUPER",
    "WeightFormat",
]

PANEL = 16
"""Rows (output channels) that are stored interleaved."""
BLOCK = 32
"""Columns whose codes lie together."""
SUPER = 256
"""Columns that share the f16 of scales in two levels."""

SCALES = ("flat", "two_level", "nibbles", "exponents")
OFFSETS = ("", "zero_point", "minimum")
CODEBOOKS = {
    "iq4_nl": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
    "fp4": (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),
}


@dataclass(frozen=True)
class WeightFormat:
    """How a matrix is stored.

    Attributes:
        bits: Bits of a code, 2 to 8. Codes of 8 bits are signed, others are not.
        group: Neighbouring columns that share a scale; None: a whole row.
        offset: Nothing, and a weight is `scale (code - zero)`; `zero_point`, and it is
            `scale (code - zero - zero_point)`; `minimum`, and it is `scale code - minimum`.
        scales: `flat`, an f16 for each group; `two_level`, a byte for each group times an f16 for
            256 columns; `nibbles`, the same with 4 bits for the scale and 4 for the minimum;
            `exponents`, a byte for each group: a power of two.
        middle: The code that stands for 0, if it is not half of the range.
        codebook: A name in `CODEBOOKS`: codes of 4 bits stand for its values.
    """

    bits: int
    group: int | None = 32
    offset: str = ""
    scales: str = "flat"
    middle: int | None = None
    codebook: str = ""

    def __post_init__(self) -> None:
        if self.offset not in OFFSETS or self.scales not in SCALES or not 2 <= self.bits <= 8:
            raise ValueError(f"{self}: no such format")

    @property
    def name(self) -> str:
        """The name of what kernels are compiled for: all but the group, unless it is fixed."""
        middle = "" if self.middle is None else f"_middle{self.middle}"
        group = f"_g{self.group}" if self.fixed_group else ""
        scales = "" if self.scales == "flat" else f"_{self.scales}"
        codebook = f"_{self.codebook}" if self.codebook else ""
        return f"i{self.bits}{self.offset[:1]}{group}{scales}{middle}{codebook}"

    @property
    def fixed_group(self) -> int:
        """The group that kernels are compiled for; 0 where a call says it, a multiple of 32."""
        fixed = self.scales in ("two_level", "nibbles") or self.group == 16
        return self.group if fixed and self.group else 0

    @property
    def zero(self) -> int:
        """The code that stands for 0 where no minimum is subtracted; 0 for signed codes."""
        if self.bits == 8 or self.codebook:
            return 0
        return 1 << self.bits - 1 if self.middle is None else self.middle

    @property
    def span(self) -> int:
        """Columns that share a scale within a block."""
        return 16 if self.group == 16 else BLOCK

    @property
    def planes(self) -> tuple[int, ...]:
        """Bits of the planes that codes are cut into, the lowest first."""
        return (8,) if self.bits == 8 else tuple(b for b in (4, 2, 1) if self.bits & b)

    @property
    def columns(self) -> int:
        """Columns that are stored together: a divisor of a row."""
        return 32 // self.bits if len(self.planes) == 1 else BLOCK

    @property
    def scale_element(self) -> str:
        """The element type of the scales' tensor, f16 or i8."""
        return "f16" if self.scales == "flat" else "i8"

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight with its part of the scales; of a long row without groups, `bits`."""
        if self.group is None:
            return float(self.bits)
        shape = self.scales_shape("", PANEL, 8 * SUPER)
        numbers = 1
        for size in shape:
            numbers *= size
        return self.bits + numbers * (16 if self.scales == "flat" else 8) / (PANEL * 8 * SUPER)

    def group_of(self, name: str, columns: int) -> int:
        """The group for a matrix of `columns` columns.

        Raises:
            InputError: the columns do not divide; the message names the tensor.
        """
        group = self.group or columns
        fixed = SUPER if self.scales in ("two_level", "nibbles") else group
        if columns % fixed or columns % group or group % (self.columns if group > 16 else group):
            fitting = [g for g in (128, 64, 32) if columns % g == 0 and g != self.group]
            remedy = f"use --group-size {fitting[0]}" if fitting else "use --quantize none"
            raise InputError(
                f"group-size {self.group or 'channel'}: does not divide the {columns} columns "
                f"of {name}",
                remedy,
            )
        return group

    def packed_shape(self, rows: int, columns: int) -> tuple[int, int, int, int]:
        """The shape of the codes' tensor, i8."""
        return (-(-rows // PANEL), columns * self.bits // 32, PANEL, 4)

    def scales_shape(self, name: str, rows: int, columns: int) -> tuple[int, ...]:
        """The shape of the scales' tensor."""
        panels, group = -(-rows // PANEL), self.group_of(name, columns)
        if self.scales == "exponents":
            return (panels, columns // group, PANEL)
        if self.scales == "flat":
            shape = (panels, columns // group, PANEL)
            return (2, *shape) if self.offset else shape
        halves = 2 if self.offset else 1
        steps = SUPER // group * (1 if self.scales == "nibbles" else halves)
        return (panels, columns // SUPER, (2 * halves + steps), PANEL)


def _formats() -> Sequence[WeightFormat]:
    found = [WeightFormat(bits) for bits in range(2, 9)]
    for offset in ("zero_point", "minimum"):
        found += [WeightFormat(bits, offset=offset) for bits in range(2, 8)]
    for group in (16, 32):
        found += [WeightFormat(bits, group, scales="two_level") for bits in range(2, 9)]
    found += [WeightFormat(bits, 32, "minimum", "two_level") for bits in range(2, 8)]
    found += [
        WeightFormat(2, 16, "minimum", "nibbles"),
        WeightFormat(2, middle=1),
        WeightFormat(4, codebook="iq4_nl"),
        WeightFormat(4, scales="two_level", codebook="iq4_nl"),
        WeightFormat(4, scales="exponents", codebook="fp4"),
    ]
    return found


FORMATS = {form.name: form for form in _formats()}
"""Name to format, of all that there are kernels for; groups that a call says are 32 here."""
