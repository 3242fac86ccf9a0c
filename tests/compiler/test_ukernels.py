"""The C kernels, built as a shared library, against their numpy reference."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import ziglang
from tests.compiler.kernel_calls import call, load_kernels, own_levels, padded

from edgec.compiler import ukernels
from edgec.compiler.ukernels import build_object
from edgec.compiler.ukernels.abi import abi_header
from edgec.compiler.ukernels.reference import (
    attention,
    head_rows,
    quantize_rows,
    quantized_linear,
)
from edgec.models.weights.packing import unpack
from edgec.models.weights.quantize import quantize, quantize_experts
from edgec.passes.kernels.attention import tiling
from edgec.passes.kernels.table import FOLDS, objects
from edgec.weight_formats import WeightFormat

# Those of another architecture run in whole programs, under emulation: tests/targets.
OWN_LEVELS = own_levels()


@pytest.fixture(scope="module", params=OWN_LEVELS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kernels")
    quantized = [f"quantized_linear_{kind}" for kind in ("i8", "i4", "i4z")]
    return load_kernels(["linear", "attention", "argmax", *quantized], request.param, folder)


def numbered(name: str, values: Any) -> dict[str, Any]:
    """Arguments of several layers: `w0`, `w1`, ..."""
    return {f"{name}{i}": value for i, value in enumerate(values)}


def linear_weights(n: int, k: int, dtype: str, generator: torch.Generator) -> tuple[Any, Any]:
    """Random weights `[n, k]`: their bits, after 16 others, and their values."""
    rows = torch.randn(n, k, generator=generator)
    narrow = rows.to({"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype])
    bits = narrow if dtype == "f32" else narrow.view(torch.int16)
    return padded(bits.numpy()), narrow.double().numpy()


NORM, NORM_WEIGHT, ADDED, BIAS = FOLDS.NORM, FOLDS.NORM_WEIGHT, FOLDS.ADDED, FOLDS.BIAS
EPS, ALPHA = 1e-5, 0.25


def normed(x: Any, weight: Any, folds: int) -> Any:
    """The RMS norm of rows `[M, K]`, as far as `folds` has one; f32, as the kernels have it."""
    if not folds & NORM:
        return x
    inverse = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + EPS)
    return (x * inverse * (weight if folds & NORM_WEIGHT else 1)).astype(np.float32)


def activated(x: Any, activation: int) -> Any:
    """silu or gelu with tanh, in f64."""
    of = torch.from_numpy(x)
    functional = torch.nn.functional
    value = functional.gelu(of, approximate="tanh") if activation else functional.silu(of)
    return value.numpy()


def many_rows(kernels: Any, x: Any, weight: Any, folds: int) -> Any:
    """Panels of rows, normed or not, after 16 others."""
    m, k = x.shape
    panels = np.full(16 + -(-m // 16) * 16 * k + 16, np.nan, np.float32)
    buffers = {"x": padded(x), "norm": padded(weight), "to": panels}
    for row in range(0, m, 32):
        for column in range(0, k, 64):
            call(
                kernels, "linear_pack", **buffers, m=m, k=k, folds=folds, eps=EPS, row=row,
                rows=32, column=column, columns=64,
            )  # fmt: skip
    assert np.isnan(panels[:16]).all() and np.isnan(panels[-16:]).all()
    return panels


LINEAR = [
    (1, 16, 32), (1, 37, 1024), (2, 5, 96), (3, 64, 256), (4, 50, 288), (5, 9, 64), (6, 21, 32),
    (7, 19, 160), (8, 33, 160), (9, 16, 32), (32, 100, 544), (37, 60, 320), (70, 13, 64),
    (300, 50, 96),
]  # fmt: skip


@pytest.mark.parametrize("folds", [0, NORM | ADDED, NORM | NORM_WEIGHT | BIAS, ADDED | BIAS])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("m", "n", "k"), LINEAR)
def test_linear(kernels: Any, dtype: str, m: int, n: int, k: int, folds: int) -> None:
    """Few rows as they are, many as panels; workgroups that end within tiles and at edges."""
    generator = torch.Generator().manual_seed(m * n * k)
    x = torch.randn(m, k, generator=generator).numpy()
    weights, values = linear_weights(n, k, dtype, generator)
    norm, bias = (torch.randn(size, generator=generator).numpy() for size in (k, n))
    added = torch.randn(m, n, generator=generator).numpy()
    expected = normed(x, norm, folds).astype(np.float64) @ values.T
    expected += bias if folds & BIAS else 0
    expected = added + ALPHA * expected if folds & ADDED else expected
    out = np.full(16 + m * n + 16, np.nan, np.float32)
    given = {
        "w0": weights, "b0": padded(bias), "added": padded(added), "o0": out, "m": m, "n0": n,
        "k": k, "folds": folds, "alpha": ALPHA,
    }  # fmt: skip
    if m <= 8:
        given |= {"x": padded(x), "norm": padded(norm), "eps": EPS}
        for first in range(0, n, 12):
            call(kernels, f"linear1_few_{dtype}", **given, first=first, count=12)
    else:
        given["x"] = many_rows(kernels, x, norm, folds)
        for first in range(0, n, 48):
            for row in range(0, m, 256):
                place = {"first": first, "count": 48, "row": row, "rows": 256}
                call(kernels, f"linear1_many_{dtype}", **given, **place)
    assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()  # nothing beyond its edges
    scale = np.abs(expected).max()
    assert np.abs(out[16:-16].reshape(m, n) - expected).max() <= 2e-6 * scale


@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 37, 64), (3, 150, 96), (8, 64, 32), (300, 100, 64)])
def test_gate(kernels: Any, dtype: str, m: int, n: int, k: int, activation: int) -> None:
    generator = torch.Generator().manual_seed(m * n * k)
    x = torch.randn(m, k, generator=generator).numpy()
    norm = torch.randn(k, generator=generator).numpy()
    (gate, gates), (up, ups) = (linear_weights(n, k, dtype, generator) for _ in range(2))
    folds = NORM | NORM_WEIGHT
    rows = normed(x, norm, folds).astype(np.float64)
    expected = activated(rows @ gates.T, activation) * (rows @ ups.T)
    out = np.full(16 + m * n + 16, np.nan, np.float32)
    given = {"w0": gate, "w1": up, "o0": out, "m": m, "n0": n, "k": k, "activation": activation}
    if m <= 8:
        given |= {"x": padded(x), "norm": padded(norm), "folds": folds, "eps": EPS}
        for first in range(0, n, 72):
            call(kernels, f"linear_gated_few_{dtype}", **given, first=first, count=72)
    else:
        given["x"] = many_rows(kernels, x, norm, folds)
        for first in range(0, n, 24):
            for row in range(0, m, 256):
                place = {"first": first, "count": 24, "row": row, "rows": 256}
                call(kernels, f"linear_gated_many_{dtype}", **given, **place)
    assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()
    actual = out[16:-16].reshape(m, n)
    assert np.abs(actual - expected).max() <= 3e-6 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("features", [(37, 64), (5, 48, 90)])
@pytest.mark.parametrize("m", [1, 4, 33])
def test_linear_of_several_layers(
    kernels: Any, dtype: str, features: tuple[int, ...], m: int
) -> None:
    """Several layers' rows of weights by workgroups that begin and end within any of them."""
    generator = torch.Generator().manual_seed(sum(features))
    k, parts = 96, len(features)
    x = torch.randn(m, k, generator=generator).numpy()
    norm = torch.randn(k, generator=generator).numpy()
    pairs = [linear_weights(n, k, dtype, generator) for n in features]
    biases = [torch.randn(n, generator=generator).numpy() for n in features]
    outs = [np.full(16 + m * n + 16, np.nan, np.float32) for n in features]
    folds = NORM | NORM_WEIGHT | BIAS | BIAS << parts - 1  # the first and the last have a bias
    given = numbered("w", [bits for bits, _ in pairs]) | numbered("b", map(padded, biases))
    given |= numbered("o", outs) | numbered("n", features)
    given |= {"m": m, "k": k, "folds": folds, "alpha": ALPHA, "count": 24}
    panels = many_rows(kernels, x, norm, folds)
    for first in range(0, sum(features), 24):
        if m <= 8:
            rows = {"x": padded(x), "norm": padded(norm), "eps": EPS}
            call(kernels, f"linear{parts}_few_{dtype}", **given, **rows, first=first)
        else:
            rows = {"x": panels, "row": 0, "rows": 256}
            call(kernels, f"linear{parts}_many_{dtype}", **given, **rows, first=first)
    rows = normed(x, norm, folds).astype(np.float64)
    for i, (n, out, bias, (_, values)) in enumerate(
        zip(features, outs, biases, pairs, strict=True)
    ):
        assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()
        expected = rows @ values.T + (bias if i in (0, parts - 1) else 0)
        assert np.abs(out[16:-16].reshape(m, n) - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("n", "k", "counts"), [(37, 96, [16, 0, 304, 32]), (50, 320, [0, 48])])
def test_experts_of_floats(kernels: Any, dtype: str, n: int, k: int, counts: list[int]) -> None:
    """Each expert's rows by its own matrix; nothing is read or written past the last offset."""
    generator = torch.Generator().manual_seed(n * k)
    experts, offsets = len(counts), np.cumsum([0, *counts]).astype(np.int32)
    m = int(offsets[-1]) + 16
    x = torch.randn(m, k, generator=generator).numpy()
    weights, values = linear_weights(experts * n, k, dtype, generator)
    matrices = values.reshape(experts, n, k)
    panels, out = (np.full(16 + m * width, np.nan, np.float32) for width in (k, n))
    starts = padded(offsets)
    for row in range(0, m, 32):
        call(
            kernels, "grouped_pack", x=padded(x), offsets=starts, to=panels, experts=experts, k=k,
            row=row, count=32, column=0, columns=k,
        )  # fmt: skip
    for expert in range(experts):
        for first in range(0, n, 48):
            call(
                kernels, f"grouped_many_{dtype}", x=panels, w=weights, offsets=starts, out=out,
                n=n, k=k, first=first, count=48, expert=expert,
            )  # fmt: skip
    actual = out[16:].reshape(m, n)
    assert np.isnan(actual[offsets[-1] :]).all()
    for e in range(experts):
        own = slice(offsets[e], offsets[e + 1])
        expected = x[own].astype(np.float64) @ matrices[e].T
        assert np.allclose(actual[own], expected, rtol=0, atol=1e-4)

    chosen = np.array([e for e in range(experts) if counts[e]], np.int32)
    few = np.full(16 + len(chosen) * n + 16, np.nan, np.float32)
    for row in range(len(chosen)):
        for first in range(0, n, 8):
            call(
                kernels, f"grouped_few_{dtype}", x=padded(x), w=weights, experts=padded(chosen),
                out=few, n=n, k=k, first=first, count=8, row=row,
            )  # fmt: skip
    assert np.isnan(few[:16]).all() and np.isnan(few[-16:]).all()
    for row, e in enumerate(chosen):
        expected = matrices[e] @ x[row].astype(np.float64)
        assert np.allclose(few[16 + row * n :][:n], expected, rtol=0, atol=1e-4)


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
    form = WeightFormat(bits, group, "zero_point" if zeros else "")
    packed, scales = quantize("w", weight, form)
    parts = scales if zeros else scales[None]
    expected = quantized_linear(x, integers_of(packed, form, n), *by_row(parts, n))
    blocks, panels = k // 32, packed.shape[0]

    q, s, c = quantized(kernels, x, kind, padded(x), 0)
    integers, steps = quantize_rows(x)
    assert np.array_equal(q[16:].reshape(m, k), integers)
    assert np.allclose(s[16:].reshape(m, blocks), steps, rtol=1e-6)

    weights, factors = padded(packed.numpy()), padded(scales.numpy())
    bias = padded(torch.randn(n, generator=generator).numpy())
    added = padded(torch.randn(m, n, generator=generator).numpy())
    layer = {
        "w0": weights, "s0": factors, "b0": bias, "added": added, "n0": n, "k": k,
        "group": group or k, "alpha": ALPHA,
    }  # fmt: skip
    for folds in (0, BIAS, ADDED, BIAS | ADDED):
        wanted = expected + (bias[16:] if folds & BIAS else 0)
        wanted = added[16:].reshape(m, n) + ALPHA * wanted if folds & ADDED else wanted
        scale = np.abs(wanted).max()
        out = np.full(16 + m * n + 16, np.nan, np.float32)
        for first in range(0, panels, 2):
            for row in range(0, m, 16):
                call(
                    kernels, f"quantized_matmul_{kind}", q=q, s=s, c=c, **layer, o0=out, m=m,
                    folds=folds, first=first, count=2, row=row, rows=16,
                )  # fmt: skip
        assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()  # nothing beyond its edges
        assert np.abs(out[16:-16].reshape(m, n) - wanted).max() <= 2e-6 * scale

        if m == 1:
            out = np.full(16 + n + 16, np.nan, np.float32)
            for first in range(0, panels, 2):
                call(
                    kernels, f"quantized_matvec1_{kind}", x=padded(x), **layer, o0=out, eps=EPS,
                    folds=folds, first=first, count=2,
                )  # fmt: skip
            assert np.abs(out[16:-16] - wanted[0]).max() <= 2e-6 * scale
            assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()


def integers_of(packed: Any, form: WeightFormat, n: int) -> Any:
    return unpack(packed, form)[:n].numpy().astype(np.int64) - form.zero


def by_row(parts: Any, n: int) -> list[Any]:
    """Scales of rows, and with zero points what these are times them."""
    scales, *zeros = (p.transpose(1, 2).reshape(-1, p.shape[1])[:n].double().numpy() for p in parts)
    return [scales, *(scales * z for z in zeros)]


def quantized(kernels: Any, x: Any, kind: str, norm: Any, folds: int) -> tuple[Any, Any, Any]:
    """Integers, scales and corrections of rows, each after 16 others."""
    m, k = x.shape
    q, s = np.zeros(16 + m * k, np.int8), np.zeros(16 + m * k // 32, np.float32)
    c = np.zeros(16 + m * k // 32, np.int32)
    given = {"x": padded(x), "norm": norm, "q": q, "s": s, "c": c}
    for row in range(0, m, 3):
        place = {"m": m, "k": k, "folds": folds, "eps": EPS, "row": row, "count": 3}
        call(kernels, f"quantize_rows_{kind}", **given, **place)
    return q, s, c


def apart_by_roundings(actual: Any, expected: Any, part: float) -> bool:
    """Whether values agree but for a few activations that were rounded to the next integer."""
    error = np.abs(actual - expected) / np.abs(expected).max()
    return bool(np.median(error) <= 1e-6 and error.max() <= part)


@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("kind", ["i8", "i4", "i4z"])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 100, 96), (1, 32, 1024), (37, 100, 160), (270, 33, 64)]
)
def test_quantized_gate(kernels: Any, kind: str, m: int, n: int, k: int, activation: int) -> None:
    """A norm, two layers, the activation of one times the other."""
    form = WeightFormat(int(kind[1]), 32, "zero_point" if kind.endswith("z") else "")
    generator = torch.Generator().manual_seed(m * n * k)
    x = torch.randn(m, k, generator=generator).numpy()
    norm = torch.randn(k, generator=generator).numpy()
    rows = normed(x, norm, NORM | NORM_WEIGHT)
    layers: dict[str, Any] = {"n0": n, "k": k, "group": 32, "activation": activation}
    products = []
    for i in range(2):
        packed, scales = quantize("w", torch.randn(n, k, generator=generator), form)
        parts = scales if form.offset else scales[None]
        values = integers_of(packed, form, n)
        products.append(quantized_linear(rows, values, *by_row(parts, n)))
        layers |= {f"w{i}": padded(packed.numpy()), f"s{i}": padded(scales.numpy())}
    expected = activated(products[0], activation) * products[1]
    out = np.full(16 + m * n + 16, np.nan, np.float32)
    folds = NORM | NORM_WEIGHT
    q, s, c = quantized(kernels, x, kind, padded(norm), folds)
    for first in range(0, -(-n // 16), 2):
        for row in range(0, m, 256):
            call(
                kernels, f"quantized_gated_matmul_{kind}", q=q, s=s, c=c, **layers, o0=out, m=m,
                first=first, count=2, row=row, rows=256,
            )  # fmt: skip
    assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()
    assert apart_by_roundings(out[16:-16].reshape(m, n), expected, 0.02)
    if m == 1:
        one = np.full(16 + n + 16, np.nan, np.float32)
        for first in range(0, -(-n // 16), 2):
            call(
                kernels, f"quantized_gated_matvec_{kind}", x=padded(x), norm=padded(norm),
                **layers, o0=one, folds=folds, eps=EPS, first=first, count=2,
            )  # fmt: skip
        assert np.array_equal(one, out, equal_nan=True)


@pytest.mark.parametrize("kind", ["i8", "i4", "i4z"])
@pytest.mark.parametrize("features", [(37, 64), (5, 48, 90)])
def test_layers_of_one_row(kernels: Any, kind: str, features: tuple[int, ...]) -> None:
    """Several layers' panels by workgroups that begin and end within any of them."""
    generator = torch.Generator().manual_seed(sum(features))
    k, form = 96, WeightFormat(int(kind[1]), 32, "zero_point" if kind.endswith("z") else "")
    parts = len(features)
    x, norm = (padded(torch.randn(1, k, generator=generator).numpy()) for _ in range(2))
    weights: list[Any] = []
    for n in features:
        packed, scales = quantize("w", torch.randn(n, k, generator=generator), form)
        weights.append((packed, scales))
    biases = [padded(torch.randn(n, generator=generator).numpy()) for n in features]
    outs = [np.full(16 + n + 16, np.nan, np.float32) for n in features]
    given = {"x": x, "norm": norm, "k": k, "group": 32, "eps": EPS, "alpha": ALPHA}
    layers = numbered("w", [padded(packed.numpy()) for packed, _ in weights])
    layers |= numbered("s", [padded(scales.numpy()) for _, scales in weights])
    layers |= numbered("b", biases) | numbered("n", features)
    panels = sum(packed.shape[0] for packed, _ in weights)
    folds = NORM | NORM_WEIGHT | BIAS << parts - 1  # the last has a bias
    for first in range(0, panels, 4):
        call(
            kernels, f"quantized_matvec{parts}_{kind}", **given, **layers, **numbered("o", outs),
            folds=folds, first=first, count=4,
        )  # fmt: skip
    for i, (n, (packed, scales), out) in enumerate(zip(features, weights, outs, strict=True)):
        alone = np.full(16 + n + 16, np.nan, np.float32)
        own = NORM | NORM_WEIGHT | (BIAS if i == parts - 1 else 0)
        call(
            kernels, f"quantized_matvec1_{kind}", **given, w0=layers[f"w{i}"], s0=layers[f"s{i}"],
            b0=biases[i], n0=n, o0=alone, folds=own, first=0, count=packed.shape[0],
        )  # fmt: skip
        assert np.array_equal(out, alone, equal_nan=True)
        assert scales.shape[-3] == packed.shape[0]


def test_extremes(kernels: Any) -> None:
    """The largest integers of both signs, where a 16-bit sum would saturate."""
    for sign in (1.0, -1.0):
        weight = torch.full((16, 64), sign)
        weight[:, 1::2] *= -1
        x = np.full((1, 64), 5.0, np.float32)
        x[:, 1::2] *= -1
        packed, scales = quantize("w", weight, WeightFormat(8, 32))
        out = np.zeros(16 + 16, np.float32)
        call(
            kernels, "quantized_matvec1_i8", x=padded(x), w0=padded(packed.numpy()),
            s0=padded(scales.numpy()), o0=out, n0=16, k=64, group=32, folds=0, eps=EPS,
            alpha=ALPHA, first=0, count=1,
        )  # fmt: skip
        assert np.allclose(out[16:], sign * 64 * 5.0, rtol=1e-3)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("n", "k", "counts"), [(37, 96, [3, 0, 300, 16]), (48, 64, [0, 70])])
def test_experts(kernels: Any, bits: int, n: int, k: int, counts: list[int]) -> None:
    """Each expert's rows by its own matrix; nothing is read or written past the last offset."""
    generator = torch.Generator().manual_seed(n * k + bits)
    experts, blocks = len(counts), k // 32
    offsets = np.cumsum([0, *(-(-c // 16) * 16 for c in counts)]).astype(np.int32)
    m = int(offsets[-1]) + 16
    x = torch.randn(m, k, generator=generator).numpy()
    weight = torch.randn(experts, n, k, generator=generator)
    form = WeightFormat(bits)
    packed, scales = quantize_experts("w", weight, experts, form)
    expected = np.full((m, n), np.nan)
    for e in range(experts):
        steps = scales[e].transpose(1, 2).reshape(-1, blocks)[:n].numpy()
        own = slice(offsets[e], offsets[e] + counts[e])
        expected[own] = quantized_linear(x[own], integers_of(packed[e], form, n), steps)
    scale = np.nanmax(np.abs(expected))

    q, s = np.full(16 + m * k, 99, np.int8), np.full(16 + m * blocks, np.nan, np.float32)
    c = np.full(16 + m * blocks, 99, np.int32)
    starts = padded(offsets)
    for row in range(0, m, 8):
        call(
            kernels, f"quantize_groups_i{bits}", x=padded(x), offsets=starts, q=q, s=s, c=c,
            experts=experts, k=k, row=row, count=8,
        )  # fmt: skip
    done = ~np.isnan(s[16:].reshape(m, blocks)[:, 0])
    assert np.array_equal(done, np.arange(m) < offsets[-1])
    weights, factors = padded(packed.numpy()), padded(scales.numpy())
    out = np.full(16 + m * n, np.nan, np.float32)
    for expert in range(experts):
        for first in range(0, packed.shape[1], 2):
            call(
                kernels, f"grouped_matmul_i{bits}", q=q, s=s, c=c, w=weights, ws=factors,
                offsets=starts, counts=padded(np.array(counts, np.int32)), out=out, n=n, k=k,
                group=32, first=first, count=2, expert=expert,
            )  # fmt: skip
    actual = out[16:].reshape(m, n)
    true = ~np.isnan(expected)
    assert not np.isnan(actual[true]).any() and np.isnan(actual[offsets[-1] :]).all()
    assert np.nanmax(np.abs(actual - expected)) <= 2e-6 * scale

    rows = np.array([int(offsets[e]) + counts[e] - 1 for e in range(experts) if counts[e]])
    own = np.searchsorted(offsets, rows, side="right").astype(np.int32) - 1
    few = np.full(16 + len(rows) * n, np.nan, np.float32)
    for row in range(len(rows)):
        for first in range(0, packed.shape[1], 2):
            call(
                kernels, f"grouped_matvec_i{bits}", x=padded(x[rows]), w=weights, ws=factors,
                experts=padded(own), out=few, n=n, k=k, group=32, first=first, count=2, row=row,
            )  # fmt: skip
    assert np.abs(few[16:].reshape(len(rows), n) - expected[rows]).max() <= 2e-6 * scale


# tokens, start, heads, kv_heads, width, value_width, window, softcap, sinks
ATTENTION = [
    (1, 0, 4, 2, 64, 64, 0, 0.0, False), (1, 77, 16, 8, 128, 128, 0, 0.0, False),
    (1, 300, 12, 1, 80, 48, 0, 0.0, True), (1, 200, 4, 4, 32, 32, 48, 20.0, False),
    (3, 30, 6, 2, 64, 64, 0, 0.0, True), (32, 0, 4, 2, 128, 128, 0, 0.0, False),
    (33, 95, 14, 2, 64, 64, 0, 0.0, False), (64, 128, 4, 4, 96, 96, 40, 0.0, True),
    (96, 5, 8, 1, 256, 256, 0, 50.0, False), (40, 60, 3, 3, 192, 128, 17, 0.0, False),
    # workgroups that begin and end within blocks, of 63, 15 and 60 rows; more values than keys
    (70, 45, 7, 1, 64, 64, 0, 0.0, False), (3, 100, 5, 1, 32, 48, 0, 0.0, True),
    (23, 50, 6, 2, 48, 80, 0, 20.0, True), (110, 17, 14, 2, 64, 112, 33, 0.0, True),
    # windows that end within a tile, at a block's edge, after a token, and reach over many blocks
    (65, 64, 4, 2, 32, 96, 64, 0.0, True), (90, 39, 4, 2, 64, 64, 1, 0.0, False),
    (40, 0, 4, 4, 16, 16, 3, 0.0, True), (33, 500, 8, 2, 128, 128, 300, 0.0, False),
]  # fmt: skip
RINGS = [
    # the same, of a cache with no more rows than the window and the tokens need
    (1, 1000, 6, 2, 64, 64, 33, 0.0, True), (1, 95, 12, 1, 80, 48, 64, 0.0, False),
    (64, 128, 4, 4, 96, 96, 40, 0.0, True), (37, 331, 4, 2, 32, 48, 100, 20.0, False),
    # of three blocks, where what is computed at a time begins at any of them; of one block
    (40, 131, 7, 1, 64, 80, 50, 0.0, False), (45, 1003, 6, 2, 64, 64, 32, 0.0, True),
    (9, 300, 12, 4, 32, 32, 8, 0.0, False),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i8"])
@pytest.mark.parametrize(
    ("case", "ring"),
    [*((case, False) for case in ATTENTION), *((case, True) for case in RINGS)],
    ids=lambda c: "-".join(map(str, c)) if isinstance(c, tuple) else "ring" if c else "",
)
def test_attention(kernels: Any, dtype: str, case: tuple[Any, ...], ring: bool) -> None:
    tokens, start, heads, kv_heads, width, value_width, window, softcap, has_sinks = case
    generator = torch.Generator().manual_seed(hash(case) % 1000)
    capacity = (start + tokens + 31) // 32 * 32 + 32
    unused, garbage = slice(start + tokens, None), float("nan")
    if ring:
        # Rows of older positions are finite, and not seen.
        capacity = (window - 1 + tokens + 31) // 32 * 32
        seen = np.arange(max(0, start - window + 1), start + tokens) % capacity
        unused, garbage = np.setdiff1d(np.arange(capacity), seen), 1e3
    torch_type = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}.get(dtype)

    def cache(columns: int) -> tuple[Any, Any, Any]:
        """The cache's bits and scales, garbage in the rows past the last, and its values."""
        scales = torch.rand(capacity, kv_heads, generator=generator) / 50
        scales[unused] = garbage
        if dtype == "i8":
            rows = torch.randint(-127, 128, (capacity, kv_heads, columns), generator=generator)
            wide = rows * scales[..., None]
            return padded(rows.to(torch.int8).numpy()), padded(scales.numpy()), wide.numpy()
        rows = torch.randn(capacity, kv_heads, columns, generator=generator).to(torch_type)
        rows[unused] = garbage
        bits = rows if dtype == "f32" else rows.view(torch.int16)
        return padded(bits.numpy()), padded(scales.numpy()), rows.float().numpy()

    query = torch.randn(heads, tokens, width, generator=generator).numpy() * 2
    sinks = torch.randn(heads, generator=generator).numpy()
    (key, key_scales, keys), (value, value_scales, values) = cache(width), cache(value_width)
    scale = width**-0.5
    expected = attention(
        query, keys, values, start, scale, window, softcap, sinks if has_sinks else None
    )
    for width_of_call in (1, None):
        per, span = tiling(heads, kv_heads, width, width_of_call)
        out = np.full(32 + tokens * heads * value_width, np.nan, np.float32)
        for part in range(heads // per):
            for block in range(-(-tokens // span)):
                call(
                    kernels, f"attention_{dtype}", query=padded(query), key=key, value=value,
                    sinks=padded(sinks), key_scales=key_scales, value_scales=value_scales,
                    out=out, start=start, tokens=tokens, heads=heads, kv_heads=kv_heads,
                    width=width, value_width=value_width, window=window,
                    has_sinks=int(has_sinks), per=per, span=span, capacity=capacity, scale=scale,
                    softcap=softcap, part=part, block=block,
                )  # fmt: skip
        assert np.isnan(out[:16]).all() and np.isnan(out[-16:]).all()  # nothing beyond its edges
        error = np.abs(out[16:-16].reshape(expected.shape) - expected).max()
        assert error <= 3e-6 * np.abs(values[: start + tokens]).max()


@pytest.mark.parametrize(("n", "per"), [(1, 512), (63, 512), (512, 512), (1700, 1024), (9999, 512)])
def test_argmax(kernels: Any, n: int, per: int) -> None:
    """Parts shorter than a vector, a block or the others; equal numbers, NaN as infinity."""
    random = np.random.default_rng(n)
    x = random.standard_normal((4, n), np.float32)
    x[1] = np.sign(x[1])
    x[2] = -np.inf
    x[3, random.random(n) < 1 / 600] = np.nan
    parts = -(-n // per)
    largest = np.full(16 + 4 * parts + 16, np.nan, np.float32)
    place = np.full(16 + 4 * parts + 16, -1, np.int32)
    for row in range(4):
        for part in range(parts):
            call(
                kernels, "argmax", x=padded(x), largest=largest, place=place, n=n, per=per,
                parts=parts, part=part, row=row,
            )  # fmt: skip
    assert np.isnan(largest[:16]).all() and np.isnan(largest[-16:]).all()
    assert (place[:16] == -1).all() and (place[-16:] == -1).all()
    for row in range(4):
        for part in range(parts):
            own = np.where(np.isnan(x), np.inf, x)[row, part * per :][:per]
            at = 16 + row * parts + part
            assert largest[at] == own.max()
            assert place[at] == (0 if own.max() == -np.inf else part * per + own.argmax())


class Cache:
    """Keys or values as a kernel has them: `bits` and `scales`, with 16 elements around them."""

    def __init__(self, dtype: str, rows: int, heads: int, columns: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.dtype, self.shape = dtype, (rows, heads, columns)
        size = rows * heads * columns + 32
        if dtype == "i8":
            bits = torch.randint(-127, 128, (size,), generator=generator).to(torch.int8)
        else:
            type_ = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
            bits = torch.randn(size, generator=generator).to(type_)
            bits = bits if dtype == "f32" else bits.view(torch.int16)
        self.bits = bits.numpy()
        self.scales = (torch.rand(rows * heads + 32, generator=generator) / 40).numpy()
        self.before = self.bits.copy(), self.scales.copy()

    def values(self) -> Any:
        bits = torch.from_numpy(self.bits[16:-16]).reshape(self.shape)
        if self.dtype == "i8":
            scales = torch.from_numpy(self.scales[16:-16]).reshape(self.shape[:2])
            return (bits * scales[..., None]).numpy()
        types = {"f16": torch.float16, "bf16": torch.bfloat16}
        return (bits.view(types[self.dtype]).float() if self.dtype in types else bits).numpy()

    def check_written(self, rows: Any, expected: Any) -> None:
        """The rows are `expected`, as near as the type comes; nothing else has changed."""
        step = {"f32": 2e-6, "f16": 2.0**-10, "bf16": 2.0**-7, "i8": 0.0}[self.dtype]
        most = np.abs(expected).max(axis=-1, keepdims=True)
        near = step * np.abs(expected) + (2e-6 if self.dtype != "i8" else 0.51 / 127) * most
        assert (np.abs(self.values()[rows] - expected) <= near).all()
        heads, columns = self.shape[1:]
        for old, new, width in zip(
            self.before, (self.bits, self.scales), (columns, 1), strict=True
        ):
            kept = np.ones(len(new), bool)
            if width > 1 or self.dtype == "i8":
                kept[16:-16].reshape(-1, heads * width)[rows] = False
            assert np.array_equal(old[kept], new[kept], equal_nan=True)


# tokens, start, capacity, heads, kv_heads, width, value_width, rotated, turn, the norms of query
# and key: none, one without weights, one with them
ROWS = [
    (1, 77, 160, 16, 8, 128, 128, 128, 128, "ww"), (1, 0, 32, 4, 2, 64, 32, 64, 32, "nn"),
    (1, 40, 64, 12, 1, 80, 48, 32, 32, "--"), (1, 31, 32, 4, 4, 16, 16, 16, 16, "-w"),
    (1, 200, 256, 8, 2, 256, 256, 0, 0, "w-"), (1, 1000, 64, 6, 2, 96, 96, 20, 20, "ww"),
    (3, 30, 64, 6, 2, 64, 64, 64, 64, "ww"), (37, 331, 128, 4, 2, 32, 48, 8, 4, "n-"),
    (32, 128, 160, 0, 3, 192, 128, 192, 192, "-w"),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i8"])
@pytest.mark.parametrize("case", ROWS, ids=lambda case: "-".join(map(str, case)))
def test_rows_of_heads(kernels: Any, dtype: str, case: tuple[Any, ...]) -> None:
    """Attention of one token, for many the step to it; past the last row comes the first."""
    tokens, start, capacity, heads, kv_heads, width, value_width, rotated, turn, norms = case
    generator = torch.Generator().manual_seed(sum(case[:-1]))

    def random(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator).numpy()

    # Query, key and value lie beside each other, as one product for all would leave them.
    sizes = heads * width, kv_heads * width, kv_heads * value_width
    x = random(tokens, 5 + sum(sizes))
    first = 5, 5 + sizes[0], 5 + sizes[0] + sizes[1]
    places = [(at, x.shape[1], n) for at, n in zip(first, (width, width, value_width), strict=True)]
    angles = random(tokens, turn) * 3
    tables = np.cos(angles), np.sin(angles)
    weights, epsilons = (random(width), random(width)), (1e-6, 1e-5)
    query, key = (
        head_rows(
            x[:, first[i] : first[i] + sizes[i]].reshape(tokens, -1, width),
            weights[i] if norms[i] == "w" else None, None if norms[i] == "-" else epsilons[i],
            *tables, rotated,
        )
        for i in range(2)
    )  # fmt: skip
    value = x[:, first[2] :].reshape(tokens, kv_heads, value_width)
    keys, values = (
        Cache(dtype, capacity, kv_heads, columns, seed)
        for seed, columns in enumerate((width, value_width))
    )
    given: dict[str, Any] = {
        "query": padded(x), "key": padded(x), "value": padded(x), "cos": padded(tables[0]),
        "sin": padded(tables[1]), "query_norm": padded(weights[0]), "key_norm": padded(weights[1]),
        "keys": keys.bits, "values": values.bits, "key_scales": keys.scales,
        "value_scales": values.scales, "start": start, "heads": heads, "kv_heads": kv_heads,
        "width": width, "value_width": value_width, "capacity": capacity, "turn": turn,
        "query_rotated": rotated, "key_rotated": rotated,
        "query_normed": "-nw".index(norms[0]), "key_normed": "-nw".index(norms[1]),
        "query_epsilon": epsilons[0], "key_epsilon": epsilons[1],
    }  # fmt: skip
    for name, place in zip(("query", "key", "value"), places, strict=True):
        given |= zip((f"{name}_first", f"{name}_token", f"{name}_head"), place, strict=True)
    out = np.full(32 + tokens * heads * max(width, value_width), np.nan, np.float32)
    rows = np.arange(start, start + tokens) % capacity
    if tokens > 1:
        for block in range(-(-tokens // 4)):
            call(kernels, f"rotate_{dtype}", **given, out=out, tokens=tokens, span=4, block=block)
        found = out[16:][: query.size].reshape(heads, tokens, width).transpose(1, 0, 2)
        assert np.abs(found - query).max(initial=0) <= 3e-6 * np.abs(query).max(initial=1)
        assert np.isnan(out[16 + query.size :]).all() and np.isnan(out[:16]).all()
    else:
        window, sinks = capacity - 15 if start >= capacity else 0, random(heads)
        per, _ = tiling(heads, kv_heads, width, 1)
        for part in range(heads // per):
            call(
                kernels, f"attention_step_{dtype}", **given, sinks=padded(sinks), out=out,
                window=window, has_sinks=1, per=per, scale=width**-0.5, softcap=0.0, part=part,
            )  # fmt: skip
        expected = attention(
            query.transpose(1, 0, 2).astype(np.float32), keys.values(), values.values(), start,
            width**-0.5, window, 0.0, sinks,
        )  # fmt: skip
        found = out[16:][: expected.size].reshape(expected.shape)
        assert np.abs(found - expected).max() <= 5e-6 * np.abs(values.values()).max()
        assert np.isnan(out[16 + expected.size :]).all() and np.isnan(out[:16]).all()
    keys.check_written(rows, key)
    values.check_written(rows, value)


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("body", "fails"),
    [
        ("largest[row * parts + part] = x[n] + per; place[0] = 0;", ""),
        ("largest[row * parts + part] = x[columns] + per; place[0] = 0;", "columns"),
        ("largest[row * parts + part] = x[n]; place[0] = 0;", "unused parameter 'per'"),
        ("x[n] = largest[row * parts + part] + per; place[0] = 0;", "read-only"),
    ],
)
def test_c_that_differs_from_its_declaration_does_not_compile(
    body: str, fails: str, tmp_path: Path
) -> None:
    (tmp_path / "abi.h").write_text(abi_header(objects()["argmax"]))
    (tmp_path / "k.c").write_text(f'#include "abi.h"\nKERNEL(argmax) {{ {body} }}\n')
    done = subprocess.run(
        [
            Path(ziglang.__file__).parent / "zig", "cc", "-target", "x86_64-freestanding-none",
            "-Wall", "-Wextra", "-Werror", "-c", "k.c", "-o", "k.o",
        ],
        cwd=tmp_path,
        env={"ZIG_GLOBAL_CACHE_DIR": str(tmp_path), "ZIG_LOCAL_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == (fails == ""), done.stderr
    assert fails in done.stderr


def test_objects_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later process compiles none; a damaged file is compiled again."""
    monkeypatch.setenv("EDGEC_CACHE_DIR", str(tmp_path / "cache"))
    level, output = OWN_LEVELS[-1], tmp_path / "argmax.o"

    def build() -> bytes:
        monkeypatch.setattr(ukernels, "_built", {})
        build_object("argmax", level, output)
        return output.read_bytes()

    first = build()
    with monkeypatch.context() as without_compiler:
        without_compiler.setattr(ukernels, "run_tool", None)
        assert build() == first
    (kept,) = (tmp_path / "cache" / "kernels").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert build() == first
    (kept,) = (tmp_path / "cache" / "kernels").iterdir()
    assert kept.read_bytes().endswith(first)
