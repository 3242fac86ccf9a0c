"""Published configurations that edgec knows by name, for models with random weights.

A preset is a model's `config.json` as its authors published it. Its weights are made from a seed
(`edgec.models.weights.source.RandomWeights`), so that a model of any size can be compiled and
measured without a download. This module imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from edgec.models.expert_keys import EXPERT_COUNT_KEYS

__all__ = ["PRESETS", "Preset", "is_moe"]


@dataclass(frozen=True)
class Preset:
    """A published configuration.

    `config` is what its `config.json` holds, and `parameters` the number of weights that it
    makes, tied weights counted once.
    """

    name: str
    hf_id: str
    config: Mapping[str, Any]
    parameters: int

    @property
    def moe(self) -> bool:
        """Whether its feed-forward layers are mixtures of experts."""
        return is_moe(self.config)


def is_moe(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` describes a mixture-of-experts model."""
    for key in EXPERT_COUNT_KEYS:
        count = config.get(key)
        counts = count if isinstance(count, list) else [count]  # some say it layer by layer
        if any(isinstance(c, int) and c > 1 for c in counts):
            return True
    return False


def _qwen2(**shape: Any) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 32768,
        "max_window_layers": 21,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
        **shape,
    }


def _qwen3(**shape: Any) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
        **shape,
    }


def _llama(**shape: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mlp_bias": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **shape,
    }


def _smollm2(**shape: Any) -> dict[str, Any]:
    shared = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "max_position_embeddings": 8192,
        "rope_theta": 100000,
        "vocab_size": 49152,
    }
    return _llama(**{**shared, **shape})


def _pythia(**shape: Any) -> dict[str, Any]:
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": 50304,
        **shape,
    }


_GRANITE_MOE = {
    "architectures": ["GraniteMoeForCausalLM"],
    "model_type": "granitemoe",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_multiplier": 0.015625,
    "bos_token_id": 0,
    "embedding_multiplier": 12.0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "logits_scaling": 6.0,
    "max_position_embeddings": 131072,
    "num_attention_heads": 16,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 0,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1500000.0,
    "router_aux_loss_coef": 0.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 49155,
}

_LFM2_ATTENTION_LAYERS = (2, 6, 10, 14, 18, 21)

_LFM2_MOE = {
    "architectures": ["Lfm2MoeForCausalLM"],
    "model_type": "lfm2_moe",
    "bos_token_id": 1,
    "conv_L_cache": 3,
    "conv_bias": False,
    "eos_token_id": 7,
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 7168,
    "layer_types": [
        "full_attention" if layer in _LFM2_ATTENTION_LAYERS else "conv" for layer in range(24)
    ],
    "max_position_embeddings": 128000,
    "moe_intermediate_size": 1792,
    "norm_eps": 1e-05,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_dense_layers": 2,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "rope_theta": 1000000.0,
    "routed_scaling_factor": 1.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_expert_bias": True,
    "vocab_size": 65536,
}

# Qwen3-30B-A3B with the half of its 128 experts that REAP pruning leaves.
_QWEN3_REAP = {
    **_qwen3(
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_window_layers=48,
        tie_word_embeddings=False,
    ),
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}

_TABLE = (
    Preset(
        "qwen3-0.6b",
        "Qwen/Qwen3-0.6B",
        _qwen3(
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            max_window_layers=28,
            tie_word_embeddings=True,
        ),
        596_049_920,
    ),
    Preset(
        "qwen3-8b",
        "Qwen/Qwen3-8B",
        _qwen3(
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_window_layers=36,
            tie_word_embeddings=False,
        ),
        8_190_735_360,
    ),
    Preset(
        "qwen2.5-0.5b",
        "Qwen/Qwen2.5-0.5B-Instruct",
        _qwen2(
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
        ),
        494_032_768,
    ),
    Preset(
        "qwen2.5-1.5b",
        "Qwen/Qwen2.5-1.5B-Instruct",
        _qwen2(
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
        ),
        1_543_714_304,
    ),
    Preset(
        "llama-3.2-1b",
        "meta-llama/Llama-3.2-1B",
        _llama(
            bos_token_id=128000,
            eos_token_id=128001,
            head_dim=64,
            hidden_size=2048,
            intermediate_size=8192,
            max_position_embeddings=131072,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            rope_scaling={
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            rope_theta=500000.0,
            vocab_size=128256,
        ),
        1_235_814_400,
    ),
    Preset(
        "smollm2-135m",
        "HuggingFaceTB/SmolLM2-135M",
        _smollm2(
            hidden_size=576,
            initializer_range=0.041666666666666664,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
        ),
        134_515_008,
    ),
    Preset(
        "smollm2-360m",
        "HuggingFaceTB/SmolLM2-360M",
        _smollm2(
            hidden_size=960,
            intermediate_size=2560,
            num_hidden_layers=32,
            num_attention_heads=15,
            num_key_value_heads=5,
        ),
        361_821_120,
    ),
    Preset(
        "smollm2-1.7b",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        _smollm2(
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=24,
            num_attention_heads=32,
            num_key_value_heads=32,
            rope_theta=130000,
        ),
        1_711_376_384,
    ),
    Preset(
        "pythia-160m",
        "EleutherAI/pythia-160m",
        _pythia(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
        ),
        162_322_944,
    ),
    Preset(
        "pythia-410m",
        "EleutherAI/pythia-410m",
        _pythia(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
        ),
        405_334_016,
    ),
    Preset(
        "granite-3.1-1b-a400m",
        "ibm-granite/granite-3.1-1b-a400m-instruct",
        _GRANITE_MOE,
        1_334_628_352,
    ),
    Preset("lfm2-8b-a1b", "LiquidAI/LFM2-8B-A1B", _LFM2_MOE, 8_339_929_856),
    Preset("qwen3-reap-15b-a3b", "atbender/Qwen3-REAP-15B-A3B", _QWEN3_REAP, 16_030_316_544),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        p.name: Preset(p.name, p.hf_id, MappingProxyType(dict(p.config)), p.parameters)
        for p in _TABLE
    }
)
"""Every preset by its name."""
