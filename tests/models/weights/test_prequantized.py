"""Checkpoints that come quantised: GPTQ, AWQ, compressed-tensors, by their published layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.models.gguf.test_gguf import make_model

from edgec.errors import ModelError
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
from edgec.models.sources.resolve import ModelSource, resolve
from edgec.models.weights.packing import dequantize
from edgec.models.weights.prequantized import PrequantizedWeights
from edgec.weight_formats import WeightFormat

GROUP = 64
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def words(fields: torch.Tensor, bits: int) -> torch.Tensor:
    """`[..., n]` integers as i32 `[..., n bits / 32]`, the first in the lowest bits."""
    each = 32 // bits
    grouped = fields.to(torch.int64).reshape(*fields.shape[:-1], -1, each)
    packed = (grouped << torch.arange(0, 32, bits)).sum(-1)
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)


def gptq(q: torch.Tensor, z: torch.Tensor, s: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """AutoGPTQ's `pack`; q `[N, K]`, z and s `[N, groups]`. Zero points are stored less one."""
    group = q.shape[1] // z.shape[1]
    return {
        "qweight": words(q, bits).T.contiguous(),
        "qzeros": words(z.T - 1, bits),
        "scales": s.T.contiguous(),
        "g_idx": (torch.arange(q.shape[1]) // group).to(torch.int32),
    }


def awq(q: torch.Tensor, z: torch.Tensor, s: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """AutoAWQ's `WQLinear_GEMM.from_linear`."""

    def interleaved(rows: torch.Tensor) -> torch.Tensor:  # [N, x] to i32 [x, N / 8]
        return words(rows.T.reshape(rows.shape[1], -1, 8)[..., _AWQ_ORDER].flatten(1), bits)

    return {"qweight": interleaved(q), "qzeros": interleaved(z), "scales": s.T.contiguous()}


def pack_quantized(
    q: torch.Tensor, z: torch.Tensor, s: torch.Tensor, bits: int
) -> dict[str, torch.Tensor]:
    """compressed-tensors' `pack_to_int32`; zero points are packed along the rows."""
    parts = {
        "weight_packed": words(q, bits),
        "weight_scale": s.contiguous(),
        "weight_shape": torch.tensor(q.shape),
    }
    if not bool((z == 1 << bits - 1).all()):
        parts["weight_zero_point"] = words(z.T, bits).T.contiguous()
    return parts


PACK = {"gptq": gptq, "awq": awq, "compressed-tensors": pack_quantized}


def settings(method: str, bits: int, symmetric: bool) -> dict[str, Any]:
    common = {"quant_method": method, "bits": bits, "group_size": GROUP}
    if method == "gptq":
        return common | {"desc_act": False, "sym": symmetric, "checkpoint_format": "gptq"}
    if method == "awq":
        return common | {"zero_point": True, "version": "gemm"}
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "group_size": GROUP}
    return {
        "quant_method": method,
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


def write_checkpoint(
    folder: Path,
    model: Any,
    method: str,
    *,
    bits: int = 4,
    symmetric: bool = True,
    config: dict[str, Any] | None = None,
    change: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes a model with random integers in its linear layers, and puts their values into it."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    linear = {f"{n}.weight" for n, m in model.named_modules() if type(m) is torch.nn.Linear}
    for name, parameter in model.named_parameters():
        if name not in linear or name == "lm_head.weight":
            tensors[name] = parameter.detach().clone()
            continue
        rows, columns = parameter.shape
        top, middle = 1 << bits, 1 << bits - 1
        q = torch.randint(0, top, (rows, columns), generator=generator)
        z = torch.full((rows, columns // GROUP), middle)
        if not symmetric:
            z = torch.randint(1, top, z.shape, generator=generator)
        s = torch.rand(z.shape, generator=generator).half() * 0.4 / top + 0.01 / top
        groups = (q.view(rows, -1, GROUP) - z[..., None]) * s.float()[..., None]
        with torch.no_grad():
            parameter.copy_(groups.reshape(rows, columns))
        parts = PACK[method](q, z, s, bits)
        tensors |= {f"{name.removesuffix('.weight')}.{part}": t for part, t in parts.items()}
    tensors |= change or {}
    folder.mkdir(exist_ok=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    values = model.config.to_dict() | {
        "quantization_config": settings(method, bits, symmetric) | (config or {})
    }
    (folder / "config.json").write_text(json.dumps(values))
    for name, content in byte_tokenizer_files(model.config.vocab_size).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)


def check(model: Any, source: ModelSource, form: WeightFormat) -> None:
    assert isinstance(source.weights, PrequantizedWeights)
    formats = source.weights.formats()
    assert len(formats) == 7 and set(formats.values()) == {form}
    for name, parameter in model.named_parameters():
        assert torch.equal(source.weights.read(name), parameter), name
        if name in formats:
            pair = source.weights.read_quantized(name)
            assert torch.equal(dequantize(*pair, form, parameter.shape[0]), parameter), name


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", list(PACK))
def test_four_bits_are_exact(tmp_path: Path, method: str, symmetric: bool) -> None:
    model = make_model("qwen3")
    write_checkpoint(tmp_path, model, method, symmetric=symmetric)
    check(model, resolve(str(tmp_path)), WeightFormat(4, GROUP, "" if symmetric else "zero_point"))


@pytest.mark.parametrize("method", ["gptq", "compressed-tensors"])
def test_eight_bits_are_exact(tmp_path: Path, method: str) -> None:
    model = make_model("qwen3")
    write_checkpoint(tmp_path, model, method, bits=8)
    check(model, resolve(str(tmp_path)), WeightFormat(8, GROUP))


def test_gptq_v2_stores_zero_points_as_they_are(tmp_path: Path) -> None:
    model = make_model("qwen3")
    write_checkpoint(tmp_path, model, "gptq", config={"checkpoint_format": "gptq_v2"})
    source = resolve(str(tmp_path))
    name = "model.layers.0.mlp.up_proj.weight"
    scale = (model.state_dict()[name] - source.weights.read(name)).abs()
    assert float(scale.min()) > 0  # all off by the one that this format does not add


@pytest.mark.parametrize(
    ("method", "config", "says"),
    [
        ("gptq", {"bits": 3}, "gptq with 3 bits"),
        ("gptq", {"checkpoint_format": "marlin"}, "gptq in the format marlin"),
        ("awq", {"version": "gemv"}, "awq, version gemv"),
        ("compressed-tensors", {"format": "float-quantized"}, "compressed-tensors, float-quant"),
        ("gptq", {"quant_method": "fp8"}, r"quantised already \(fp8\)"),
    ],
)
def test_variants_that_are_refused(
    tmp_path: Path, method: str, config: dict[str, Any], says: str
) -> None:
    write_checkpoint(tmp_path, make_model("qwen3"), method, config=config)
    with pytest.raises(ModelError, match=says) as error:
        resolve(str(tmp_path))
    assert "--quantize" in (error.value.remedy or "")


def test_damaged_matrices_are_named(tmp_path: Path) -> None:
    layer = "model.layers.0.self_attn.q_proj"
    cases: dict[str, tuple[str, torch.Tensor]] = {
        "order of their activations": ("g_idx", torch.randperm(256).to(torch.int32) // GROUP),
        "has scales": ("scales", torch.ones(3, 128, dtype=torch.float16)),
        "not a matrix of i32": ("qweight", torch.ones(32, 128)),
    }
    for says, (part, tensor) in cases.items():
        changed = {f"{layer}.{part}": tensor}
        write_checkpoint(tmp_path, make_model("qwen3"), "gptq", change=changed)
        with pytest.raises(ModelError, match=says) as error:
            resolve(str(tmp_path))
        assert layer in error.value.what and error.value.remedy
    endless = {f"{layer}.scales": torch.full((4, 128), float("inf"), dtype=torch.float16)}
    write_checkpoint(tmp_path, make_model("qwen3"), "gptq", change=endless)
    weights = resolve(str(tmp_path)).weights
    assert isinstance(weights, PrequantizedWeights)
    with pytest.raises(ModelError, match=f"{layer}.*NaN, infinite"):
        weights.read_quantized(f"{layer}.weight")
