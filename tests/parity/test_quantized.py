"""Quantised bundled models against transformers eager on the dequantised weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.state.families import make
from transformers import AutoModelForCausalLM

import edgec
from edgec import Session
from edgec.artifact import Artifact
from edgec.compiler.targets import parse_targets
from edgec.compiler.ukernels.reference import quantize_rows
from edgec.models.plugs.linear import narrow_weights
from edgec.models.weights.packing import dequantize
from edgec.models.weights.quantize import quantize
from edgec.weight_formats import WeightFormat

BASELINE = "cpu:x86_64-linux-gnu"  # no kernels
CASES = [
    ("int8", WeightFormat(8, 32), "cpu"),
    ("int8", WeightFormat(8, 32), BASELINE),
    ("int4", WeightFormat(4, 32), "cpu"),
    ("int4", WeightFormat(4, 32), BASELINE),
    ("int4", WeightFormat(4, 64, "zero_point"), "cpu"),
]


def eager_logits(
    folder: Path, form: WeightFormat, ids: list[int], rounded: bool
) -> np.ndarray[Any, Any]:
    """f32[tokens, V] of the model whose matrices went through the format and back.

    With `rounded`, what enters a linear layer is rounded to int8 in blocks of 32, as kernels do.
    """

    def enter(_: Any, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        x = arguments[0].reshape(-1, arguments[0].shape[-1]).numpy()
        q, steps = quantize_rows(x)
        wide = q.reshape(*steps.shape, 32).astype(np.float32) * steps[..., None]
        return (torch.from_numpy(wide).view(arguments[0].shape),)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                pair = quantize(name, parameter, form)
                parameter.copy_(dequantize(*pair, form, parameter.shape[0]))
        for module in model.modules():
            if rounded and type(module) is torch.nn.Linear:
                module.register_forward_pre_hook(enter)
        return model(torch.tensor([ids])).logits[0].numpy()


def check(artifact: Artifact, expected: np.ndarray[Any, Any], ids: list[int], most: float) -> None:
    session = Session(artifact)
    span = expected.max() - expected.min()
    found = [session.prefill(ids[:70])]
    found += [session.decode(token) for token in ids[70:]]
    for position, logits in enumerate(found, start=69):
        assert np.abs(logits - expected[position]).max() <= most * span


@pytest.mark.parametrize(("name", "form", "target"), CASES)
def test_bundled(
    compile_once: Callable[..., Artifact],
    repository: Path,
    name: str,
    form: WeightFormat,
    target: str,
) -> None:
    """Generated code to the rounding of sums; a kernel to an activation rounded the other way."""
    if parse_targets("cpu")[0].requirements["architecture"] != "x86_64":
        pytest.skip("the baseline program is for x86-64")
    artifact = compile_once(
        f"tiny-dense-{name}{form.offset}-{'base' if ':' in target else 'host'}",
        "bundled:tiny-dense",
        target=target,
        quantize=name,
        group_size=form.group,
        asymmetric=bool(form.offset),
    )
    described = artifact.manifest.quantization
    assert described["weights"] == name
    assert described["group_size"] == str(form.group)
    assert described["zero_points"] == ("f16" if form.offset else "none")
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 200, (80,), generator=generator).tolist()
    folder = repository / "models" / "bundled" / "tiny-dense"
    rounded = "i8" in described["activations"]
    most = 8e-3 if rounded else 1e-3
    check(artifact, eager_logits(folder, form, ids, rounded), ids, most)


def test_a_quantised_layer_shows_the_type_of_its_weights() -> None:
    """Mamba converts what enters lm_head to `lm_head.weight.dtype`."""
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Embedding(96, 64), torch.nn.Linear(64, 96))
    narrow_weights(model, torch.float32, WeightFormat(8, 32))
    for layer in model:
        assert (layer.weight.dtype, layer.weight.shape) == (torch.float32, (96, 64))
    assert {p.dtype for n, p in model.named_parameters() if n[2:] == "weight"} == {torch.int8}


@pytest.mark.slow
def test_activations_that_the_model_converts(tmp_path: Path) -> None:
    make(tmp_path / "model", "mamba2")
    output = tmp_path / "model.edgec"
    edgec.compile(str(tmp_path / "model"), target=BASELINE, quantize="int8", output=output)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 288, (80,), generator=generator).tolist()
    wanted = eager_logits(tmp_path / "model", WeightFormat(8, 32), ids, False)
    check(Artifact.open(output), wanted, ids, 1e-3)


def test_tied_table_is_stored_once(compile_once: Callable[..., Artifact]) -> None:
    artifact = compile_once(
        "tiny-dense-int4-host", "bundled:tiny-dense", target="cpu", quantize="int4"
    )
    manifest = artifact.manifest
    # 4 bits, and an f16 scale for 32 weights; norms stay f32.
    assert manifest.memory.weights < manifest.model.parameters * 4.6 / 8 * 1.05
