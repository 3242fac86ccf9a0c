"""Configuration, tensor names and tokenizer of the model in a GGUF file.

What a key means, and what holds where it is missing, is as in llama.cpp's `llama-model.cpp`.
"""

from __future__ import annotations

import math
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import (
    Gemma2TensorProcessor,
    LlamaTensorProcessor,
    TensorProcessor,
)

from edgec.errors import ModelError
from edgec.models.gguf.header import DAMAGED, shown
from edgec.models.gguf.keys import ModelKeys
from edgec.models.gguf.rope import ROPE_FREQS, rope_parameters
from edgec.models.gguf.tokenizer import tokenizer_files
from edgec.models.gguf.weights import GgufFile, GgufWeights
from edgec.models.weights.source import first_few

__all__ = ["gguf_config", "gguf_tokenizer", "gguf_weights"]

_ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "granite": "granite",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
"""Architectures that are taken, with transformers' name for each.

Each is in tests/models/gguf/test_gguf.py. Others need more than a renaming of keys.
"""

_PAIRED = ("llama", "granite")
"""The two rows of a rotated pair are neighbours in these files, not half a head apart."""

_GEMMA = ("gemma", "gemma2", "gemma3")
"""The scales of norms are stored with 1 added."""

_EMBEDDINGS, _HEAD = "token_embd.weight", "output.weight"
_REMEDY = "compile the original model with --quantize int4"


def gguf_config(file: GgufFile) -> Any:
    """The configuration that the metadata describe.

    Raises:
        ModelError: an architecture, a key or a scaling of positions that edgec cannot rebuild, or
            numbers that do not fit together or the tensors.
    """
    kind = file.architecture
    keys = ModelKeys(file.header, kind)
    experts = f"{kind}.expert_count" in file.metadata and file.metadata[f"{kind}.expert_count"] != 0
    if kind not in _ARCHITECTURES or experts:
        said = kind if len(kind) < 40 and kind.isprintable() else shown(kind)
        raise ModelError(
            f"{file.path}: architecture {said}{' with experts' * experts} cannot be imported from "
            "GGUF yet",
            f"there are {', '.join(_ARCHITECTURES)}; {_REMEDY}",
        )
    values = _values(file, keys)
    values |= _multipliers(keys, kind) | _gemma(keys, kind, values)
    for end in (".attn_q.bias", ".attn_output.bias"):
        if kind != "qwen2" and any(name.endswith(end) for name in file.tensors):
            values["attention_bias"] = True
    vocabulary = file.vocabulary
    if len(vocabulary.tokens) > values["vocab_size"]:
        raise ModelError(
            f"{file.path}: {len(vocabulary.tokens)} tokens, {_EMBEDDINGS} has "
            f"{values['vocab_size']}",
            DAMAGED,
        )
    ends = vocabulary.ends()
    values["bos_token_id"] = vocabulary.id_of("bos")
    values["pad_token_id"] = vocabulary.id_of("padding")
    values["eos_token_id"] = ends if len(ends) > 1 else ends[0] if ends else None
    try:
        config = AutoConfig.for_model(_ARCHITECTURES[kind], **values)
        whole = config.rope_parameters.get("full_attention", config.rope_parameters)
        whole |= rope_parameters(file, keys, config)
        config.architectures = [type(_meta_model(config)).__name__]
    except ModelError:
        raise
    except Exception as error:  # transformers validates with errors of many unrelated types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{file.path}: transformers cannot build it: {reason}", DAMAGED) from None
    keys.refuse_others()
    return config


def _values(file: GgufFile, keys: ModelKeys) -> dict[str, Any]:
    """The configuration's sizes, which must be those of the tensors."""
    table = file.tensors.get(_EMBEDDINGS)
    if table is None or len(table.shape) != 2:
        raise ModelError(f"{file.path}: no embedding table ({_EMBEDDINGS})", DAMAGED)
    blocks = {name.split(".")[1] for name in file.tensors if name.startswith("blk.")}
    layers = keys.count("block_count")
    if layers != len(blocks):
        raise ModelError(
            f"{file.path}: {layers} blocks by {file.architecture}.block_count, {len(blocks)} in "
            "its tensors",
            DAMAGED,
        )
    width = keys.count("embedding_length")
    if width != table.shape[1]:
        raise ModelError(
            f"{file.path}: {file.architecture}.embedding_length is {width}, {_EMBEDDINGS} has "
            f"{table.shape[1]}",
            DAMAGED,
        )
    heads = keys.count("attention.head_count")
    shared = keys.count("attention.head_count_kv", heads)
    head = keys.count("attention.key_length", max(1, width // heads))
    if heads % shared or head % 2:
        raise ModelError(
            f"{file.path}: {heads} heads of {head} with {shared} for keys do not fit", DAMAGED
        )
    keys.expect("attention.value_length", head, f"heads of keys have {head}")
    keys.expect("rope.dimension_count", head, f"positions turn whole heads, of {head}")
    keys.expect("attention.causal", True, "only causal models generate")
    keys.expect("expert_count", 0, "experts are not imported")
    base = keys.positive("rope.freq_base", 10000.0)
    return {
        "vocab_size": table.shape[0],
        "tie_word_embeddings": _HEAD not in file.tensors,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": keys.count("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "head_dim": head,
        "max_position_embeddings": keys.count("context_length", most=1 << 31),
        "rms_norm_eps": keys.positive("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
    }


def _multipliers(keys: ModelKeys, kind: str) -> dict[str, float]:
    """Granite's. 0 stands for none; of attention, for the usual one."""
    if kind != "granite":
        return {}
    keys.expect("rope.scaling.finetuned", True, "a model without positions is not imported")
    head = keys.count("attention.key_length", 1)
    if "attention.key_length" not in keys:
        head = keys.count("embedding_length") // keys.count("attention.head_count")
    return {
        "attention_multiplier": keys.number("attention.scale", 0.0) or 1 / math.sqrt(head),
        "embedding_multiplier": keys.number("embedding_scale", 0.0) or 1.0,
        "residual_multiplier": keys.number("residual_scale", 0.0) or 1.0,
        "logits_scaling": keys.number("logit_scale") or 1.0,
    }


def _gemma(keys: ModelKeys, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """Gemma's windows, caps and scale of attention. Which layers have windows, the file leaves out.

    The largest of each generation scales by the width of the model, the others by that of a head.
    """
    if kind not in _GEMMA or kind == "gemma":
        return {}
    largest = {"gemma2": 46, "gemma3": 62}[kind]
    heads, width = values["num_attention_heads"], values["hidden_size"]
    scale = width // heads if values["num_hidden_layers"] == largest else values["head_dim"]
    found = {
        "query_pre_attn_scalar": scale,
        "sliding_window": keys.count("attention.sliding_window"),
        "final_logit_softcapping": keys.number("final_logit_softcapping", 0.0) or None,
    }
    if kind == "gemma2":
        found["attn_logit_softcapping"] = keys.number("attn_logit_softcapping", 0.0) or None
        return found
    local = keys.positive("rope.freq_base_swa", 10000.0)
    found["rope_parameters"] = {
        "full_attention": values["rope_parameters"],
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }
    return found


def gguf_weights(file: GgufFile, config: Any) -> GgufWeights:
    """The file's tensors under transformers' names.

    Raises:
        ModelError: tensors are missing, of another shape, or more than the model has a place for.
    """
    kind: Any = TensorProcessor
    if file.architecture in _PAIRED:
        kind = LlamaTensorProcessor
    elif file.architecture in _GEMMA:
        kind = Gemma2TensorProcessor
    processor = kind(config.to_dict())
    model = _meta_model(config)
    names = _names(model, file.architecture)
    if unknown := [name for name in file.tensors if name not in names and name != ROPE_FREQS]:
        raise ModelError(
            f"{file.path}: {file.architecture} has no place for {first_few(unknown)}", _REMEDY
        )
    tied = {_HEAD} if config.tie_word_embeddings else set()
    if missing := [name for name in names if name not in file.tensors.keys() | tied]:
        raise ModelError(f"{file.path}: tensors missing: {first_few(missing)}", DAMAGED)

    def process(values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        made: np.ndarray[Any, Any] = processor.process(weights=values, name=name).weights
        return made

    # What is done to them moves rows about, and needs the right number of them.
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for stored, name in names.items():
        if stored in file.tensors and file.tensors[stored].shape != wanted[name]:
            raise ModelError(
                f"{file.path}: {stored} is {list(file.tensors[stored].shape)}, by the metadata "
                f"{list(wanted[name])}",
                DAMAGED,
            )
    return GgufWeights(file, names, process)


def _names(model: Any, architecture: str) -> dict[str, str]:
    """Name in the file to transformers' name, by the `gguf` package's table."""
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    names = {}
    for name in model.state_dict():
        stored = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None and name in model.all_tied_weights_keys:
            continue  # an architecture whose head is always tied has no name for it
        if stored is None:
            raise ModelError(f"{architecture}: the gguf package has no name for {name}", _REMEDY)
        names[stored] = name
    return names


def gguf_tokenizer(file: GgufFile) -> dict[str, bytes]:
    """`tokenizer.json` and `tokenizer_config.json`, with the chat template.

    Raises:
        ModelError: the file has no vocabulary, or one that cannot be used.
    """
    return tokenizer_files(file.vocabulary)


def _meta_model(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)
