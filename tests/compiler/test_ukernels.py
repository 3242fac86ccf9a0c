"""The C kernels, built as a shared library, against their numpy reference."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgec.compiler.ukernels import LEVELS, build_object
from edgec.compiler.ukernels.reference import quantize_rows, quantized_linear
from edgec.models.quantize import WeightFormat, quantize, unpack
from edgec.runtime.cpu import missing_features, parse_cpuinfo

ziglang = pytest.importorskip("ziglang")


@pytest.fixture(scope="module", params=list(LEVELS))
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    level = LEVELS[request.param]
    flags = parse_cpuinfo(Path("/proc/cpuinfo").read_text())
    if missing := missing_features(",".join(level.features), level.architecture, flags):
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("kernels")
    build_object("quantized_linear", request.param, folder / "k.o")
    zig = Path(ziglang.__file__).parent / "zig"
    environment = {"ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)}
    subprocess.run(
        [zig, "ld.lld", "-shared", "--no-undefined", "-o", folder / "k.so", folder / "k.o"],
        check=True,
        env=environment,
    )
    return ctypes.CDLL(str(folder / "k.so"))


def call(function: Any, *arguments: Any) -> None:
    """Arrays become a pointer past 16 elements that must stay as they are, and an offset of 16."""
    passed: list[Any] = []
    for value in arguments:
        if isinstance(value, np.ndarray):
            passed += [ctypes.c_void_p(value.ctypes.data), ctypes.c_size_t(16)]
        else:
            passed.append(ctypes.c_size_t(value))
    function.restype = None
    function(*passed)


def padded(values: Any) -> Any:
    """The values after 16 others."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return np.concatenate([np.zeros(16, flat.dtype), flat])


CASES = [
    (1, 16, 32, 32), (1, 37, 256, 64), (1, 160, 1024, 128), (5, 33, 96, None),
    (8, 48, 128, 32), (32, 64, 512, 128), (37, 100, 160, 32), (13, 7, 64, 64),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["i8", "i4", "i4z"])
@pytest.mark.parametrize(("m", "n", "k", "group"), CASES)
def test_matmul(kernels: Any, kind: str, m: int, n: int, k: int, group: int | None) -> None:
    bits, zeros = int(kind[1]), kind.endswith("z")
    generator = torch.Generator().manual_seed(m * n * k + bits)
    x = torch.randn(m, k, generator=generator).numpy() * 3
    x[0, :32] = 0  # a block without a scale
    weight = torch.randn(n, k, generator=generator) + (0.7 if zeros else 0)
    packed, scales = quantize("w", weight, WeightFormat(bits, group, zeros))
    parts = scales if zeros else scales[None]
    by_row = [p.transpose(1, 2).reshape(-1, scales.shape[-2])[:n].numpy() for p in parts]
    expected = quantized_linear(x, unpack(packed, k)[:n].numpy(), *by_row)
    blocks, panels = k // 32, packed.shape[0]

    q, s, c = np.zeros(16 + m * k, np.int8), np.zeros(16 + m * blocks, np.float32), None
    c = np.zeros(16 + m * blocks, np.int32)
    for row in range(0, m, 3):
        call(getattr(kernels, f"edgec_quantize_rows_i{bits}"), padded(x), q, s, c, m, k, row, 3)
    integers, steps = quantize_rows(x)
    assert np.array_equal(q[16:].reshape(m, k), integers)
    assert np.allclose(s[16:].reshape(m, blocks), steps, rtol=1e-6)

    weights, factors = padded(packed.numpy()), padded(scales.numpy())
    out = np.full(16 + m * n + 16, np.nan, np.float32)
    for first in range(0, panels, 2):
        for row in range(0, m, 16):
            call(
                getattr(kernels, f"edgec_quantized_matmul_{kind}"), q, s, c, weights, factors, out,
                m, n, k, group or k, first, 2, row, 16,
            )  # fmt: skip
    assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()  # nothing beyond its edges
    scale = np.abs(expected).max()
    assert np.abs(out[16:-16].reshape(m, n) - expected).max() <= 2e-6 * scale

    if m == 1:
        out = np.full(16 + n + 16, np.nan, np.float32)
        for first in range(0, panels, 2):
            call(
                getattr(kernels, f"edgec_quantized_matvec_{kind}"), padded(x), weights, factors,
                out, n, k, group or k, first, 2,
            )  # fmt: skip
        assert np.abs(out[16:-16] - expected[0]).max() <= 2e-6 * scale
        assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()


def test_extremes(kernels: Any) -> None:
    """The largest integers of both signs, where a 16-bit sum would saturate."""
    for sign in (1.0, -1.0):
        weight = torch.full((16, 64), sign)
        weight[:, 1::2] *= -1
        x = np.full((1, 64), 5.0, np.float32)
        x[:, 1::2] *= -1
        packed, scales = quantize("w", weight, WeightFormat(8, 32))
        out = np.zeros(16 + 16, np.float32)
        arguments = (padded(x), padded(packed.numpy()), padded(scales.numpy()), out)
        call(kernels.edgec_quantized_matvec_i8, *arguments, 16, 64, 32, 0, 1)
        assert np.allclose(out[16:], sign * 64 * 5.0, rtol=1e-3)
