"""Quantised experts: how their matrices are read, packed and multiplied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.moe.parity import check_parity, make
from tests.moe.test_parity import FAMILIES
from transformers import AutoConfig

from edgec.compiler.quantization import StoredWeights
from edgec.models.load import load
from edgec.models.sources.resolve import resolve
from edgec.models.weights.check import check_weights
from edgec.models.weights.packing import dequantize
from edgec.weight_formats import WeightFormat

# Widths that groups of 32 divide.
_WIDTHS = {"intermediate_size": 64, "moe_intermediate_size": 64}
_GENERIC = "cpu:x86_64-linux-gnu"  # no kernels: activations stay f32, so that routes are the same


@pytest.mark.parametrize(
    ("name", "quantize"),
    [
        # Transposed matrices, biases.
        pytest.param("gpt_oss", "int4", marks=pytest.mark.slow),
        pytest.param("granitemoe", "int8", marks=pytest.mark.slow),
        pytest.param("qwen3_moe", "int4", marks=pytest.mark.slow),
    ],
)
def test_parity(tmp_path: Path, name: str, quantize: str) -> None:
    family, changes = FAMILIES[name]
    check_parity(
        tmp_path, family, {**changes, **_WIDTHS}, quantize=quantize, target=_GENERIC, kv_dtype="f32"
    )


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("bits", [8, 4])
def test_experts_are_read_one_by_one(tmp_path: Path, name: str, bits: int) -> None:
    """Stored apart or as one, transposed or not: each expert's matrix comes back."""
    model_type, changes = FAMILIES[name]
    model = make(tmp_path / "model", model_type, {**changes, **_WIDTHS})
    form = WeightFormat(bits, 32)
    loaded = load(AutoConfig.from_pretrained(tmp_path / "model"), "f32", form)
    source = resolve(str(tmp_path / "model")).weights
    reads: list[str] = []
    original = type(source).read

    class Watched:
        def __getattr__(self, attribute: str) -> object:
            return getattr(source, attribute)

        def read(self, tensor: str) -> torch.Tensor:
            reads.append(tensor)
            return original(source, tensor)

    stored = StoredWeights(loaded, check_weights(loaded.expected, Watched()))  # type: ignore[arg-type]
    parameters = dict(model.named_parameters())
    banks = {n: m for n, m in loaded.quantized.items() if m.experts}
    assert len(banks) == 4
    for parameter, matrix in banks.items():
        packed, scales = stored.read(parameter), stored.read(f"{parameter}_scales")
        assert packed.shape == matrix.packed.shape and scales.shape == matrix.scales.shape
        for expert in range(matrix.experts or 0):
            wanted = parameters[parameter][expert]
            wanted = wanted.T if matrix.transposed else wanted
            found = dequantize(packed[expert], scales[expert], matrix.weight_format, matrix.rows)
            bound = wanted.abs().max() / (100 if bits == 8 else 6)
            assert (found - wanted).abs().max() <= bound
    if name == "qwen3_moe":  # gate and up of one expert, then those of the next
        ups = [r for r in reads if "layers.0" in r and "down" not in r]
        assert ["experts.1." in r for r in ups[:6]] == [False, False, True, True, False, False]
