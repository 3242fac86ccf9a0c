"""A tiny configuration of any causal-LM family, made by rule from its configuration's fields.

What the fields are called says what they are: sizes shrink, windows become shorter than a prompt
of 70 tokens, and of the layers so many are kept that each kind there is occurs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from edgec.errors import ModelError
from edgec.models.tiny_table import NOT_TEXT, SETTINGS

__all__ = [
    "VOCABULARY",
    "causal_families",
    "not_a_text_decoder",
    "shrunk",
    "tiny_config",
    "tiny_model",
]

VOCABULARY = 288
CONTEXT = 256
WINDOW = 24
_LEAST_LAYERS = 2
_MOST_PARAMETERS = 4_000_000
_SPECIAL = 256  # what the byte tokenizer has for the end of the text

# Field name to value, the first pattern that matches. Other numbers stay as they are. `min`: a
# family that has less of it keeps less.
_SIZES: tuple[tuple[str, int], ...] = (
    (r"hidden_size|n_embd|d_model|embed_dim|emb_dim|hidden_dim", 64),
    (r"intermediate_size|n_inner|ffn_dim|decoder_ffn_dim|encoder_ffn_dim|d_inner|dim_ff|dff", 96),
    (r"(dense|shared)_?intermediate_size|intermediate_size_mlp|ffn_hidden_size", 96),
    (r"(.*_)?(head_dim|head_width|dim_head|kv_channels)", 16),
    (r"qk_rope_head_dim|rotary_dim", 8),
    (r".*lora_rank|.*_lowrank|gated_norm_rank|laurel_rank|adapter_rank", 24),
    (r"(moe|shared_expert.*|expert_ffn|moe_shared_expert)_?(intermediate|hidden)_size", 48),
    (r"(.*_)?(num_experts|routed_experts|num_local_experts)", 8),
    (r"num_experts_per_tok(en)?|moe_topk|moe_top_k|moe_k|top_k_experts", 2),
    (r"n_group|num_expert_group", 2),
    (r"topk_group", 1),
    (r".*(sliding_window|sliding_window_size|local_attention|attention_chunk_size)", WINDOW),
    (r"window_size|attention_window_size|local_attention_window_len", WINDOW),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length", CONTEXT),
    (r"seq_length|max_target_positions|max_source_positions|model_max_length", CONTEXT),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    (r".*(_period|_interval|_every_n_layers|sparse_step|_layer_step)", 2),
    (r"index_topk", 32),
    # So many that no key scores 0 with all of them: which of such keys is chosen, is chance.
    (r"index(er)?_n_heads", 16),
    (r"(mamba_)?(d_state|state_size)|ssm_state_size", 16),
    (r"(mamba_)?chunk_size", 16),
    (r"mamba_(n_heads|num_heads)|n_mamba_heads", 8),
    (r"mamba_(d_head|headdim|head_dim)", 16),
    (r"(mamba_)?n_?groups", 2),
    (r"linear_num_key_heads", 2),
    (r"linear_num_value_heads|linear_num_heads", 4),
    (r"hidden_size_per_layer_input", 16),
    (r"lru_width", 64),
    (r".*_offset", 1),
    (r"mamba_d_ssm", 128),
    (r"type_vocab_size", 2),
    (r".*vocab_size.*", VOCABULARY),
)
_EXACT = {"head_dim", "hidden_size", "intermediate_size"}
# What families leave open but cannot do without.
_NEEDED = {"head_dim", "num_experts_per_tok", "n_routed_experts", "num_key_value_heads"}
_NOT_KEPT = {"dtype", "model_type", "quantization_config", "transformers_version"}
# A width that some families derive from two others, and some may be given beside them.
_HEAD_PARTS = ("qk_head_dim", "qk_nope_head_dim", "qk_rope_head_dim")
_HEADS = 4
_KEY_VALUE_HEADS = 2


def causal_families() -> tuple[str, ...]:
    """The model types that transformers maps to a causal language model, sorted."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def not_a_text_decoder(family: str) -> str:
    """Why a family cannot be compared as a decoder of text alone; empty if it can."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if family in NOT_TEXT:
        return NOT_TEXT[family]
    named: Any = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]
    other = sorted(
        name.removesuffix("_config")
        for name in getattr(CONFIG_MAPPING[family], "sub_configs", {})
        if name != "text_config"
    )
    more = [n for n in other if n in ("audio", "image", "speech", "video", "vision", "vq", "vqgan")]
    whole = getattr(import_module("transformers"), str(named)).config_class
    if more and whole is CONFIG_MAPPING[family]:
        return f"takes more than text: {', '.join(more)}"
    return ""


def tiny_config(family: str) -> Any:
    """The configuration: of random weights, with a vocabulary of 288 and a context of 256.

    Raises:
        ModelError: transformers refuses the configuration made by these rules.
    """
    from transformers import CONFIG_MAPPING

    settings = SETTINGS.get(family, {})
    kind = CONFIG_MAPPING[family]
    try:
        default = kind(**settings.get("default", {}))
        text = default.get_text_config(decoder=True)
        parts = [n for n in kind.sub_configs if getattr(default, n, None) is text]
        if not parts:  # itself, or a copy without the encoder's fields
            return shrunk(default, settings)
        name = parts[0]
        small = shrunk(text, settings).to_dict()
        others = {
            n: _smaller(sub.to_dict(), text.hidden_size, small.get("hidden_size", 0))
            for n in kind.sub_configs
            if n != name and (sub := getattr(default, n, None)) is not None
        }
        return kind(**{name: small, **others})
    except Exception as error:  # transformers validates with errors of many unrelated types
        text_ = " ".join(str(error).split())
        raise ModelError(
            f"tiny configuration of {family}: {type(error).__name__}: {text_}"
        ) from None


def tiny_model(config: Any, seed: int = 0, *, trust_remote_code: bool = False) -> Any:
    """transformers' own module with random weights, wide enough that a wrong mask shows.

    With transformers' usual spread of 0.02 attention is nearly uniform, and norms and biases are
    ones and zeros: leaving any of them out would hardly change a result.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), trust_remote_code=trust_remote_code
        )
    if (count := sum(p.numel() for p in empty.parameters())) > _MOST_PARAMETERS:
        raise ModelError(
            f"tiny configuration of {config.model_type}: {count} parameters are not tiny",
            "teach models/tiny.py what its fields mean",
        )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", trust_remote_code=trust_remote_code
    ).eval()
    persistent = set(model.state_dict())
    buffers = {n: b for n, b in model.named_buffers() if n in persistent}
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *buffers.items()):
            if not tensor.is_floating_point():
                continue
            if not bool(torch.isfinite(tensor).all()):
                tensor.normal_(0, 0.1)
            elif tensor.ndim < 2 or float(tensor.std()) == 0:
                tensor.add_(torch.randn_like(tensor) * (0.2 if "bias" in name else 0.1))
            elif (spread := float(tensor.std())) < 0.2 and abs(float(tensor.mean())) < spread / 2:
                tensor.mul_(0.2 / spread)
    return model


def shrunk(default: Any, settings: dict[str, Any] | None = None) -> Any:
    """A configuration of the same kind, made small by the rules.

    Args:
        default: Any transformers configuration of a text model; it is not changed.
        settings: See `SETTINGS`; those of its model type if None.
    """
    from transformers import PreTrainedConfig

    settings = SETTINGS.get(default.model_type, {}) if settings is None else settings
    values = default.to_dict()
    unset = type(default)(**settings.get("default", {})).to_dict()
    names = {v: k for k, v in default.attribute_map.items()}
    total_key = default.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    total = values.get(total_key)
    changes: dict[str, Any] = {
        key: value
        for key, value in values.items()
        if isinstance(value, bool | str | float | dict | None)
        and not (key in default.sub_configs or key.startswith("_") or key in _NOT_KEPT)
        and unset.get(key, value) != value
    }
    changes |= dict(_sizes(values, names))
    if all(key in values for key in _HEAD_PARTS):
        changes["qk_head_dim"] = sum(changes[key] for key in _HEAD_PARTS[1:])
    if isinstance(total, int):
        changes |= _layers(values, total_key, total)
    ids = {
        key: values[key] if _is_id(values[key]) else _SPECIAL
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if isinstance(values.get(key), int | list)
    }
    changes |= ids | {"vocab_size": VOCABULARY}
    if "is_decoder" in values:
        changes["is_decoder"] = True
    for name in default.sub_configs:
        if isinstance(part := getattr(default, name, None), PreTrainedConfig):
            changes[name] = {**part.to_dict(), **dict(_sizes(part.to_dict(), {}))}
    changes |= settings.get("set", {})
    return type(default)(**{**settings.get("default", {}), **changes})


def _is_id(value: Any) -> bool:
    """Whether a token id is in the vocabulary and taken by no text: embeddings may depend on it."""
    return isinstance(value, int) and 0 <= value < VOCABULARY


def _sizes(values: dict[str, Any], names: dict[str, str]) -> Iterator[tuple[str, int | list[int]]]:
    heads = kv_heads = None
    for key, value in values.items():
        name = names.get(key, key)
        if value is None and name in _NEEDED:
            value = 1 << 30
        if isinstance(value, list) and value and all(type(v) is int for v in value):
            sizes = [size for pattern, size in _SIZES if re.fullmatch(pattern, name)]
            if sizes and "layer" not in name:
                yield key, [min(v, sizes[0]) for v in value]
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if re.fullmatch(r"(.*_)?(num_attention_heads|attention_heads|n_heads?|num_heads)", name):
            heads = value if name == "num_attention_heads" else heads
            if "mamba" not in name and "linear" not in name and "index" not in name:
                yield key, _HEADS
                continue
        if re.fullmatch(r"(.*_)?(num_key_value_heads|num_kv_heads|num_query_groups)", name):
            kv_heads = value
            whole = heads is not None and kv_heads == heads
            yield key, _HEADS if whole else min(value, _KEY_VALUE_HEADS)
            continue
        for pattern, size in _SIZES:
            if re.fullmatch(pattern, name):
                yield key, size if name in _EXACT else min(value, size)
                break


def _layers(values: dict[str, Any], key: str, total: int) -> dict[str, Any]:
    """Sizes with as many layers as there are kinds, by all that is listed layer by layer."""
    small: dict[str, Any] = dict(_sizes(values, {}))
    lists = {
        k: small.get(k, v) for k, v in values.items() if isinstance(v, list) and len(v) == total
    }
    indices = {
        k for k, v in lists.items() if v == sorted(set(v)) and all(type(i) is int for i in v)
    }
    lists = {k: v for k, v in lists.items() if k not in indices}
    shared = values.get("num_kv_shared_layers") or 0
    own = total - shared if isinstance(shared, int) else total
    first: dict[str, int] = {}
    for index in range(own):
        first.setdefault(repr([v[index] for v in lists.values()]), index)
    kept = sorted(first.values())
    while len(kept) < _LEAST_LAYERS:
        kept.append(kept[-1])
    changes: dict[str, Any] = {}
    if shared:
        changes["num_kv_shared_layers"] = len(kept)
        kept = kept * 2
    changes |= {name: [value[i] for i in kept] for name, value in lists.items()}
    changes |= {name: list(range(len(kept))) for name in indices}
    for name, value in values.items():
        if _is_by_layer(value):
            one = {int(i): part | dict(_sizes(part, {})) for i, part in value.items()}
            for part in one.values():
                if part.keys() & {"head_dim", *_HEAD_PARTS} and _HEAD_PARTS[1] in small:
                    part["head_dim"] = sum(part.get(k, small.get(k, 0)) for k in _HEAD_PARTS[1:])
            changes[name] = {new: one[old] for new, old in enumerate(kept) if old in one}
    return changes | {key: len(kept)}


def _is_by_layer(value: Any) -> bool:
    """Whether it has settings of some layers, by their number."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(str(key).isdecimal() and isinstance(part, dict) for key, part in value.items())
    )


def _smaller(values: dict[str, Any], width: int, small: int) -> dict[str, Any]:
    """A part of a composite configuration that nothing here runs: cheap to build is enough.

    What it gives out must be as wide as the text model, which was `width` and is `small`.
    """
    total = values.get("num_hidden_layers", values.get("depth"))

    def first(key: str, value: Any) -> Any:
        """A value for all layers, cut down to one layer."""
        if key in ("num_hidden_layers", "depth"):
            return 1
        if "out" in key and value == width:
            return small
        if isinstance(value, list) and len(value) == total:
            return value[:1]
        if _is_by_layer(value):
            return {k: v for k, v in value.items() if int(k) < 1}
        return value

    return {key: first(key, value) for key, value in values.items()}
