"""What a GGUF file says about its model: configuration, tensor names, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    convert_gguf_tokenizer,
    get_gguf_tokenizer,
)
from transformers.modeling_gguf_pytorch_utils import (
    LlamaTensorProcessor,
    TensorProcessor,
    get_gguf_hf_weights_map,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgec.errors import ModelError
from edgec.models.gguf import GgufFile, GgufWeights
from edgec.models.weights import first_few

__all__ = ["gguf_config", "gguf_tokenizer", "gguf_weights"]

_GRANITE = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
_HEAD = {"attention.key_length": "head_dim"}
_MAPPING: dict[str, Any] = GGUF_CONFIG_MAPPING
_KEYS: dict[str, dict[str, str | None]] = {
    "llama": {**_MAPPING["llama"], **_HEAD},
    "qwen2": _MAPPING["qwen2"],
    "qwen3": {**_MAPPING["qwen3"], **_HEAD},
    "granite": {**_MAPPING["qwen2"], **_GRANITE},
}
"""Architectures that are taken: the file's keys, without the architecture, to the configuration's.

Each is in tests/models/test_gguf.py. Others need more than a renaming of keys.
"""

_PAIRED = ("llama", "granite")
"""The two rows of a rotated pair are neighbours in these files, not half a head apart."""

_ROPE_FREQS = "rope_freqs.weight"


def gguf_config(file: GgufFile) -> Any:
    """The configuration that the metadata describe.

    Raises:
        ModelError: an architecture, or a scaling of positions, that edgec cannot rebuild.
    """
    kind = file.architecture
    if kind not in _KEYS or file.metadata.get(f"{kind}.expert_count", 0):
        experts = " with experts" if kind in _KEYS else ""
        raise ModelError(
            f"{file.path}: architecture {kind}{experts} cannot be imported from GGUF yet",
            f"there are {', '.join(_KEYS)}; compile the original model with --quantize int4",
        )
    values: dict[str, Any] = {
        renamed: file.metadata[f"{kind}.{key}"]
        for key, renamed in _KEYS[kind].items()
        if renamed is not None and f"{kind}.{key}" in file.metadata
    }
    missing = {"num_hidden_layers", "hidden_size", "num_attention_heads"} - values.keys()
    if missing or "token_embd.weight" not in file.tensors:
        raise ModelError(
            f"{file.path}: its metadata lack {', '.join(sorted(missing)) or 'an embedding table'}",
            "download it again",
        )
    values["vocab_size"] = file.tensors["token_embd.weight"].shape[0]
    values["tie_word_embeddings"] = "output.weight" not in file.tensors
    for end in (".attn_q.bias", ".attn_output.bias"):
        if kind in _PAIRED and any(name.endswith(end) for name in file.tensors):
            values["attention_bias"] = True
    for name in ("bos", "eos", "padding"):
        token = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        values[f"{'pad' if name == 'padding' else name}_token_id"] = token
    config = AutoConfig.for_model(kind, **values)
    config.architectures = [type(_meta_model(config)).__name__]
    _scale_positions(file, config)
    return config


def _scale_positions(file: GgufFile, config: Any) -> None:
    """What the file says about longer contexts: `rope.scaling`, or factors for each frequency."""
    kind = file.metadata.get(f"{file.architecture}.rope.scaling.type", "none")
    factor = file.metadata.get(f"{file.architecture}.rope.scaling.factor", 1.0)
    if kind == "linear" and factor != 1.0:
        config.rope_parameters |= {"rope_type": "linear", "factor": float(factor)}
    elif kind != "none" and factor != 1.0:
        raise ModelError(
            f"{file.path}: positions are scaled by {kind}, which is not imported yet",
            "compile the original model with --quantize int4",
        )
    if _ROPE_FREQS in file.tensors:
        config.rope_parameters |= _llama3(file, config)


def _llama3(file: GgufFile, config: Any) -> dict[str, Any]:
    """The parameters of the scaling by which Llama 3 divided its frequencies.

    The file has only the quotients. Those that were published are tried.
    """
    weights = GgufWeights(file, {_ROPE_FREQS: _ROPE_FREQS}, lambda values, _: values)
    divisors = weights.read(_ROPE_FREQS).float()
    plain = {"rope_theta": config.rope_parameters["rope_theta"]}
    for original in (8192, 4096, 2048, 1024, 512, 256, 128):
        found = {
            "rope_type": "llama3",
            "factor": round(float(divisors.max()), 3),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        }
        trial = type(config).from_dict(config.to_dict())
        trial.rope_parameters = plain | found
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](trial, torch.device("cpu"))
        width = 2 * scaled.numel()
        whole = plain["rope_theta"] ** -(torch.arange(0, width, 2).double() / width)
        if torch.allclose((whole / scaled).float(), divisors, rtol=1e-3):
            return found
    raise ModelError(
        f"{file.path}: {_ROPE_FREQS} is not the scaling of a published Llama",
        "compile the original model with --quantize int4",
    )


def gguf_weights(file: GgufFile, config: Any) -> GgufWeights:
    """The file's tensors under transformers' names.

    Raises:
        ModelError: there are tensors that the model has no place for.
    """
    kind: Any = LlamaTensorProcessor if file.architecture in _PAIRED else TensorProcessor
    processor = kind(config.to_dict())
    names = get_gguf_hf_weights_map(_meta_model(config), processor, model_type=file.architecture)
    if unknown := [name for name in file.tensors if name not in names and name != _ROPE_FREQS]:
        raise ModelError(
            f"{file.path}: {file.architecture} has no place for {first_few(unknown)}",
            "compile the original model with --quantize int4",
        )

    def process(values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        made: np.ndarray[Any, Any] = processor.process(weights=values, name=name).weights
        return made

    return GgufWeights(file, names, process)


def gguf_tokenizer(path: Path) -> dict[str, bytes]:
    """`tokenizer.json` and `tokenizer_config.json`, with the chat template.

    Raises:
        ModelError: the file has no vocabulary, or one of a kind that transformers cannot rebuild.
    """
    try:
        architecture, vocabulary, settings = get_gguf_tokenizer(str(path))
        tokenizer, _ = convert_gguf_tokenizer(architecture, vocabulary)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"{path}: its tokenizer cannot be rebuilt: {reason}",
            "compile the original model with --quantize int4",
        ) from None
    kept = {name: value for name, value in settings.items() if value is not None}
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(kept, ensure_ascii=False, indent=2).encode(),
    }


def _meta_model(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
