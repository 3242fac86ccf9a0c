"""CUDA programs, only compiled here: the code that each contraction gets, and what is refused.

The passes that the target adds are run on the CPU, where their numbers can be seen.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec import cuda
from edgec.compiler.driver import build
from edgec.compiler.iree import iree_compile_file
from edgec.compiler.stages import shape_flags
from edgec.compiler.targets import parse_targets
from edgec.errors import DeviceError, InputError
from edgec.manifest import Program
from edgec.models.sources.presets import PRESETS
from edgec.options import CompileOptions, CompileRequest
from edgec.runtime import Session
from edgec.runtime.cuda import check_cuda

DENSE = [
    name
    for name, preset in PRESETS.items()
    if not any("expert" in key for key in preset.config)
]  # fmt: skip
QUICK = ("qwen3-0.6b", "pythia-160m")
_DISPATCH = re.compile(r"func\.func @(?P<name>\S+?)\(\)(?P<rest>.*?)(?=func\.func @|\Z)", re.DOTALL)


def configurations(folder: Path, model: str, architecture: str, **options: Any) -> dict[str, str]:
    """Every dispatch of a model to the text of its function, after code generation chose for it."""
    edgec.compile(
        model, target=f"cuda:{architecture}", dump_ir=folder, stop_after="input", dtype="f16",
        output=folder / "none.edgec", **options,
    )  # fmt: skip
    (target,) = parse_targets(f"cuda:{architecture}")
    configured = folder / "configured.mlir"
    iree_compile_file(
        folder / "cuda.input.mlir",
        configured,
        (
            *target.flags,
            *shape_flags(CompileOptions()),
            "--compile-to=executable-configurations",
        ),
    )
    return {m["name"]: m["rest"] for m in _DISPATCH.finditer(configured.read_text("utf-8"))}


@pytest.mark.parametrize(
    "architecture",
    [
        "sm_86",
        pytest.param("sm_80", marks=pytest.mark.slow),
        pytest.param("sm_89", marks=pytest.mark.slow),
    ],
)
def test_prefill_contractions_use_tensor_cores(architecture: str, tmp_path: Path) -> None:
    """All of them, linear layers and attention, where a prompt has more than one row to compute.

    The head, and the last layer's query and what follows, are bound by memory.
    """
    found = configurations(tmp_path, "bundled:tiny-dense", architecture, layers=None)
    prefill = {n: text for n, text in found.items() if n.startswith("prefill") and "matmul" in n}
    one_query = [name for name in prefill if re.search("_2x4x(Dx32|32xD)_", name)]
    assert len(one_query) == 2, list(found)
    prefill = {n: text for n, text in prefill.items() if n not in one_query}
    # q, o, k, v, gate, up and down, of which equal shapes are one; and the two of attention.
    assert len(prefill) >= 7, list(found)
    for name, text in prefill.items():
        assert "TileAndFuse" in text, name
        assert "mma_kind = #iree_gpu.mma_layout<NV_MMA_SYNC_F32_16x8x16_F16>" in text, name


@pytest.mark.parametrize(
    "preset", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in DENSE]
)
def test_dense_presets_compile(preset: str, tmp_path: Path) -> None:
    """Two layers, without their weights being written."""
    edgec.compile(
        f"preset:{preset}", target="cuda", layers=2, ctx_size=512, dtype="f16",
        dump_ir=tmp_path, stop_after="vmfb", output=tmp_path / "none.edgec",
    )  # fmt: skip
    assert (tmp_path / "cuda.vmfb").stat().st_size > 10_000


def test_quantized_weights_compile(tmp_path: Path) -> None:
    """Each form that matrices have, in one model."""
    edgec.compile(
        "bundled:tiny-dense", target="cuda", layers=1, ctx_size=64, quantize="int4",
        asymmetric=True, embedding_quantize="int8", dump_ir=tmp_path, stop_after="vmfb",
    )  # fmt: skip
    assert (tmp_path / "cuda.vmfb").stat().st_size > 10_000


@pytest.mark.parametrize("dtype", ["f16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_numbers_of_the_narrow_forms(
    dtype: str, tmp_path: Path, compare: Callable[..., Any]
) -> None:
    """The CUDA target's passes on a CPU program, against the usual ones."""
    sizes: dict[str, Any] = {"layers": 2, "ctx_size": 512, "chunk_size": 64, "dtype": dtype}
    usual = edgec.compile("bundled:tiny-dense", output=tmp_path / "usual.edgec", **sizes)
    (gpu,) = parse_targets("cuda")
    (cpu,) = parse_targets("cpu")
    narrow = dataclasses.replace(
        cpu, block_rows=1, torch_pipeline=gpu.torch_pipeline, input_pipeline=gpu.input_pipeline
    )
    request = CompileRequest("bundled:tiny-dense", output=tmp_path / "narrow.edgec", **sizes)
    changed = build(request, (narrow,))
    assert usual is not None
    assert changed is not None
    assert "compute=cache" in changed.manifest.programs["cpu"].pipelines["lowered"]
    found = compare(Session(usual), Session(changed), (33, 64, 200), 20)
    assert found.agreement >= 0.99
    assert found.error <= {"f16": 5e-3, "bf16": 5e-2}[dtype]


def test_an_unknown_architecture() -> None:
    with pytest.raises(InputError, match="'cuda:sm_90': must be one of sm_80, sm_86, sm_89"):
        parse_targets("cuda:sm_90")


PROGRAM = Program("cuda:sm_86", "cuda", "c.vmfb", "", {"compute_capability": "8.6"})


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", absent)
    with pytest.raises(DeviceError, match="no CUDA driver.*install NVIDIA's driver"):
        check_cuda(PROGRAM, 0)


@pytest.mark.parametrize(
    ("capability", "needed", "says"),
    [
        ((8, 0), 0, "needs compute capability 8.6: A100 has 8.0 .compile for sm_80"),
        ((9, 0), 90_000_000_000, "needs 90000 MB of device memory, 80000 MB are there"),
        ((9, 0), 1, ""),
    ],
)
def test_a_gpu_that_does_not_fit(
    capability: tuple[int, int], needed: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cuda.CudaDevice("A100", capability, 80_000_000_000)
    monkeypatch.setattr(cuda, "device", lambda: found)
    if not says:
        check_cuda(PROGRAM, needed)
        return
    with pytest.raises(DeviceError, match=says):
        check_cuda(PROGRAM, needed)
