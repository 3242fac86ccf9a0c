"""Codes and scales packed and unpacked, and every GGUF type against the gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from edgec.models.gguf.blocks import READERS
from edgec.models.weights.packing import Scales, dequantize, pack, pack_scales, unpack
from edgec.weight_formats import FORMATS, PANEL


@pytest.mark.parametrize("name", FORMATS)
def test_codes_come_back(name: str) -> None:
    form, generator = FORMATS[name], torch.Generator().manual_seed(0)
    codes = torch.randint(0, 1 << form.bits, (48, 512), generator=generator, dtype=torch.uint8)
    if form.bits == 8:
        codes = codes.view(torch.int8)
    packed = pack(codes, form)
    assert packed.shape == form.packed_shape(48, 512)
    assert torch.equal(unpack(packed, form), codes)


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.name)
def test_as_the_gguf_package(kind: gguf.GGMLQuantizationType) -> None:
    """Any bytes, but for scales that are no numbers: the same weights to the last bit of f32."""
    reader, random = READERS[kind], np.random.default_rng(1)
    columns, rows = 1024, 37
    size, length = gguf.GGML_QUANT_SIZES[kind]
    raw = random.integers(0, 256, (rows, columns // size, length)).astype(np.uint8)
    for at in {  # f16 scales of a sensible size
        "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
        "Q4_1": (0, 2), "Q5_1": (0, 2), "TQ1_0": (52,), "TQ2_0": (64,), "MXFP4": (),
    }.get(kind.name, (0,)):  # fmt: skip
        halves = (random.random(raw.shape[:2]) - 0.5).astype(np.float16)
        raw[..., at : at + 2] = halves[..., None].view(np.uint8)
    if kind.name == "MXFP4":
        raw[..., 0] = random.integers(100, 140, raw.shape[:2])
    codes, scales = reader.read(torch.from_numpy(raw))
    form, missing = reader.form, -rows % PANEL
    packed = pack(torch.nn.functional.pad(codes, (0, 0, 0, missing)), form)
    factors = pack_scales(scales.padded(missing), form)
    assert packed.shape == form.packed_shape(rows, columns)
    assert factors.shape == form.scales_shape("w", rows, columns)
    expected = gguf.dequantize(raw.reshape(rows, -1), kind)
    found = dequantize(packed, factors, form, rows).numpy()
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() <= 2e-7 * scale
    file = raw[0].size * rows
    bytes_ = (
        packed.numel() / packed.shape[0]
        + factors.numel() * factors.element_size() / packed.shape[0]
    )
    allowed = {"Q3_K": 1.04, "TQ1_0": 1.23}.get(kind.name, 1.03)
    assert bytes_ / PANEL <= allowed * file / rows


def test_padding_is_zero() -> None:
    scales = Scales(torch.ones(5, 2, dtype=torch.float16)).padded(11)
    assert scales.scale.shape == (16, 2) and not scales.scale[5:].any()
