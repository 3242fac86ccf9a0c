"""Compiled models against transformers eager, as a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgec import Session
from edgec.artifact import Artifact
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files

CONTEXT = 640
TOLERANCE = 1e-4  # of the range of the logits
# Wide enough that attention is far from uniform: with HF's 0.02 a wrong mask hardly shows.
WIDE = {"initializer_range": 0.2, "vocab_size": 288, "max_position_embeddings": 1024}
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": SIZES | {"head_dim": 16, "tie_word_embeddings": True},
    "qwen2": SIZES,
    "llama": SIZES
    | {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        }
    },
    # As wide as a layer norm must be to overflow the stack when fused carelessly.
    "gpt_neox": {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
    | {"hidden_size": 512},
    "mistral": SIZES | {"sliding_window": 40},
    "granite": SIZES | {"embedding_multiplier": 2.0, "attention_multiplier": 0.2},
    "smollm3": SIZES,
}


@dataclass
class Pair:
    """A model in eager form and, compiled from the same weights, in a session."""

    eager: Any
    artifact: Artifact
    session: Session

    def ids(self, count: int, seed: int = 0) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (count,), generator=generator).tolist()

    def eager_logits(self, ids: list[int]) -> np.ndarray[Any, Any]:
        """f32[tokens, V]: the logits after each of `ids`, in one pass."""
        with torch.no_grad():
            return self.eager(torch.tensor([ids])).logits[0].float().numpy()

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """What eager generates from `ids`."""
        with torch.no_grad():
            cache, step, found = None, torch.tensor([ids]), []
            for _ in range(count):
                out = self.eager(step, past_key_values=cache, use_cache=True)
                cache, token = out.past_key_values, int(out.logits[0, -1].argmax())
                found.append(token)
                step = torch.tensor([[token]])
        return found


def error(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Largest difference of logits, in units of the expected ones' range."""
    return float(np.abs(actual - expected).max() / (expected.max() - expected.min()))


def make_folder(folder: Path, family: str, seed: int = 0) -> Any:
    """Writes a HF folder of a tiny random model and returns the model."""
    config = AutoConfig.for_model(family, **(WIDE | FAMILIES[family]))
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 256
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases are all ones and zeros otherwise
                parameter.add_(torch.randn_like(parameter) * (0.2 if "bias" in name else 0.1))
    model.save_pretrained(folder)
    for name, content in byte_tokenizer_files(config.vocab_size).items():
        assert isinstance(content, bytes)
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    return model


@pytest.fixture(scope="session")
def make_pair(
    compile_once: Callable[..., Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Pair]:
    pairs: dict[str, Pair] = {}

    def make(family: str, dtype: str = "f32") -> Pair:
        name = f"parity-{family}-{dtype}"
        if name not in pairs:
            folder = tmp_path_factory.mktemp(name)
            eager = make_folder(folder, family)
            batch = (1, 4) if name == "parity-qwen3-f32" else (1,)
            artifact = compile_once(
                name, str(folder), dtype=dtype, ctx_size=CONTEXT, chunk_size=128, batch=batch
            )
            pairs[name] = Pair(eager, artifact, Session(artifact))
        return pairs[name]

    return make


@pytest.fixture(params=list(FAMILIES))
def pair(request: pytest.FixtureRequest, make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(request.param)


@pytest.fixture(scope="session")
def relative_error() -> Callable[..., float]:
    return error


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Any]:
    return make_folder
