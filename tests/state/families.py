"""Tiny random models with state beyond attention, compiled, against transformers eager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import edgec
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files

VOCABULARY = 288
PROMPTS = (1, 31, 32, 33, 70, 200)
STEPS = 16
FOLLOW_UP = 5
TOLERANCE = 1e-4  # of the range of the logits

_BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 24,
    "mamba_chunk_size": 64,
}
_MIXED = {"layer_types": ["linear_attention", "full_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}

FAMILIES: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": _EXPERTS
    | {
        "layer_types": ["conv", "full_attention", "conv"],
        "num_hidden_layers": 3,
        "moe_intermediate_size": 40,
        "num_dense_layers": 1,
        "conv_bias": True,
    },
    "qwen3_next": _EXPERTS
    | _MIXED
    | {
        "head_dim": 16,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 24,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 40,
    },
    "granitemoehybrid": _MAMBA
    | {
        "layer_types": ["linear_attention", "attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 40,
    },
    "mamba": {"state_size": 16, "time_step_rank": 8, "conv_kernel": 4},
    "mamba2": {
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 24,
        "n_groups": 2,
        "chunk_size": 64,
        "expand": 2,
        "intermediate_size": 128,
    },
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 128, "head_dim": 16, "ssm_out_multiplier": 0.5},
    "bamba": _MAMBA | {"attn_layer_indices": [1], "head_dim": 16},
    "jamba": {
        "num_experts": 4,
        "mamba_d_state": 16,
        "mamba_dt_rank": 8,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "minimax": _MIXED | {"num_local_experts": 4, "head_dim": 16, "block_size": 64},
}


def make(folder: Path, family: str, seed: int = 0) -> Any:
    """Saves a random model as a checkpoint and returns it, f32, eager.

    Its recurrences remember tens of tokens: a state that forgot sooner would hide mistakes.
    """
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **(_BASE | FAMILIES[family]))
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.uniform_(-4, 0)
            elif parameter.dim() > 1 or name.endswith("bias"):
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    for name, content in byte_tokenizer_files(VOCABULARY).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return model


def compare(model: Any, session: Any, length: int) -> float:
    """A prompt, decode steps, a follow-up, a step; the largest error in units of the range.

    Raises:
        AssertionError: a greedy token that is not eager's.
    """
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(0, VOCABULARY, (length + FOLLOW_UP,), generator=generator).tolist()
    sequence = session.share().sequence
    tokens, found = ids[:length], []
    step = sequence.extend(tokens)
    for _ in range(STEPS):
        found.append((len(tokens), step.logits()))
        tokens.append(int(found[-1][1].argmax()))
        step = sequence.step(tokens[-1])
    tokens += ids[length:]
    step = sequence.extend(ids[length:])
    found.append((len(tokens), step.logits()))
    tokens.append(int(found[-1][1].argmax()))
    found.append((len(tokens), sequence.step(tokens[-1]).logits()))
    with torch.no_grad():
        eager = model(torch.tensor([tokens])).logits[0].numpy()
    worst = 0.0
    for position, logits in found:
        wanted = eager[position - 1]
        worst = max(worst, float(np.abs(logits - wanted).max() / (wanted.max() - wanted.min())))
        same = logits.argmax() == wanted.argmax()
        assert same, f"prompt {length}, position {position}: error {worst:.1e}"
    return worst


def check(folder: Path, family: str, **options: Any) -> float:
    """Compiles a tiny model and compares it with eager; the largest error."""
    model = make(folder / "model", family)
    artifact = folder / "model.edgec"
    edgec.compile(str(folder / "model"), output=artifact, ctx_size=256, chunk_size=128, **options)
    session = edgec.Session(artifact)
    assert session.artifact.manifest.model.attention == "operator"
    return max(compare(model, session, length) for length in PROMPTS)
