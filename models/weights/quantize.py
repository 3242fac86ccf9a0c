"""Rounding of weights to formats of 8 and 4 bits, per tensor, in torch.

`edgec.weight_formats` names the formats, docs/quantisation.md says how each is rounded.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from edgec.errors import ModelError
from edgec.models.weights.blocks import for_each
from edgec.models.weights.packing import Scales, pack, pack_scales
from edgec.weight_formats import PANEL, WeightFormat

__all__ = ["coded", "halves", "quantize", "quantize_experts"]

_BLOCK = 1 << 17  # weights that a thread converts at a time, so that temporaries stay in cache


def quantize(
    name: str, weight: torch.Tensor, weight_format: WeightFormat
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises and packs a matrix, blocks of rows on all cores.

    Args:
        name: For messages.
        weight: `[N, K]`, any float type.
        weight_format: The format.

    Returns:
        The packed integers and the f16 scales, see the module's text.

    Raises:
        InputError: the group does not divide K.
        ModelError: a weight is NaN or infinite, or too large for an f16 scale.
    """
    weight = weight.detach()
    rows, columns = weight.shape
    group = weight_format.group_of(name, columns)
    packed = torch.empty(weight_format.packed_shape(rows, columns), dtype=torch.int8)
    scales = torch.empty(weight_format.scales_shape(name, rows, columns), dtype=torch.float16)
    panels = max(1, _BLOCK // (PANEL * columns))
    rounding = _ROUNDING[weight_format.bits, weight_format.offset]

    def convert(first: int) -> None:
        block = weight[first * PANEL : (first + panels) * PANEL].to(torch.float32)
        if missing := -block.shape[0] % PANEL:
            block = torch.nn.functional.pad(block, (0, 0, 0, missing))
        groups = block.reshape(-1, columns // group, group)
        low, high = groups.amin(-1), groups.amax(-1)
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):  # NaN: both are NaN
            raise ModelError(
                f"weights: {name} has NaN or infinite values",
                "get an intact copy, or replace them (torch.nan_to_num) and save the model again",
            )
        integers, scale = rounding(groups, low, high)
        if not bool(torch.isfinite(scale).all()):
            largest = float(torch.maximum(high, -low).max())
            raise ModelError(
                f"weights: {name} has values up to {largest:.6g}, "
                f"too large for int{weight_format.bits}, "
                "whose scales are f16",
                "leave out --quantize, and use --dtype bf16 or f32",
            )
        end = first + block.shape[0] // PANEL
        packed[first:end] = pack(coded(integers.view(-1, columns), weight_format), weight_format)
        parts = scale if weight_format.offset else (scale,)
        scales[..., first:end, :, :] = pack_scales(Scales(*parts), weight_format)

    for_each(convert, range(0, packed.shape[0], panels))
    return packed, scales


def quantize_experts(
    name: str, matrices: Iterable[torch.Tensor], experts: int, weight_format: WeightFormat
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises and packs the matrix of each expert, one after the other.

    Args:
        name: For messages.
        matrices: `[N, K]` of each expert; asked for one at a time.
        experts: How many there are.
        weight_format: The format.

    Returns:
        What `quantize` returns, with a first dimension of `experts`. See there for errors.
    """
    results: tuple[torch.Tensor, ...] = ()
    for expert, matrix in enumerate(matrices):
        parts = quantize(f"{name}[{expert}]", matrix, weight_format)
        if not results:
            results = tuple(part.new_empty(experts, *part.shape) for part in parts)
        for result, part in zip(results, parts, strict=True):
            result[expert] = part
    packed, scales = results
    return packed, scales


def coded(integers: torch.Tensor, form: WeightFormat) -> torch.Tensor:
    """The codes of signed integers i8, as they are packed."""
    return integers if form.bits == 8 else (integers + form.zero).view(torch.uint8)


def _round8(
    groups: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest magnitude to 127, round to nearest even: f32 `[R, G, group]` to i8 and f16.

    `low` and `high` are the groups' extremes, here and in the other roundings.
    """
    scale = (torch.maximum(high, -low).abs_() / 127).to(torch.float16)
    q = torch.empty_like(groups)
    _divide(groups, scale.to(torch.float32), -127, 127, out=q)
    return q.to(torch.int8), scale


_CANDIDATES = (8.0, 7.7, 8.3, 7.4, 7.0, 8.6, 9.0)
"""Candidate places for the weight of largest magnitude, its sign turned to minus: -8 is the end of
the range that 7 is not. Larger values clip it to gain resolution for the others."""


def _round4(
    groups: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale of least squared error among a few, each fitted to its own rounding.

    For integers q the best scale is `sum(w q) / sum(q q)`; the error it leaves is least where
    `sum(w q)^2 / sum(q q)` is greatest.
    """
    peak = torch.where(high > -low, high, low)
    tied = high == -low
    if bool(tied.any()):  # the first of equal magnitude; argmax is slow, and ties are few
        some = groups[tied]
        peak[tied] = some.gather(-1, some.abs().argmax(-1, keepdim=True))[:, 0]
    best = torch.full_like(peak, -1.0)
    scale = torch.zeros_like(peak)
    q, terms = torch.empty_like(groups), torch.empty_like(groups)
    for candidate in _CANDIDATES:
        _divide(groups, peak / -candidate, -8, 7, out=q)
        product = torch.mul(groups, q, out=terms).sum(-1)
        square = torch.mul(q, q, out=terms).sum(-1).clamp_(min=1e-30)
        gain = product * product / square
        better = gain > best
        best = torch.where(better, gain, best)
        scale = torch.where(better, product.div_(square), scale)
    half = scale.to(torch.float16)
    _divide(groups, half.to(torch.float32), -8, 7, out=q)
    return q.to(torch.int8), half


_SHRINK = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8)
"""Parts of a group's range that the 15 steps cover; what lies outside is clipped."""


def _round4_zero(
    groups: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset of least squared error among a few ranges, fitted to their own rounding.

    For integers q, `w = s q + b` is a line through the points (q, w): linear regression. Returns
    the scales and the zero points `-b / s` in one tensor, f16 `[2, R, G]`.
    """
    middle, half = (low + high) / 2, (high - low) / 2
    mean = groups.mean(-1)
    best = torch.full_like(low, -1.0)
    scale, offset = torch.zeros_like(low), mean.clone()
    q, terms = torch.empty_like(groups), torch.empty_like(groups)
    for part in _SHRINK:
        start = middle - part * half
        step = part * half * (2 / 15)
        torch.sub(groups, start[..., None], out=terms)
        _divide(terms, step, 0, 15, out=q).sub_(8)
        q_mean = q.mean(-1)
        spread = torch.mul(q, q, out=terms).mean(-1) - q_mean * q_mean
        product = torch.mul(q, groups, out=terms).mean(-1) - q_mean * mean
        # What a line leaves of the variance of w is least where it explains most.
        gain = torch.where(spread > 1e-6, product * product / spread.clamp(min=1e-6), best)
        better = gain > best
        best = torch.where(better, gain, best)
        scale = torch.where(better, product / spread.clamp(min=1e-6), scale)
        offset = torch.where(better, mean - scale * q_mean, offset)
    s, z, _ = halves(scale, offset)
    return round_with(groups, s, z)


def halves(
    scale: torch.Tensor, offset: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The f16 scale s and zero point z of `scale q + offset`, f32 both, as `s (q - z)`.

    Where the scale is too small beside the offset for z to be an f16 number, all weights of the
    group are the offset: s is its magnitude and z is 1 or -1, for q = 0. The third result says
    where that is so.
    """
    s = scale.to(torch.float16)
    z = (-offset / s.to(torch.float32)).to(torch.float16)
    flat = ~torch.isfinite(z)
    s = torch.where(flat, offset.abs().to(torch.float16), s)
    z = torch.where(flat, -offset.sign().to(torch.float16), z)
    return s, z, flat


def round_with(
    groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The i8 integers nearest to f32 `[R, G, group]`, and scales and zero points as one tensor."""
    wide = zero.to(torch.float32)[..., None]
    shifted = (groups / scale.to(torch.float32).clamp(min=1e-30)[..., None]).add_(wide)
    return shifted.round_().clamp_(-8, 7).to(torch.int8), torch.stack([scale, zero])


_ROUNDING = {(8, ""): _round8, (4, ""): _round4, (4, "zero_point"): _round4_zero}


def _divide(
    groups: torch.Tensor, scale: torch.Tensor, low: int, high: int, *, out: torch.Tensor
) -> torch.Tensor:
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
    return torch.mul(groups, inverse[..., None], out=out).round_().clamp_(low, high)
