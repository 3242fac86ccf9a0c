"""Each family of mixture-of-experts models, tiny and random, against transformers eager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.moe.parity import check_parity, make

import edgec

_QWEN = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
_DEEPSEEK = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 24,
    "rope_interleave": True,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "granitemoe": ("granitemoe", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen3_moe": ("qwen3_moe", {**_QWEN, "head_dim": 16, "norm_topk_prob": True}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "mixtral, all experts": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 4}),
    "olmoe": ("olmoe", {"num_experts": 8, "num_experts_per_tok": 3}),
    "qwen2_moe": ("qwen2_moe", {**_QWEN, "shared_expert_intermediate_size": 56}),
    "gpt_oss": (
        "gpt_oss",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 16,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        {
            "moe_num_experts": 8,
            "moe_k": 2,
            "moe_intermediate_size": 40,
            "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1,
        },
    ),
    "glm4_moe": (
        "glm4_moe",
        {
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "n_group": 2,
            "topk_group": 1,
            "head_dim": 16,
            "first_k_dense_replace": 1,
        },
    ),
    "phimoe": ("phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v2": ("deepseek_v2", {**_DEEPSEEK, "topk_method": "group_limited_greedy"}),
    "deepseek_v3": ("deepseek_v3", _DEEPSEEK),
    "granitemoehybrid": (
        "granitemoehybrid",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 40,
            "layer_types": ["attention", "attention"],
            "position_embedding_type": "rope",
        },
    ),
}

_QUICK = ("granitemoe", "gpt_oss", "deepseek_v3")


@pytest.mark.parametrize(
    "name", [n if n in _QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES]
)
def test_parity(tmp_path: Path, name: str) -> None:
    check_parity(tmp_path, *FAMILIES[name])


@pytest.mark.slow
@pytest.mark.vulkan
@pytest.mark.parametrize("name", ["granitemoe", "qwen3_moe"])
def test_parity_on_vulkan(tmp_path: Path, name: str) -> None:
    family, changes = FAMILIES[name]
    check_parity(tmp_path, family, changes, device="vulkan", target="vulkan:llvmpipe")


@pytest.mark.parametrize("quantize", ["none", pytest.param("int4", marks=pytest.mark.slow)])
def test_compiles_for_cuda(tmp_path: Path, quantize: str) -> None:
    """Parity there needs a GPU: benchmarks/gpu."""
    family, changes = FAMILIES["granitemoe"]
    changes = {**changes, "intermediate_size": 64}
    make(tmp_path / "model", family, changes)
    artifact = edgec.compile(
        str(tmp_path / "model"), target="cuda", layers=1, ctx_size=64, chunk_size=32,
        quantize=quantize, output=tmp_path / "a",
    )  # fmt: skip
    assert artifact is not None and artifact.manifest.model.experts == 8
