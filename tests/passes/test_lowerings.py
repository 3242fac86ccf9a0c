"""Each operator, compiled for the CPU, against its eager reference."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iree.compiler import ir

from edgec.compiler.iree import iree_compile_file
from edgec.compiler.stages import shape_flags
from edgec.compiler.targets import parse_targets
from edgec.compiler.ukernels import build_objects
from edgec.models import ops
from edgec.models.weights.quantize import quantize, quantize_experts
from edgec.options import CompileOptions
from edgec.passes import LOWERINGS, TORCH_PIPELINE, Pipeline
from edgec.passes.kernels.table import LIBRARIES
from edgec.weight_formats import WeightFormat

_MLIR = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "si64",
    torch.int32: "si32",
    torch.int8: "si8",
}


def operator_module(name: str, arguments: list[Any], dynamic: dict[int, int]) -> str:
    """A module whose `main` calls one operator; `dynamic` maps argument to its dynamic dim."""
    lines, types, operands, inputs = [], [], [], []
    for i, value in enumerate(arguments):
        if value is None:
            lines.append(f"%a{i} = torch.constant.none")
            types.append("!torch.none")
        elif isinstance(value, float):
            lines.append(f"%a{i} = torch.constant.float {value:e}")
            types.append("!torch.float")
        elif isinstance(value, bool):
            lines.append(f"%a{i} = torch.constant.bool {str(value).lower()}")
            types.append("!torch.bool")
        elif isinstance(value, int):
            lines.append(f"%a{i} = torch.constant.int {value}")
            types.append("!torch.int")
        else:
            types.append(_type(value, dynamic.get(i)))
            inputs.append(f"%a{i}: {types[-1]}")
        operands.append(f"%a{i}")
    results = as_tuple(getattr(ops, name)(*arguments))
    first = next((i for i, d in dynamic.items()), None)
    size = None if first is None else arguments[first].shape[dynamic[first]]
    outs = []
    for result in results:
        shape = list(result.shape)
        outs.append(_type(result, shape.index(size) if size in shape else None))
    out, names = ", ".join(outs), ", ".join(f"%r#{i}" for i in range(len(outs)))
    body = "\n".join(lines)
    return f"""
func.func @main({", ".join(inputs)}) -> ({out}) {{
{body}
%r:{len(outs)} = torch.operator "torch.edgec.{name}"({", ".join(operands)})
    : ({", ".join(types)}) -> ({out})
return {names} : {out}
}}"""


def _compile(
    name: str,
    arguments: list[Any],
    dynamic: dict[int, int],
    folder: Path,
    portable: bool = True,
    pipeline: Pipeline = TORCH_PIPELINE,
) -> Path:
    """A program of `operator_module` for this CPU."""
    text = operator_module(name, arguments, dynamic)
    target = parse_targets("cpu")[0]
    with ir.Context():
        module = ir.Module.parse(text)
        (pipeline if portable else target.torch_pipeline).run(module)
        (folder / "in.mlir").write_text(str(module))
    flags = (*target.flags, *shape_flags(CompileOptions()))
    if target.kernels and not portable:
        build_objects(str(module), target.kernels, folder)
        flags = (*flags, f"--iree-hal-executable-object-search-path={folder}")
    iree_compile_file(folder / "in.mlir", folder / "out.vmfb", flags)
    return folder / "out.vmfb"


def as_tuple(value: Any) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _type(value: torch.Tensor, dynamic: int | None) -> str:
    dims = ["?" if i == dynamic else str(d) for i, d in enumerate(value.shape)]
    return f"!torch.vtensor<[{','.join(dims)}],{_MLIR[value.dtype]}>"


def _run(program: Path, arguments: list[Any], results: int = 1) -> list[np.ndarray[Any, Any]]:
    instance = rt.VmInstance()
    device = rt.get_device("local-task")
    module = rt.VmModule.mmap(instance, str(program))
    context = rt.VmContext(instance, [rt.create_hal_module(instance, device), module])
    inputs, outputs = rt.VmVariantList(8), rt.VmVariantList(results)
    keep = []
    for value in arguments:
        if not isinstance(value, torch.Tensor):
            continue
        if value.dtype == torch.int64 and not value.dim():
            inputs.push_int(int(value))
            continue
        keep.append(upload(device, value))
        inputs.push_ref(keep[-1])
    context.invoke(module.lookup_function("main"), inputs, outputs)
    views = [outputs.get_as_object(i, rt.HalBufferView) for i in range(results)]
    return [rt.DeviceArray(device, v, implicit_host_transfer=True).to_host() for v in views]


def upload(device: Any, value: torch.Tensor) -> Any:
    types = rt.HalElementType
    element = {
        torch.float32: types.FLOAT_32,
        torch.float16: types.FLOAT_16,
        torch.bfloat16: types.BFLOAT_16,
        torch.int32: types.SINT_32,
        torch.int64: types.SINT_64,
        torch.int8: types.SINT_8,
    }[value.dtype]
    raw = value.contiguous()
    array = raw.view(torch.int16).numpy() if raw.dtype == torch.bfloat16 else raw.numpy()
    view = rt.asdevicearray(device, array)._buffer_view
    return rt.HalBufferView(view.get_buffer(), list(value.shape), element)


def check(program: Path, name: str, arguments: list[Any], tolerance: float = 1e-5) -> None:
    """Runs a compiled operator; the error is in units of the largest expected value."""
    expected = as_tuple(getattr(ops, name)(*arguments))
    compare(_run(program, arguments, len(expected)), expected, tolerance)


def compare(
    found: list[np.ndarray[Any, Any]], expected: tuple[torch.Tensor, ...], tolerance: float = 1e-5
) -> None:
    """Integers must be equal; an error is in units of the largest expected value."""
    for actual, wanted in zip(found, expected, strict=True):
        assert actual.shape == wanted.shape
        if not wanted.is_floating_point():
            assert np.array_equal(actual, wanted.numpy())
            continue
        reference = wanted.to(torch.float32).numpy()
        same = actual.astype(np.float32) == reference  # infinities too
        difference = np.where(same, 0, actual.astype(np.float32) - np.where(same, 0, reference))
        scale = np.abs(reference[np.isfinite(reference)]).max()
        assert np.abs(difference).max() <= tolerance * scale


def test_operators_and_lowerings_are_the_same_set() -> None:
    assert set(ops.OPS) == set(LOWERINGS)


FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [None, 1, 40])
@pytest.mark.parametrize("biased", [False, True])
def test_linear(tmp_path: Path, dtype: torch.dtype, rows: int | None, biased: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 48).to(dtype)
    bias = torch.randn(24) if biased else None
    examples = [[torch.randn(1, m, 48), weight, bias] for m in ([rows] if rows else [2, 32, 33])]
    program = _compile("linear", examples[0], {} if rows else {0: 1}, tmp_path)
    for arguments in examples:
        check(program, "linear", arguments)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("rows", "columns", "biased"),
    [(None, 96, True), (1, 64, False), (4, 64, True), (40, 64, False), (None, 48, True)],
)
def test_linear_of_the_cpu(
    tmp_path: Path, dtype: torch.dtype, rows: int | None, columns: int, biased: bool
) -> None:
    """The kernels' dispatches, where this CPU has them; 48 columns are left to generated code."""
    torch.manual_seed(0)
    weight, bias = torch.randn(50, columns).to(dtype), torch.randn(50) if biased else None
    lengths = [rows] if rows else [33, 32, 1]
    examples = [[torch.randn(1, m, columns), weight, bias] for m in lengths]
    program = _compile("linear", examples[0], {} if rows else {0: 1}, tmp_path, portable=False)
    for arguments in examples:
        check(program, "linear", arguments)


WRAPS = [(64, 100), (1, 128), (32, 300), (128, 1)]
"""Tokens and start of blocks that go past the end of a ring of 128 rows, or lie past it."""


@pytest.mark.parametrize("ring", [False, True])
def test_quantized_cache_update(tmp_path: Path, ring: bool) -> None:
    torch.manual_seed(0)
    cache = torch.randint(-127, 128, (128, 2, 16)).to(torch.int8)
    examples = [
        [cache, torch.rand(128, 2), torch.randn(tokens, 2, 16), torch.tensor(start), ring]
        for tokens, start in [(31, 0), (31, 5), (1, 127), *(WRAPS if ring else [])]
    ]
    examples[0][2][3] = 0  # a row without a scale
    program = _compile("quantized_cache_update", examples[0], {2: 0}, tmp_path)
    for arguments in examples:
        check(program, "quantized_cache_update", arguments)


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_cache_update(tmp_path: Path, dtype: torch.dtype, ring: bool) -> None:
    torch.manual_seed(0)
    cache = torch.randn(128, 2, 16).to(dtype)
    examples = [
        [cache, torch.randn(tokens, 2, 16), torch.tensor(start), ring]
        for tokens, start in [(31, 0), (31, 5), (64, 64), (1, 127), (128, 0)]
        + (WRAPS if ring else [])
    ]
    program = _compile("cache_update", examples[0], {1: 0}, tmp_path)
    for arguments in examples:
        check(program, "cache_update", arguments)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("window", "softcap", "sinks", "dtype"),
    [
        (0, 0.0, False, torch.float32),
        (7, 0.0, False, torch.float32),
        (40, 20.0, True, torch.float32),
        (0, 0.0, False, torch.float16),
        (0, 0.0, False, torch.bfloat16),
    ],
)
def test_attention(
    tmp_path: Path, dynamic: bool, window: int, softcap: float, sinks: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)

    def example(tokens: int, start: int) -> list[Any]:
        query = torch.randn(1, 6, tokens, 16)
        # Other rows than those seen hold large garbage: what lies there must not matter.
        key, value = torch.full((128, 2, 16), 1e3), torch.full((128, 2, 24), 1e3)
        seen = torch.arange(max(0, start - window + 1) if window else 0, start + tokens) % 128
        key[seen], value[seen] = torch.randn(len(seen), 2, 16), torch.randn(len(seen), 2, 24)
        return [
            query, key.to(dtype), value.to(dtype), torch.tensor(start),
            torch.randn(6) if sinks else None, 0.25, window, softcap, None, None,
        ]  # fmt: skip

    # With a window the cache is a ring: positions from 128 on begin at its first row again.
    lengths, starts = ([32, 37] if dynamic else [1]), [0, 31, 41, 64]
    starts += [100, 127, 128, 135, 163, 500, 100_000] if window else []
    examples = [example(tokens, start) for tokens in lengths for start in starts]
    program = _compile("attention", examples[0], {0: 2} if dynamic else {}, tmp_path)
    for arguments in examples:
        check(program, "attention", arguments)


@given(
    window=st.integers(1, 70),
    calls=st.lists(st.tuples(st.integers(1, 33), st.integers(0, 31)), min_size=1, max_size=9),
)
@settings(deadline=None, max_examples=40)
def test_a_ring_of_rows_is_as_good_as_all(window: int, calls: list[tuple[int, int]]) -> None:
    """The operators' definitions: a ring with room for the window and a padded block."""
    longest, position = 64, 0
    rows = -(-(window - 1 + longest) // 32) * 32
    every, ring = torch.full((1024, 1, 4), 1e3), torch.full((rows, 1, 4), 1e3)
    for true, padding in calls:
        start, block = torch.tensor(position), torch.randn(true + padding, 1, 4)
        every = ops.cache_update(every, block, start, False)
        ring = ops.cache_update(ring, block, start, True)
        query = torch.randn(1, 2, true + padding, 4)
        form = (start, None, 0.5, window, 0.0, None, None)
        wanted, found = (ops.attention(query, c, c, *form)[:, :true] for c in (every, ring))
        assert torch.equal(found, wanted)
        position += true


@pytest.mark.parametrize(
    ("dtype", "portable"),
    [*((dtype, False) for dtype in (*FLOATS, torch.int8)), (torch.int8, True)],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_attention_of_the_cpu(
    tmp_path: Path, dynamic: bool, dtype: torch.dtype, portable: bool
) -> None:
    """The kernel's dispatch, where this CPU has one; its forms are in test_ukernels.py."""
    torch.manual_seed(0)
    size, scales = 1.0, [None, None]
    if dtype == torch.int8:
        size, scales = 40.0, [torch.rand(160, 2) / 40 for _ in range(2)]
    key, value = (torch.randn(160, 2, width).mul(size).to(dtype) for width in (32, 48))
    sinks = torch.randn(6)
    examples = [
        [torch.randn(1, 6, m, 32), key, value, torch.tensor(s), sinks, 0.25, 40, 20.0, *scales]
        for m, s in ([(32, 0), (64, 41), (64, 130)] if dynamic else [(1, 0), (1, 99), (1, 165)])
    ]
    program = _compile("attention", examples[0], {0: 2} if dynamic else {}, tmp_path, portable)
    for arguments in examples:
        check(program, "attention", arguments)


FORMATS = [(8, False), (4, False), (4, True)]


@pytest.mark.parametrize(("bits", "zeros"), FORMATS)
@pytest.mark.parametrize(
    ("rows", "group", "biased"), [(None, 32, False), (1, 64, True), (40, None, True)]
)
def test_quantized_linear(
    tmp_path: Path, bits: int, zeros: bool, rows: int | None, group: int | None, biased: bool
) -> None:
    """The contraction that every target can compile; N is not a whole number of panels."""
    torch.manual_seed(0)
    weight = torch.randn(40, 64) + 0.5 * zeros
    packed, scales = quantize("w", weight, WeightFormat(bits, group, "zero_point" if zeros else ""))
    bias = torch.randn(40) if biased else None
    lengths = [rows] if rows else [2, 33]
    examples = [[torch.randn(1, m, 64), packed, scales, bias, 40] for m in lengths]
    program = _compile("quantized_linear", examples[0], {} if rows else {0: 1}, tmp_path)
    for arguments in examples:
        check(program, "quantized_linear", arguments)


@pytest.mark.parametrize(("bits", "zeros"), FORMATS)
def test_quantized_linear_apart(tmp_path: Path, bits: int, zeros: bool) -> None:
    """The form for CUDA, here on the CPU."""
    torch.manual_seed(0)
    weight = torch.randn(40, 64) + 0.5 * zeros
    packed, scales = quantize("w", weight, WeightFormat(bits, 32, "zero_point" if zeros else ""))
    arguments = [torch.randn(1, 33, 64), packed, scales, None, 40]
    pipeline = TORCH_PIPELINE.with_options("lower-quantized-linear", form="apart")
    program = _compile("quantized_linear", arguments, {0: 1}, tmp_path, pipeline=pipeline)
    check(program, "quantized_linear", arguments)


@pytest.mark.parametrize(("bits", "zeros"), FORMATS)
@pytest.mark.parametrize("tokens", [None, 1])
def test_quantized_embedding(tmp_path: Path, bits: int, zeros: bool, tokens: int | None) -> None:
    torch.manual_seed(0)
    weight = torch.randn(37, 64) + 0.5 * zeros
    packed, scales = quantize("w", weight, WeightFormat(bits, 32, "zero_point" if zeros else ""))
    lengths = [tokens] if tokens else [2, 33]
    examples = [
        [torch.randint(0, 37, (1, m), dtype=torch.int32), packed, scales, 64] for m in lengths
    ]
    program = _compile("quantized_embedding", examples[0], {} if tokens else {0: 1}, tmp_path)
    for arguments in examples:
        check(program, "quantized_embedding", arguments)


def compile_and_check(
    name: str,
    arguments: list[Any],
    dynamic: dict[int, int],
    folder: Path,
    portable: bool = False,
) -> None:
    check(_compile(name, arguments, dynamic, folder, portable), name, arguments)


@pytest.mark.parametrize(
    ("shape", "k"),
    [((1, 32), 8), ((None, 8), 8), ((37, 6), 1), ((5,), 2), ((2, 3000), 7), ((1, 5003), 50)],
)
def test_topk(tmp_path: Path, shape: tuple[int | None, ...], k: int) -> None:
    torch.manual_seed(0)
    # Few different values, so that most elements have equals.
    x = torch.randint(-40, 40, [33 if d is None else d for d in shape]).to(torch.float32)
    x[..., 1] = float("-inf")
    compile_and_check("topk", [x, k], {0: 0} if None in shape else {}, tmp_path)


@pytest.mark.parametrize("length", [0, 1, 33, 40])
@pytest.mark.parametrize("bins", [1, 8, 130])
def test_histogram(tmp_path: Path, length: int, bins: int) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, bins + 2, (40, 3))
    compile_and_check("histogram", [ids, torch.tensor(length), bins], {0: 0}, tmp_path)


def _sorted_rows(counts: list[int]) -> torch.Tensor:
    padded = [-(-count // 16) * 16 for count in counts]
    return torch.tensor([0, *padded]).cumsum(0).to(torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("counts", [[3, 0, 40, 16], [0, 0, 70, 0]])
def test_grouped_matmul_of_sorted_rows(
    tmp_path: Path, dtype: torch.dtype, biased: bool, transposed: bool, counts: list[int]
) -> None:
    torch.manual_seed(0)
    offsets = _sorted_rows(counts)
    x = torch.randn(int(offsets[-1]), 40)
    weight = torch.randn((4, 40, 72) if transposed else (4, 72, 40)).to(dtype)
    bias = torch.randn(4, 72) if biased else None
    arguments = [x, weight, bias, offsets, None, transposed]
    compile_and_check("grouped_matmul", arguments, {0: 0}, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_matmul_of_few_rows(
    tmp_path: Path, dtype: torch.dtype, biased: bool, transposed: bool
) -> None:
    torch.manual_seed(0)
    weight = torch.randn((4, 48, 128) if transposed else (4, 128, 48)).to(dtype)
    bias = torch.randn(4, 128) if biased else None
    experts = torch.tensor([2, 0, 3], dtype=torch.int32)
    arguments = [torch.randn(3, 48), weight, bias, None, experts, transposed]
    compile_and_check("grouped_matmul", arguments, {0: 0, 4: 0} if biased else {}, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sorted_rows", [False, True])
def test_grouped_matmul_of_the_cpu(tmp_path: Path, dtype: torch.dtype, sorted_rows: bool) -> None:
    """Experts that the kernels take, where this CPU has them."""
    torch.manual_seed(0)
    weight = torch.randn(4, 72, 64).to(dtype)
    offsets = _sorted_rows([3, 0, 40, 16]) if sorted_rows else None
    experts = None if sorted_rows else torch.tensor([2, 0, 3], dtype=torch.int32)
    x = torch.randn(3 if offsets is None else int(offsets[-1]), 64)
    arguments = [x, weight, None, offsets, experts, False]
    compile_and_check("grouped_matmul", arguments, {0: 0} if sorted_rows else {}, tmp_path)


@pytest.mark.parametrize("sorted_rows", [False, True])
def test_grouped_matmul_in_its_portable_form(tmp_path: Path, sorted_rows: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(4, 72, 40).to(torch.float16), torch.randn(4, 72)
    offsets = _sorted_rows([3, 0, 40, 16]) if sorted_rows else None
    experts = None if sorted_rows else torch.tensor([2, 0, 3], dtype=torch.int32)
    x = torch.randn(3 if offsets is None else int(offsets[-1]), 40)
    arguments = [x, weight, bias, offsets, experts, False]
    compile_and_check(
        "grouped_matmul", arguments, {0: 0} if sorted_rows else {}, tmp_path, portable=True
    )


def test_topk_in_its_portable_form(tmp_path: Path) -> None:
    x = torch.randint(-9, 9, (33, 32), generator=torch.Generator().manual_seed(0))
    compile_and_check("topk", [x.to(torch.float32), 8], {0: 0}, tmp_path, portable=True)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("sorted_rows", "biased", "columns"), [(True, False, 64), (False, True, 64), (True, True, 96)]
)
def test_quantized_grouped_matmul(
    tmp_path: Path, bits: int, sorted_rows: bool, biased: bool, columns: int
) -> None:
    """The contraction that every target can compile; N is not a whole number of panels."""
    program, arguments = quantized_experts(tmp_path, bits, sorted_rows, biased, columns, True)
    check(program, "quantized_grouped_matmul", arguments)


def quantized_experts(
    folder: Path, bits: int, sorted_rows: bool, biased: bool, columns: int, portable: bool
) -> tuple[Path, list[Any]]:
    torch.manual_seed(0)
    form = WeightFormat(bits, 32)
    packed, scales = quantize_experts("w", torch.randn(4, 40, columns), 4, form)
    bias = torch.randn(4, 40) if biased else None
    offsets = _sorted_rows([3, 0, 40, 16]) if sorted_rows else None
    experts = None if sorted_rows else torch.tensor([2, 0, 3], dtype=torch.int32)
    x = torch.randn(3 if offsets is None else int(offsets[-1]), columns)
    counts = torch.tensor([3, 0, 40, 16], dtype=torch.int32) if sorted_rows else None
    arguments = [x, packed, scales, bias, offsets, counts, experts, 40]
    dynamic = {0: 0} if sorted_rows else {}
    return _compile("quantized_grouped_matmul", arguments, dynamic, folder, portable), arguments


def test_kernels_have_different_names() -> None:
    """IREE links all executables of a program into one library."""
    names = Counter(name for library in LIBRARIES for name in library.kernels)
    assert len(names) > 40
    assert names.most_common(1)[0][1] == 1, names.most_common(3)
