"""Tiny random models of any family, compiled, against transformers' own eager code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import edgec
from edgec.models.load import load
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
from edgec.models.weights.packing import dequantize
from edgec.models.weights.quantize import quantize
from edgec.weight_formats import WeightFormat

VOCABULARY = 320
PROMPTS = (1, 31, 32, 33, 200)
STEPS = 16

BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def make(folder: Path, model_type: str, changes: dict[str, Any], seed: int = 0) -> Any:
    """Saves a random model as a checkpoint in its published form and returns it, f32, eager."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **(BASE | changes))
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or "bias" in name or "sinks" in name:
                parameter.normal_(0, config.initializer_range)
        for name, buffer in model.named_buffers():
            if "bias" in name:
                buffer.normal_(0, config.initializer_range)
    model.save_pretrained(folder)
    for name, content in byte_tokenizer_files(VOCABULARY).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return model


def check_parity(
    folder: Path,
    model_type: str,
    changes: dict[str, Any],
    tolerance: float = 1e-4,
    device: str = "cpu",
    **options: Any,
) -> None:
    """Compiles a tiny model and compares logits of prompts and decode steps, and greedy tokens."""
    model = make(folder / "model", model_type, changes)
    artifact = folder / "model.edgec"
    edgec.compile(str(folder / "model"), output=artifact, ctx_size=256, **options)
    if "quantize" in options:
        round_weights(folder / "model", model, {"int8": 8, "int4": 4}[options["quantize"]])
    check_generation(edgec.Session(artifact, device), model, model_type, tolerance)


def round_weights(folder: Path, model: Any, bits: int) -> None:
    """Puts the matrices that edgec quantises through the format and back, in place."""
    form = WeightFormat(bits, 32)

    def round_matrix(name: str, matrix: torch.Tensor) -> None:
        matrix.copy_(dequantize(*quantize(name, matrix, form), form, matrix.shape[0]))

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, how in load(AutoConfig.from_pretrained(folder), "f32", form).quantized.items():
            for matrix in parameters[name] if how.experts else [parameters[name]]:
                round_matrix(name, matrix.T if how.transposed else matrix)


def check_generation(
    session: edgec.Session,
    model: Any,
    name: str,
    tolerance: float,
    prompts: tuple[int, ...] = PROMPTS,
) -> None:
    """Compares logits of prompts and decode steps, and greedy tokens, with the model's own."""
    generator = torch.Generator().manual_seed(1)
    for length in prompts:
        ids = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        sequence = session.share().sequence
        step = sequence.extend(ids)
        tokens = list(ids)
        found = []
        for _ in range(STEPS):
            found.append(step.logits())
            tokens.append(int(found[-1].argmax()))
            step = sequence.step(tokens[-1])
        found.append(step.logits())
        with torch.no_grad():
            wanted = model(torch.tensor([tokens])).logits[0, length - 1 :].numpy()
        spread = wanted.max() - wanted.min()
        for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
            error = float(np.abs(a - b).max() / spread)
            assert error <= tolerance, f"{name}, prompt {length}, step {i}: {error:.2e}"
            assert a.argmax() == b.argmax(), f"{name}, prompt {length}, step {i}"
