"""The kernels of each weight format against their reference; packed here, as the header says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.compiler.kernel_calls import call, load_kernels, own_levels, padded

from edgec.compiler.ukernels.reference import quantize_rows, quantized_linear
from edgec.weight_formats import CODEBOOKS, FORMATS, WeightFormat

OWN_LEVELS = own_levels()
USED = {
    "i4", "i8", "i4z", "i4m", "i2", "i3", "i5", "i6", "i5m", "i4m_g32_two_level",
    "i5m_g32_two_level", "i6_g16_two_level", "i3_g16_two_level", "i2m_g16_nibbles",
    "i4_iq4_nl", "i4_exponents_fp4", "i2_middle1", "i4_g32_two_level_iq4_nl",
}  # fmt: skip


def cases() -> list[Any]:
    """Each format for the best level of the machine that runs this; what is left is slow."""
    found = []
    for form in FORMATS.values():
        for i, level in enumerate(OWN_LEVELS):
            default = form.name in USED and (i == 0 or form.name in ("i4", "i6_g16_two_level"))
            marks = () if default else pytest.mark.slow
            found.append(pytest.param(form, level, marks=marks, id=f"{form.name}-{level}"))
    return found


def pack(codes: Any, form: WeightFormat) -> Any:
    """u8 `[n, k]` to planes of blocks; rows past the last are zero."""
    n, k = codes.shape
    panels = -(-n // 16)
    rows = np.zeros((panels * 16, k), np.uint8)
    rows[:n] = codes
    chunks = rows.reshape(panels, 16, k // 32, 8, 4).transpose(0, 2, 3, 1, 4)  # [p, b, i, n, j]
    if form.bits == 8:
        return np.ascontiguousarray(chunks)
    planes, below = [], 0
    for bits in (4, 2, 1):
        if not form.bits & bits:
            continue
        fields = 8 // bits
        part = chunks >> below & (1 << bits) - 1
        plane = np.zeros((*chunks.shape[:2], bits, 16, 4), np.uint8)
        for i in range(8):
            plane[:, :, i // fields] |= part[:, :, i] << i % fields * bits
        planes.append(plane)
        below += bits
    return np.concatenate(planes, axis=2)


def values_of(form: WeightFormat, codes: Any) -> Any:
    """The integers that scales are multiplied by."""
    if form.codebook:
        return np.array(CODEBOOKS[form.codebook])[codes]
    if form.bits == 8:
        return codes.view(np.int8).astype(np.int64)
    return codes.astype(np.int64) - (0 if form.offset else form.zero)


def by_panel(values: Any) -> Any:
    """`[n, groups]` to `[panels, groups, 16]`."""
    n, groups = values.shape
    panels = -(-n // 16)
    rows = np.zeros((panels * 16, groups), values.dtype)
    rows[:n] = values
    return rows.reshape(panels, 16, groups).transpose(0, 2, 1)


def as_bytes(values: Any) -> Any:
    return np.ascontiguousarray(values).view(np.uint8)


def scales_of(form: WeightFormat, n: int, k: int, group: int, random: Any) -> tuple[Any, Any, Any]:
    """The tensor that the kernel reads, and scales and minima `[n, k / group]` in f64."""
    groups = k // group

    def halves(*shape: int) -> Any:
        return (random.random(shape) + 0.1).astype(np.float16)

    if form.scales == "exponents":
        exponents = random.integers(120, 130, (n, groups)).astype(np.uint8)
        return by_panel(exponents), 2.0 ** (exponents.astype(np.float64) - 127), None
    if form.scales == "flat":
        scales, extra = halves(n, groups), halves(n, groups)
        parts = [by_panel(scales), *([by_panel(extra)] if form.offset else [])]
        wide = scales.astype(np.float64)
        minima = None
        if form.offset == "minimum":
            minima = extra.astype(np.float64)
        elif form.offset == "zero_point":
            minima = (extra.astype(np.float64) + form.zero) * wide
        return np.stack(parts), wide, minima
    supers, each = k // 256, 256 // group
    top, low = halves(n, supers), halves(n, supers)
    nibbles, signed = form.scales == "nibbles", not form.offset
    most = 16 if nibbles else 64
    steps = random.integers(-most if signed else 0, most, (n, groups))
    offsets = random.integers(0, most, (n, groups))
    coded = [steps | offsets << 4] if nibbles else [steps, *([offsets] if form.offset else [])]
    parts = [as_bytes(by_panel(top)[:, :, None]).reshape(-1, supers, 32)]
    if form.offset:
        parts.append(as_bytes(by_panel(low)[:, :, None]).reshape(-1, supers, 32))
    for values in coded:
        parts.append(by_panel(values.astype(np.uint8)).reshape(-1, supers, each * 16))
    wide = np.repeat(top.astype(np.float64), each, axis=1) * steps
    minima = np.repeat(low.astype(np.float64), each, axis=1) * offsets if form.offset else None
    return np.concatenate(parts, axis=2), wide, minima


@pytest.mark.parametrize(("form", "level"), cases())
def test_each_form(
    form: WeightFormat, level: str, kernels_for: Callable[[WeightFormat, str], Any]
) -> None:
    """Rows of one, few and many; the last panel is not whole."""
    kernels = kernels_for(form, level)
    for m, n, k in [(1, 37, 512), (13, 40, 256), (70, 16, 768)]:
        group = form.fixed_group or 64
        random = np.random.default_rng(m)
        x = random.standard_normal((m, k)).astype(np.float32)
        codes = random.integers(0, 1 << form.bits, (n, k)).astype(np.uint8)
        packed, (scales, wide, minima) = pack(codes, form), scales_of(form, n, k, group, random)
        values = values_of(form, codes)
        expected = quantized_linear(x, values, wide, minima)
        scale_dtype = scales.dtype if form.scales == "flat" else np.uint8
        layer = {
            "w0": padded(packed), "s0": padded(scales.astype(scale_dtype, copy=False)),
            "b0": None, "added": None, "n0": n, "k": k, "group": group, "folds": 0, "alpha": 1.0,
        }  # fmt: skip
        q, s = np.zeros(16 + m * k, np.int8), np.zeros(16 + m * k // 32, np.float32)
        c = np.zeros(16 + m * k // form.span, np.int32)
        for row in range(0, m, 8):
            call(
                kernels, f"quantize_rows_{form.name}", x=padded(x), q=q, s=s, c=c, m=m, k=k,
                folds=0, eps=1e-5, row=row, count=8,
            )  # fmt: skip
        assert np.array_equal(q[16:].reshape(m, k), quantize_rows(x)[0])
        out = np.full(16 + m * n + 16, np.nan, np.float32)
        for first in range(0, -(-n // 16), 2):
            call(
                kernels, f"quantized_matmul_{form.name}", q=q, s=s, c=c, **layer, o0=out, m=m,
                first=first, count=2, row=0, rows=256,
            )  # fmt: skip
        assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()
        size = np.abs(x).sum(axis=1).max() * np.abs(wide).max() * np.abs(values).max()
        assert np.abs(out[16:-16].reshape(m, n) - expected).max() <= 2e-6 * size
        if m == 1:
            one = np.full_like(out, np.nan)
            call(
                kernels, f"quantized_matvec1_{form.name}", x=padded(x), **layer, o0=one,
                eps=1e-5, first=0, count=-(-n // 16),
            )  # fmt: skip
            assert np.array_equal(one, out, equal_nan=True)


@pytest.fixture(scope="module")
def kernels_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[WeightFormat, str], Any]:
    def build(form: WeightFormat, level: str) -> Any:
        folder: Path = tmp_path_factory.mktemp("kernels")
        return load_kernels([f"quantized_linear_{form.name}"], level, folder)

    return build
