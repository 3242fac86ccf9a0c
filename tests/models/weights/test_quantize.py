"""The weight formats: packing, rounding, errors."""

from __future__ import annotations

import pytest
import torch

from edgec.errors import InputError, ModelError
from edgec.models.weights.packing import dequantize, unpack
from edgec.models.weights.quantize import coded, halves, quantize, round_with
from edgec.weight_formats import WeightFormat


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [32, 64, 128, None])
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_round_trip(bits: int, group: int | None, rows: int) -> None:
    """Weights that are multiples of a scale come back exactly."""
    generator = torch.Generator().manual_seed(rows)
    top = 127 if bits == 8 else 8
    integers = torch.randint(1 - top, top, (rows, 256), generator=generator).float()
    integers[:, ::32] = -top  # each group has the largest magnitude
    weight = integers * 0.25
    form = WeightFormat(bits, group)
    packed, scales = quantize("w", weight, form)
    assert packed.dtype == torch.int8 and scales.dtype == torch.float16
    assert packed.numel() * 8 // bits == -(-rows // 16) * 16 * 256
    assert torch.equal(dequantize(packed, scales, form, rows), weight)
    assert not (unpack(packed, form)[rows:] - form.zero).any()


def test_layout() -> None:
    """The place of an element by docs/quantisation.md."""
    weight = torch.randint(-7, 8, (32, 64)).float()
    weight[:, ::32] = -8
    packed, _ = quantize("w", weight, WeightFormat(4, 32))
    byte = int(packed[1, 2, 3, 1]) & 255
    assert (byte & 15) - 8 == weight[16 + 3, 2 * 8 + 1]
    assert (byte >> 4) - 8 == weight[16 + 3, 2 * 8 + 4 + 1]
    weight[:, ::32] = 127
    packed, _ = quantize("w", weight, WeightFormat(8, 32))
    assert packed[1, 2, 3, 1] == weight[16 + 3, 2 * 4 + 1]


def test_int4_is_better_than_rounding_to_the_peak() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    packed, scales = quantize("w", weight, WeightFormat(4))
    found = (dequantize(packed, scales, WeightFormat(4), 64) - weight).square().mean()
    groups = weight.reshape(64, -1, 32)
    peak = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)) / -8
    plain = ((groups / peak).round().clamp(-8, 7) * peak - groups).square().mean()
    assert found < 0.92 * plain


def test_zeros_stay_zero() -> None:
    for bits in (8, 4):
        form = WeightFormat(bits)
        assert not dequantize(*quantize("w", torch.zeros(3, 32), form), form, 3).any()


def test_group_that_does_not_divide_is_named() -> None:
    with pytest.raises(InputError, match="group-size 64.*96 columns of some.weight") as error:
        quantize("some.weight", torch.zeros(4, 96), WeightFormat(8, 64))
    assert error.value.remedy == "use --group-size 32"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(bad: float) -> None:
    weight = torch.ones(4, 32)
    weight[2, 7] = bad
    with pytest.raises(ModelError, match="some.weight has NaN or infinite"):
        quantize("some.weight", weight, WeightFormat(8, 32))


@pytest.mark.parametrize(
    "form", [WeightFormat(8, 32), WeightFormat(4, 32), WeightFormat(4, 32, "zero_point")]
)
@pytest.mark.parametrize("value", [1e8, -1e20, 1e30])
def test_weights_beyond_the_scales_are_named(form: WeightFormat, value: float) -> None:
    weight = torch.ones(3, 64)
    weight[1, 40] = value
    with pytest.raises(
        ModelError, match=f"w has values up to {abs(value):.6g}".replace("+", r"\+")
    ):
        quantize("w", weight, form)


def test_zero_points_fit_groups_off_centre() -> None:
    """A line through each group: far better than a scale alone where weights are not centred."""
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    weight += torch.linspace(-3, 3, 64)[:, None]

    def error(form: WeightFormat) -> float:
        packed, scales = quantize("w", weight, form)
        assert scales.shape == form.scales_shape("w", 64, 256)
        return float((dequantize(packed, scales, form, 64) - weight).square().mean())

    found = error(WeightFormat(4, 32, "zero_point"))
    assert found < 0.4 * error(WeightFormat(4, 32))
    low, high = weight.reshape(64, -1, 32).amin(-1), weight.reshape(64, -1, 32).amax(-1)
    step = ((high - low) / 15)[..., None]
    q = ((weight.reshape(64, -1, 32) - low[..., None]) / step).round()
    plain = (q * step + low[..., None] - weight.reshape(64, -1, 32)).square().mean()
    assert found < 0.97 * plain


@pytest.mark.parametrize("value", [0.0, 1e-6, -3.0, 0.37])
def test_zero_points_of_constant_groups(value: float) -> None:
    """No range to divide by; and a range that vanishes beside the offset."""
    form = WeightFormat(4, 32, "zero_point")
    for spread in (0.0, 1e-6):
        weight = torch.full((3, 64), value)
        weight[:, ::2] += spread * value
        found = dequantize(*quantize("w", weight, form), form, 3)
        assert torch.allclose(found, weight, rtol=1e-3, atol=6e-8)


def plainly(groups: torch.Tensor, form: WeightFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounding by docs/quantisation.md, an operation at a time for the whole matrix."""

    def divide(weights: torch.Tensor, scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
        inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
        return (weights * inverse[..., None]).round().clamp(low, high)

    if form.bits == 8:
        scale = (groups.abs().amax(-1) / 127).half()
        return divide(groups, scale.float(), -127, 127), scale
    if form.offset:
        low, high, mean = groups.amin(-1), groups.amax(-1), groups.mean(-1)
        best, scale, offset = torch.full_like(low, -1.0), torch.zeros_like(low), mean
        for part in (1.0, 0.96, 0.92, 0.88, 0.84, 0.8):
            start = (low + high) / 2 - part * ((high - low) / 2)
            step = part * ((high - low) / 2) * (2 / 15)
            q = divide(groups - start[..., None], step, 0, 15) - 8
            spread = (q * q).mean(-1) - q.mean(-1) * q.mean(-1)
            product = (q * groups).mean(-1) - q.mean(-1) * mean
            gain = torch.where(spread > 1e-6, product * product / spread.clamp(min=1e-6), best)
            better, best = gain > best, torch.maximum(gain, best)
            scale = torch.where(better, product / spread.clamp(min=1e-6), scale)
            offset = torch.where(better, mean - scale * q.mean(-1), offset)
        return round_with(groups, *halves(scale, offset)[:2])
    peak = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))[..., 0]
    best, scale = torch.full_like(peak, -1.0), torch.zeros_like(peak)
    for candidate in (8.0, 7.7, 8.3, 7.4, 7.0, 8.6, 9.0):
        q = divide(groups, peak / -candidate, -8, 7)
        product, square = (groups * q).sum(-1), (q * q).sum(-1).clamp(min=1e-30)
        better = product * product / square > best
        best = torch.where(better, product * product / square, best)
        scale = torch.where(better, product / square, scale)
    return divide(groups, scale.half().float(), -8, 7), scale.half()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "form",
    [
        WeightFormat(8, 32),
        WeightFormat(8, None),
        WeightFormat(4, 32),
        WeightFormat(4, 32, "zero_point"),
    ],
    ids=str,
)
def test_blocks_on_all_cores_give_the_bits_of_the_plain_formula(
    form: WeightFormat, dtype: torch.dtype
) -> None:
    """Several blocks, a last panel that is not full, ties of magnitude, zeros of either sign."""
    weight = torch.randn(700, 512, generator=torch.Generator().manual_seed(0)) * 0.02
    weight[100:300] = (weight[100:300] * 100).round() / 100
    weight[3], weight[4], weight[5] = 0.0, -0.0, 0.37
    weight = weight.to(dtype)
    packed, scales = quantize("w", weight, form)
    group = form.group or 512
    integers, scale = plainly(weight.float().reshape(700, -1, group), form)
    assert torch.equal(
        unpack(packed, form)[:700], coded(integers.reshape(700, 512).to(torch.int8), form)
    )
    by_row = scales.transpose(-1, -2).reshape(*scales.shape[:-3], -1, 512 // group)
    found = by_row[..., :700, :].contiguous().view(torch.int16)
    assert torch.equal(found, scale.contiguous().view(torch.int16))


def test_a_failure_in_one_block_is_raised() -> None:
    weight = torch.ones(3000, 512)
    weight[2999, 511] = float("nan")
    with pytest.raises(ModelError, match="some.weight has NaN or infinite"):
        quantize("some.weight", weight, WeightFormat(4, 32))
