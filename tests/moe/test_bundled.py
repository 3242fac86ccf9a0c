"""`bundled:tiny-moe`, whose router was trained, against transformers eager on each target."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.moe.parity import check_generation, round_weights
from transformers import AutoModelForCausalLM

import edgec
from edgec.artifact import Artifact

IDLE = 4 * 6 * 3 * 256 * 256
"""In each of 4 layers 6 of 8 experts, each with three matrices of 256 by 256."""


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "models" / "bundled" / "tiny-moe"


@pytest.fixture
def eager(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    ).eval()


def test_parity(tiny_moe_artifact: Artifact, eager: Any) -> None:
    check_generation(edgec.Session(tiny_moe_artifact), eager, "tiny-moe, cpu", 1e-4)


@pytest.mark.vulkan
@pytest.mark.xdist_group("vulkan")
def test_parity_on_vulkan(compile_once: Callable[..., Artifact], eager: Any) -> None:
    artifact = compile_once(
        "tiny-moe-vulkan", "bundled:tiny-moe", target="vulkan:llvmpipe", ctx_size=256, chunk_size=64
    )
    check_generation(edgec.Session(artifact), eager, "tiny-moe, vulkan", 1e-4)


def test_quantized_with_kernels(
    compile_once: Callable[..., Artifact], folder: Path, eager: Any
) -> None:
    """The host's kernels, if it has any, round activations: close, and the same text."""
    artifact = compile_once(
        "tiny-moe-int8", "bundled:tiny-moe", target="cpu", quantize="int8", ctx_size=64,
        chunk_size=64,
    )  # fmt: skip
    # 8 bits, and an f16 scale for 32 weights; routers and norms stay f32.
    manifest = artifact.manifest
    assert manifest.memory.weights < manifest.model.parameters * 8.5 / 8 * 1.01
    assert manifest.model.active_parameters == manifest.model.parameters - IDLE
    assert manifest.quantization["unquantized"].count("router") == manifest.model.layers
    round_weights(folder, eager, 8)
    session = edgec.Session(artifact)
    ids = session.encode("And the children of Israel went up out of the land of")
    with torch.no_grad():
        wanted = eager(torch.tensor([ids])).logits[0].numpy()
    span = wanted.max() - wanted.min()
    found = [session.prefill(ids[:5]), *(session.decode(token) for token in ids[5:])]
    for position, logits in enumerate(found, start=4):
        assert np.abs(logits - wanted[position]).max() <= 2e-2 * span
    assert np.argmax(found[-1]) == np.argmax(wanted[-1])


def test_what_inspect_says(
    tiny_moe_artifact: Artifact, run_edgec: Callable[..., Any], folder: Path
) -> None:
    manifest = tiny_moe_artifact.manifest
    training = json.loads((folder / "training.json").read_text("utf-8"))
    assert manifest.model.parameters == training["parameters"]
    assert manifest.model.parameters - manifest.model.active_parameters == IDLE
    assert manifest.memory.weights - manifest.memory.weights_per_token == 4 * IDLE
    shown = run_edgec("inspect", tiny_moe_artifact.path).stdout
    assert "8 a layer, 2 for each token" in shown and "7.5 M, 2.8 M active" in shown


def test_demo(tiny_moe_artifact: Artifact, run_edgec: Callable[..., Any]) -> None:
    """The demo: greedy text goes on from the prompt, in the words of the book."""
    done = run_edgec("run", tiny_moe_artifact.path, "-p", "In the", "-n", "32", "--temperature", 0)
    assert done.returncode == 0
    assert done.stdout.startswith(" beginning of the reign of")
