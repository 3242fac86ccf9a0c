"""GGUF files of small models and vocabularies, laid out as llama.cpp's converter does.

`raw_gguf` writes a header byte by byte, for those that no converter would write.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

Type = gguf.GGMLQuantizationType
Value = gguf.GGUFValueType
_PAIRED = ("llama", "granite")


def write_gguf(
    path: Path,
    model: Any,
    kind_of: Callable[[str], Any],
    *,
    rope_factors: np.ndarray[Any, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    tensors_in_part: int = 0,
) -> None:
    """Writes a transformers model, and makes its matrices what the file then holds of them.

    Args:
        path: New file.
        model: A llama, qwen2, qwen3, granite or gemma; its matrices are changed.
        kind_of: Name in the file of a matrix to its type. Of types that the gguf package does not
            write, the integers are random.
        rope_factors: What becomes `rope_freqs.weight`.
        metadata: More keys, or others; None takes one away. A tuple is a value and its type.
        tensors_in_part: Of several files; 0 for one.
    """
    config = model.config
    family = config.model_type.removesuffix("_text")
    writer = gguf.GGUFWriter(str(path), family, split_max_tensors=tensors_in_part)
    _describe(writer, config)
    _vocabulary(writer, config)
    put(writer, metadata or {})
    architecture = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[family]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        heads = 0
        if family in _PAIRED and ".q_proj." in name:
            heads = config.num_attention_heads
        elif family in _PAIRED and ".k_proj." in name:
            heads = config.num_key_value_heads
        data = parameter.detach().float().numpy()
        if heads:
            data = data.reshape(heads, 2, -1, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
        if parameter.ndim == 1:
            writer.add_tensor(stored, data + ("gemma" in family))
            continue
        kind = kind_of(stored)
        raw = blocks(data, kind)
        writer.add_tensor(stored, raw, raw_dtype=kind)
        data = gguf.dequantize(raw, kind).reshape(data.shape)
        if heads:
            data = data.reshape(heads, -1, 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(data.copy()))
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def put(writer: Any, metadata: dict[str, Any]) -> None:
    """Adds keys, or replaces them; None takes one away."""
    kinds = {str: Value.STRING, bool: Value.BOOL, int: Value.UINT32, float: Value.FLOAT32}
    for key, value in metadata.items():
        writer.kv_data[0].pop(key, None)
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            value, kind = value if isinstance(value, tuple) else (value, kinds[type(value)])
            writer.add_key_value(key, value, kind)


def write_vocabulary(path: Path, metadata: dict[str, Any]) -> Path:
    """Writes a file that has a vocabulary and no tensors."""
    writer = gguf.GGUFWriter(str(path), "llama")
    put(writer, metadata)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def raw_gguf(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """The bytes of a file.

    Args:
        keys: From `raw_key`.
        tensors: From `raw_tensor`.
        data: What follows, at the next multiple of 32.
        version: Of the format.
        counts: What it says of the numbers of tensors and keys; the true ones if None.
    """
    found = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, *found) + b"".join((*keys, *tensors))
    return head + b"\0" * (-len(head) % 32) + data


def raw_text(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


def raw_key(name: str, kind: int, value: bytes) -> bytes:
    return raw_text(name.encode()) + struct.pack("<I", kind) + value


def raw_array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def raw_tensor(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return raw_text(name.encode()) + sizes + struct.pack("<IQ", kind, offset)


def blocks(data: np.ndarray[Any, Any], kind: Any) -> np.ndarray[Any, Any]:
    """The values as a type's blocks, u8 `[rows, bytes]`; floats as they are."""
    try:
        made: np.ndarray[Any, Any] = gguf.quants.quantize(data, kind)
        return made
    except NotImplementedError:
        pass
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(data.size)
    raw = generator.integers(0, 256, (data.size // per_block, size), dtype=np.uint8)
    half = generator.uniform(1e-4, 4e-4, (len(raw), 2)).astype(np.float16).view(np.uint8)
    if kind == Type.Q6_K:
        raw[:, -2:] = half[:, :2]
    else:  # Q4_K, Q5_K: the scale of scales, then that of minima
        raw[:, :4] = half.reshape(-1, 4)
        raw[:, 8] |= 1
        raw[::7, 4] &= 0xC0  # a group without a scale, but with a minimum
    return raw.reshape(data.shape[0], -1)


def _describe(writer: Any, config: Any) -> None:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    rope = config.rope_parameters
    writer.add_rope_freq_base(float(rope.get("full_attention", rope)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(float(rope["sliding_attention"]["rope_theta"]))
    if config.model_type in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type == "granite":
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def _vocabulary(writer: Any, config: Any) -> None:
    """Bytes in the spelling of byte-level vocabularies, a merge, and an end of text."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    spelling = list(bytes_to_unicode().values())
    tokens = [*spelling, "<|end|>", "th"]
    tokens += [f"[unused{i}]" for i in range(len(tokens), config.vocab_size)]
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    kinds[len(spelling)] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(len(spelling))
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages[0]['content'] }}")
