"""Codes and scales of a matrix in the layout that kernels read, and back; in torch.

`edgec.weight_formats` names the formats, docs/quantisation.md defines the layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgec.weight_formats import CODEBOOKS, PANEL, SUPER, WeightFormat

__all__ = ["Scales", "dequantize", "flat_format", "pack", "pack_scales", "unpack", "unpack_scales"]


@dataclass(frozen=True)
class Scales:
    """The scales of some rows.

    Attributes:
        scale: f16 `[R, K / group]`, or of two levels `[R, K / 256]`; u8 exponents.
        offset: Zero points or minima of the same shape and type, or None.
        scale_steps: Two levels: what the scale of each group is in `scale`, `[R, K / group]`; u8
            with minima, i8 without.
        offset_steps: Two levels with minima: likewise of `offset`, u8.
    """

    scale: torch.Tensor
    offset: torch.Tensor | None = None
    scale_steps: torch.Tensor | None = None
    offset_steps: torch.Tensor | None = None

    def padded(self, rows: int) -> Scales:
        """The same with `rows` rows more, of zeros."""

        def pad(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else torch.nn.functional.pad(values, (0, 0, 0, rows))

        scale = pad(self.scale)
        assert scale is not None
        return Scales(scale, pad(self.offset), pad(self.scale_steps), pad(self.offset_steps))


def pack(codes: torch.Tensor, form: WeightFormat) -> torch.Tensor:
    """Codes as planes in panels of 16 rows.

    Args:
        codes: u8 `[16 P, K]`, or i8 of 8 bits; K a multiple of `form.columns`.

    Returns:
        i8 `[P, K bits / 32, 16, 4]`.
    """
    rows, columns = codes.shape
    words = codes.contiguous().view(torch.int32)  # four columns of a row: masks keep bytes apart
    planes, below = [], 0
    for bits in form.planes:
        fields = 8 // bits
        chunks = words.view(rows, -1, fields)
        if bits < 8:
            mask = 0x01010101 * ((1 << bits) - 1)
            chunks = chunks >> below & (mask if mask < 1 << 31 else mask - (1 << 32))
        plane = chunks[..., 0]
        for field in range(1, fields):
            plane = plane | chunks[..., field] << field * bits
        planes.append(plane.reshape(rows, columns // form.columns, -1))
        below += bits
    blocks = torch.cat(planes, dim=-1).view(rows // PANEL, PANEL, -1).transpose(1, 2).contiguous()
    return blocks.view(torch.int8).view(*blocks.shape, 4)


def unpack(packed: torch.Tensor, form: WeightFormat) -> torch.Tensor:
    """The codes of all panels, `[16 P, K]`; the inverse of packing."""
    panels = packed.shape[0]
    words = (
        packed.contiguous().view(torch.int32)[..., 0].transpose(1, 2).reshape(PANEL * panels, -1)
    )
    if form.bits == 8:
        return words.contiguous().view(torch.int8)
    each = form.columns * form.bits // 32
    blocks = words.view(words.shape[0], -1, each)
    codes = torch.zeros(
        (*blocks.shape[:2], form.columns // 4), dtype=torch.int32, device=packed.device
    )
    start, below = 0, 0
    for bits in form.planes:
        fields, count = 8 // bits, each * bits // form.bits
        plane = blocks[..., start : start + count]
        mask = 0x01010101 * ((1 << bits) - 1)
        for field in range(fields):
            codes[..., field::fields] |= (plane >> field * bits & mask) << below
        start, below = start + count, below + bits
    return codes.view(words.shape[0], -1).view(torch.uint8)


def pack_scales(scales: Scales, form: WeightFormat) -> torch.Tensor:
    """The scales' tensor of `[16 P, …]` rows, of the shape that `form.scales_shape` says."""
    if form.scales == "exponents":
        return _panels(scales.scale).view(torch.int8)
    if form.scales == "flat":
        if scales.offset is None:
            return _panels(scales.scale)
        return torch.stack([_panels(scales.scale), _panels(scales.offset)])
    assert scales.scale_steps is not None
    steps = [scales.scale_steps]
    if scales.offset_steps is not None:
        steps.append(scales.offset_steps)
    if form.scales == "nibbles":
        steps = [steps[0] | steps[1] << 4]
    tops = [scales.scale] if scales.offset is None else [scales.scale, scales.offset]
    parts = []
    for top in tops:
        halves = _panels(top).contiguous()  # [P, K / 256, 16]
        parts.append(halves.view(torch.int8).view(*halves.shape[:2], 2, PANEL))
    for values in steps:
        bytes_ = _panels(values.view(torch.int8)).contiguous()
        parts.append(bytes_.view(bytes_.shape[0], halves.shape[1], -1, PANEL))
    return torch.cat(parts, dim=2)


def unpack_scales(
    packed: torch.Tensor, form: WeightFormat
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales and zero points or minima, f32 `[16 P, K / group]`."""
    if form.scales == "exponents":
        exponents = _rows(packed.view(torch.uint8)).to(torch.int32)
        return (exponents << 23).view(torch.float32), None
    if form.scales == "flat":
        if not form.offset:
            return _rows(packed).to(torch.float32), None
        return _rows(packed[0]).to(torch.float32), _rows(packed[1]).to(torch.float32)
    assert form.group is not None
    groups, halves = SUPER // form.group, 2 if form.offset else 1
    tops = packed[:, :, : 2 * halves].contiguous().view(*packed.shape[:2], halves, 2 * PANEL)
    steps = packed[:, :, 2 * halves :].contiguous()
    scale, offset = None, None
    for i in range(halves):
        top = _rows(tops[:, :, i].contiguous().view(torch.float16)).to(torch.float32)
        if form.scales == "nibbles":
            values = steps.view(torch.uint8) >> 4 * i & 15
        else:
            values = steps[:, :, i * groups : (i + 1) * groups]
            values = values.contiguous().view(torch.uint8) if form.offset else values
        each = _rows(values.reshape(packed.shape[0], -1, PANEL)).to(torch.float32)
        wide = top.repeat_interleave(groups, dim=1) * each
        scale, offset = (wide, None) if i == 0 else (scale, wide)
    assert scale is not None
    return scale, offset


def flat_format(packed: torch.Tensor, scales: torch.Tensor, columns: int) -> WeightFormat:
    """The format of 8 or 4 bits that the shapes of a matrix tell."""
    bits = 8 if packed.shape[1] * 4 == columns else 4
    offset = "zero_point" if scales.dim() == 4 else ""
    return WeightFormat(bits, columns // scales.shape[-2], offset)


def dequantize(
    packed: torch.Tensor, scales: torch.Tensor, form: WeightFormat, rows: int
) -> torch.Tensor:
    """The matrix f32 `[rows, K]` that a pair of packed codes and scales stands for."""
    codes = unpack(packed, form)
    if form.codebook:
        book = torch.tensor(CODEBOOKS[form.codebook], dtype=torch.float32, device=packed.device)
        values = book[codes.to(torch.int64)]
    else:
        values = codes.to(torch.float32) - (0 if form.offset == "minimum" else form.zero)
    scale, offset = unpack_scales(scales, form)
    groups = values.view(values.shape[0], scale.shape[1], -1)
    if form.offset == "zero_point":
        assert offset is not None
        wide = (groups - offset[..., None]) * scale[..., None]
    else:
        wide = groups * scale[..., None]
        if offset is not None:
            wide = wide - offset[..., None]
    return wide.view(values.shape)[:rows]


def _panels(values: torch.Tensor) -> torch.Tensor:
    """`[16 P, G]` to `[P, G, 16]`."""
    rows, groups = values.shape
    return values.reshape(rows // PANEL, PANEL, groups).transpose(-1, -2)


def _rows(values: torch.Tensor) -> torch.Tensor:
    """`[P, G, 16]` to `[16 P, G]`."""
    panels, groups = values.shape[:2]
    return values.transpose(1, 2).reshape(panels * PANEL, groups)
