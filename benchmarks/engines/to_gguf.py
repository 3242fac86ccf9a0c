"""A Hugging Face folder as a GGUF file, for llama.cpp and OpenVINO GenAI.

    PYTHON to_gguf.py FOLDER FILE.gguf F16|Q8_0|Q4_0

Every matrix is stored in the one format that is asked for, the embedding too; norms in f32. What
llama.cpp's own converter adds (mixtures of formats, the recognition of tokenizers) is left out on
purpose: the comparison wants equal weights in equal bits.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

ARCHITECTURES = {
    "granitemoe": gguf.MODEL_ARCH.GRANITE_MOE,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
# These rotate neighbouring pairs; Hugging Face's files have the two halves apart.
_NEIGHBOURS = ("granitemoe", "llama")

# What transformers calls them now, and GGUF's table by what checkpoints call them.
_PUBLISHED = {
    "block_sparse_moe.router.weight": "block_sparse_moe.router.layer.weight",
    "block_sparse_moe.experts.down_proj": "block_sparse_moe.output_linear.weight",
}


def main() -> None:
    """Writes the file; exits with a message for a model that it does not know."""
    folder, output, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = json.loads((folder / "config.json").read_text())
    family = config["model_type"]
    if family not in ARCHITECTURES:
        sys.exit(f"model type {family}: this converter knows {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[family]
    writer = gguf.GGUFWriter(str(output), gguf.MODEL_ARCH_NAMES[architecture])
    describe(writer, config)
    tokenizer(writer, folder, config)
    wanted = gguf.GGMLQuantizationType[kind]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for name, tensor in renamed(folder, config, names):
        data = tensor.astype(np.float32)
        matrix = data.ndim > 1 and "ffn_gate_inp" not in name
        stored = wanted if matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(data, stored), raw_dtype=stored)
    file_types = {"F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0", "Q4_0": "MOSTLY_Q4_0"}
    writer.add_file_type(gguf.LlamaFileType[file_types[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """The configuration under GGUF's names."""
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "granitemoe":
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])


def tokenizer(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    """The byte tokenizer of a model with random weights. A file must have a merge: this has one."""
    data = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"] for token in data["added_tokens"]}
    words: dict[int, str] = {i: word for word, i in data["model"]["vocab"].items()}
    words |= {token["id"]: token["content"] for token in data["added_tokens"]}
    tokens = [words.get(i, f"[unused{i}]") for i in range(config["vocab_size"])]
    kinds = [
        gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
        for i in range(len(tokens))
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(min(special))
    writer.add_pad_token_id(min(special))
    writer.add_add_bos_token(False)


def renamed(
    folder: Path, config: dict[str, Any], names: gguf.TensorNameMap
) -> Iterator[tuple[str, np.ndarray]]:
    """The folder's tensors under GGUF's names, rows of rotated heads in llama.cpp's order."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    neighbours = config["model_type"] in _NEIGHBOURS
    for name, tensor in read(folder):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        if neighbours and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = paired(tensor, heads if "q_proj" in name else kv_heads)
        if name.endswith("block_sparse_moe.experts.gate_up_proj"):
            block = name.split(".")[2]
            gate, up = np.split(tensor, 2, axis=1)
            yield f"blk.{block}.ffn_gate_exps.weight", gate
            yield f"blk.{block}.ffn_up_exps.weight", up
            continue
        for new, published in _PUBLISHED.items():
            name = name.replace(new, published)
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            sys.exit(f"tensor {name}: GGUF has no name for it")
        yield found, tensor


def paired(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head so that those rotated together are neighbours."""
    rows = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return rows.swapaxes(1, 2).reshape(tensor.shape)


def read(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the folder's safetensors files, mapped."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            raw = np.memmap(file, np.uint8, "r", 8 + size + start, (end - start,))
            if entry["dtype"] == "BF16":
                wide = raw.view(np.uint16).astype(np.uint32) << 16
                data = wide.view(np.float32)
            else:
                data = raw.view({"F16": np.float16, "F32": np.float32}[entry["dtype"]])
            yield name, data.reshape(entry["shape"])


if __name__ == "__main__":
    main()
