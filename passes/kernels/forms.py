"""The weight formats that the CPU kernels are compiled for; quantized_linear.h says what each is.

A form is compiled to an object file of its own, of which a program has those that it uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BITS", "FORMS", "WeightForm"]

BITS = range(2, 9)
"""Bits of a code."""

_SCALES = ("flat", "two_level", "nibbles", "exponents")
_OFFSETS = ("", "zero_point", "minimum")
_CODEBOOKS = {
    "iq4_nl": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
    "fp4": (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),
}


@dataclass(frozen=True)
class WeightForm:
    """How the kernels read weights.

    Attributes:
        bits: Bits of a code, 2 to 8.
        scales: `flat`, `two_level`, `nibbles` or `exponents`.
        offset: Nothing, `zero_point` or `minimum`.
        group: Columns that share a scale: 16, 32, or 0 where a multiple of 32 is given in calls.
        middle: The code that stands for 0; ignored with minima, a codebook, or 8 bits.
        codebook: The values of codes of 4 bits, or nothing.
    """

    bits: int
    scales: str = "flat"
    offset: str = ""
    group: int = 0
    middle: int | None = None
    codebook: str = ""

    @property
    def name(self) -> str:
        """The ending of the kernels' names, such as `i4z`."""
        middle = "" if self.middle is None else f"_middle{self.middle}"
        group = f"_g{self.group}" if self.group else ""
        scales = "" if self.scales == "flat" else f"_{self.scales}"
        codebook = f"_{self.codebook}" if self.codebook else ""
        return f"i{self.bits}{self.offset[:1]}{group}{scales}{middle}{codebook}"

    @property
    def zero(self) -> int:
        """The code that stands for 0 where no minimum is subtracted."""
        return 1 << self.bits - 1 if self.middle is None else self.middle

    @property
    def span(self) -> int:
        """Columns that share a scale within a block of 32."""
        return 16 if self.group == 16 else 32

    @property
    def scale_element(self) -> str:
        """The element type of the scales' tensor."""
        return "f16" if self.scales == "flat" else "u8"

    @property
    def constants(self) -> dict[str, str]:
        """Names and values for C."""
        names = {name.upper(): str(i) for i, name in enumerate(_SCALES)}
        names |= {(name or "no_offset").upper(): str(i) for i, name in enumerate(_OFFSETS)}
        names |= {
            "BITS": str(self.bits), "SCALES": str(_SCALES.index(self.scales)),
            "OFFSET": str(_OFFSETS.index(self.offset)), "GROUP": str(self.group),
            "SPAN": str(self.span), "MIDDLE": str(self.zero),
        }  # fmt: skip
        if self.codebook:
            names["CODEBOOK"] = f"{{{', '.join(map(str, _CODEBOOKS[self.codebook]))}}}"
        return names

    def values(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """The integers that scales are multiplied by."""
        if self.codebook:
            return np.array(_CODEBOOKS[self.codebook])[codes]
        if self.bits == 8:
            return codes.view(np.int8).astype(np.int64)
        return codes.astype(np.int64) - (0 if self.offset else self.zero)


FORMS = (
    *(WeightForm(bits) for bits in BITS),
    *(WeightForm(bits, offset="zero_point") for bits in BITS if bits < 8),
    *(WeightForm(bits, offset="minimum") for bits in BITS if bits < 8),
    *(WeightForm(bits, "two_level", group=group) for bits in BITS for group in (16, 32)),
    *(WeightForm(bits, "two_level", "minimum", 32) for bits in BITS if bits < 8),
    WeightForm(2, "nibbles", "minimum", 16),
    WeightForm(2, middle=1),
    WeightForm(4, codebook="iq4_nl"),
    WeightForm(4, "two_level", group=32, codebook="iq4_nl"),
    WeightForm(4, "exponents", codebook="fp4"),
)
"""All formats that there are kernels for."""
