"""Mixtures of experts that cannot be compiled are refused by name, before anything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.moe.parity import BASE, make
from transformers import AutoConfig

import edgec
from edgec.errors import ModelError
from edgec.models.load import load

QWEN = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "head_dim": 16}


def change(folder: Path, edit: Any) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: t.pop("model.layers.1.mlp.experts.3.down_proj.weight"),
            r"1.mlp.experts.down_proj \(made of 3 tensors .*\) is \[3, 64, 40\], not \[4, 64",
        ),
        (
            lambda t: t.pop("model.layers.0.mlp.experts.2.up_proj.weight"),
            r"experts.gate_up_proj \(made of 7 tensors .*do not fit each other",
        ),
        (
            lambda t: t.update(
                {"model.layers.0.mlp.experts.1.gate_proj.weight": torch.zeros(40, 32)}
            ),
            r"experts.gate_up_proj \(made of 8 tensors .*do not fit each other",
        ),
        (
            lambda t: [t.pop(k) for k in list(t) if "layers.1.mlp.experts" in k],
            r"model.layers.1.mlp.experts.gate_up_proj is missing",
        ),
    ],
)
def test_expert_weights(tmp_path: Path, edit: Any, message: str) -> None:
    make(tmp_path / "model", "qwen3_moe", QWEN)
    change(tmp_path / "model", edit)
    with pytest.raises(ModelError, match=message):
        edgec.compile(str(tmp_path / "model"), output=tmp_path / "out", ctx_size=64)
    assert not (tmp_path / "out").exists()


def test_more_experts_per_token_than_experts() -> None:
    config = AutoConfig.for_model("qwen3_moe", **(BASE | QWEN | {"num_experts_per_tok": 5}))
    with pytest.raises(ModelError, match=r"'qwen3_moe': edgec::topk cannot choose 5 of 4"):
        load(config, "f32")


def test_unknown_routing() -> None:
    """Experts called with what is no choice of k experts for each token."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    from edgec.models.plugs.experts import install

    install()
    layer = torch.nn.Module()
    layer.num_experts = 4  # type: ignore[assignment]
    weights = torch.zeros(7, 4)
    with pytest.raises(ModelError, match=r"Module, edgec::grouped_matmul: its routing gives"):
        ALL_EXPERTS_FUNCTIONS["edgec"](layer, torch.zeros(7, 8), torch.zeros(7, 2), weights)
