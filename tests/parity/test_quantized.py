"""Quantised bundled models against transformers eager on the dequantised weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edgec import Session
from edgec.artifact import Artifact
from edgec.compiler.targets import parse_targets
from edgec.models.quantize import WeightFormat, dequantize, quantize

FORMATS = [
    ("int8", WeightFormat(8, 32)),
    ("int4", WeightFormat(4, 32)),
    ("int4", WeightFormat(4, 64, True)),
]


def eager_logits(folder: Path, form: WeightFormat, ids: list[int]) -> np.ndarray[Any, Any]:
    """f32[tokens, V] of the model whose matrices went through the format and back."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                pair = quantize(name, parameter, form)
                parameter.copy_(dequantize(*pair, *parameter.shape))
        return model(torch.tensor([ids])).logits[0].numpy()


def check(artifact: Artifact, expected: np.ndarray[Any, Any], ids: list[int], most: float) -> None:
    session = Session(artifact)
    span = expected.max() - expected.min()
    found = [session.prefill(ids[:70])]
    found += [session.decode(token) for token in ids[70:]]
    for position, logits in enumerate(found, start=69):
        assert np.abs(logits - expected[position]).max() <= most * span


@pytest.mark.parametrize(("name", "form"), FORMATS)
@pytest.mark.parametrize(
    ("target", "most"),
    [
        ("cpu:x86_64-linux-gnu", 1e-3),  # generated code: the same sums
        ("cpu", 2e-2),  # kernels, if this CPU has any: activations are rounded to int8
    ],
)
def test_bundled(
    compile_once: Callable[..., Artifact],
    repository: Path,
    name: str,
    form: WeightFormat,
    target: str,
    most: float,
) -> None:
    if parse_targets("cpu")[0].requirements["architecture"] != "x86_64":
        pytest.skip("the baseline program is for x86-64")
    artifact = compile_once(
        f"tiny-dense-{name}{'z' * form.zero_points}-{'base' if ':' in target else 'host'}",
        "bundled:tiny-dense",
        target=target,
        quantize=name,
        group_size=form.group,
        asymmetric=form.zero_points,
    )
    described = artifact.manifest.quantization
    assert described["weights"] == name
    assert described["group_size"] == str(form.group)
    assert described["zero_points"] == ("f16" if form.zero_points else "none")
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 200, (80,), generator=generator).tolist()
    folder = repository / "models" / "bundled" / "tiny-dense"
    check(artifact, eager_logits(folder, form, ids), ids, most)


def test_tied_table_is_stored_once(compile_once: Callable[..., Artifact]) -> None:
    artifact = compile_once(
        "tiny-dense-int4-host", "bundled:tiny-dense", target="cpu", quantize="int4"
    )
    manifest = artifact.manifest
    # 4 bits, and an f16 scale for 32 weights; norms stay f32.
    assert manifest.memory.weights < manifest.model.parameters * 4.6 / 8 * 1.05
