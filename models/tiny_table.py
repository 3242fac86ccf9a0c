"""Facts of families that the rules of `edgec.models.tiny` cannot know, each with the reason."""

from __future__ import annotations

from typing import Any

__all__ = ["NOT_TEXT", "SETTINGS"]

NOT_TEXT: dict[str, str] = {
    "emu3": "takes more than text: its text model has no causal class of its own",
    "fuyu": "takes more than text: images",
    "gemma4_assistant": "a draft model: takes another model's hidden states, not text alone",
    "gemma4_unified_assistant": "a draft model: takes another model's hidden states, not text",
    "git": "takes more than text: images",
    "mllama": "takes more than text: its text model attends to an image encoder",
    "moshi": "speech: audio codes beside the text",
    "musicgen": "makes audio codes, not text",
    "musicgen_melody": "makes audio codes, not text",
    "whisper": "a decoder of audio: its text model attends to an audio encoder",
}
"""Families that are no decoders of text alone, where no field of the configuration says so."""

SETTINGS: dict[str, dict[str, Any]] = {
    # All its layers are of one kind, unless others are named.
    "bamba": {"set": {"attn_layer_indices": [1]}},
    # Its default rope is not one for each type of layer, which the model then looks up.
    "cohere_compass_text": {
        "set": {
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        }
    },
    # The attention's part has no base for the rotation of its own.
    "dbrx": {"set": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}}},
    "dots1": {"set": {"n_routed_experts": 8, "n_shared_experts": 1}},
    "falcon_h1": {"set": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128}},
    "granitemoehybrid": {"set": {"layer_types": ["linear_attention", "full_attention"]}},
    # Its layers count as two each, and experts that do nothing as experts.
    "longcat_flash": {"set": {"num_layers": 1, "zero_expert_num": 4}},
    "lfm2_moe": {"set": {"layer_types": ["conv", "full_attention"]}},
    "mamba2": {"set": {"num_heads": 8, "head_dim": 16}},
    # Every third of its layers attends.
    "recurrent_gemma": {"set": {"num_hidden_layers": 3}},
    "xmod": {"set": {"default_language": "en_XX"}},
    # What its layers share is shared by two of them at least.
    "zamba": {
        "set": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", *["hybrid"] * 2]}
    },
}
"""By family: `default`: fields without which there is no default; `set`: fields to give."""
