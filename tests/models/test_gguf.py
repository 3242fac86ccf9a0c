"""GGUF files: the same integers, the same model, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from tests.models.gguf_files import Type, blocks, write_gguf
from transformers import AutoConfig, AutoModelForCausalLM

from edgec.errors import ModelError
from edgec.models.check import check_weights, expected_tensors
from edgec.models.gguf import GgufWeights, _q4_k
from edgec.models.quantize import WeightFormat, dequantize, unpack
from edgec.models.sources import ModelSource, resolve

SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 288,
    "max_position_embeddings": 1024,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
    },
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32, "tie_word_embeddings": True},
    "granite": {
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.1,
        "residual_multiplier": 0.5,
        "logits_scaling": 4.0,
        "tie_word_embeddings": False,
    },
}
MIXED = {
    "token_embd.weight": Type.Q6_K,
    "output.weight": Type.Q8_0,
    "blk.0.attn_q.weight": Type.Q4_K,
    "blk.0.attn_k.weight": Type.Q4_0,
    "blk.0.attn_v.weight": Type.Q5_0,
    "blk.0.attn_output.weight": Type.Q4_1,
    "blk.0.ffn_gate.weight": Type.Q5_K,
    "blk.0.ffn_up.weight": Type.F16,
    "blk.0.ffn_down.weight": Type.BF16,
}


def make_model(family: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, initializer_range=0.2, **(SIZES | FAMILIES[family]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def llama3_factors(model: Any) -> np.ndarray[Any, Any]:
    inverse = model.model.rotary_emb.inv_freq.double().numpy()
    whole = 500000.0 ** -(np.arange(0, 64, 2) / 64)
    return whole / inverse


@pytest.fixture(scope="module", params=list(FAMILIES))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, ModelSource]:
    model = make_model(request.param)
    path = tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf"
    factors = llama3_factors(model) if request.param == "llama" else None
    write_gguf(path, model, lambda name: MIXED[name], rope_factors=factors)
    return model, resolve(str(path))


def test_the_same_model(pair: tuple[Any, ModelSource]) -> None:
    """The configuration from the file and the weights from the file: the same logits."""
    model, source = pair
    made = AutoModelForCausalLM.from_config(source.config, attn_implementation="eager").eval()
    checked = check_weights(expected_tensors(source.config), source.weights)
    assert not checked.unused
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(checked.read(name))
        ids = torch.randint(0, 250, (1, 40))
        assert torch.equal(made(ids).logits, model(ids).logits)


def test_integers_are_taken_as_they_are(pair: tuple[Any, ModelSource]) -> None:
    """Formats that hold a type exactly; zero points to f16; the others rounded to int8."""
    model, source = pair
    wanted = dict(model.named_parameters())
    assert isinstance(source.weights, GgufWeights)
    formats = source.weights.formats()
    types = {
        "q_proj": Type.Q4_K,
        "k_proj": Type.Q4_0,
        "v_proj": Type.Q5_0,
        "o_proj": Type.Q4_1,
        "gate_proj": Type.Q5_K,
        "embed_tokens": Type.Q6_K,
        "lm_head": Type.Q8_0,
    }
    assert len(formats) == len(types) - source.config.tie_word_embeddings
    for name, form in formats.items():
        kind = types[name.split(".")[-2]]
        packed, scales = source.weights.read_quantized(name)
        rows, columns = wanted[name].shape
        found, true = dequantize(packed, scales, rows, columns), wanted[name].detach()
        if kind in (Type.Q8_0, Type.Q4_0, Type.Q5_0):
            assert torch.equal(found, true), name
            continue
        groups = (found - true).abs().reshape(rows, -1, 32).amax(-1)
        if kind in (Type.Q4_1, Type.Q4_K):
            assert form == WeightFormat(4, 32, zero_points=True)
            # The integers are the file's: f16 scales and zero points are all that differs.
            step = scales[0].transpose(1, 2).reshape(-1, scales.shape[2])[:rows].float()
            low = true.reshape(rows, -1, 32).abs().amax(-1)
            assert (groups <= step / 128 + low / 1024).all(), name
        else:
            assert form == WeightFormat(8, 32)
            assert (groups <= true.reshape(rows, -1, 32).abs().amax(-1) / 240 + 1e-6).all(), name


def test_q4_k_integers() -> None:
    """Nibble for nibble, against the layout written down independently in the gguf package."""
    raw = blocks(np.zeros((16, 512), np.float32), Type.Q4_K)
    unpacked = _q4_k(torch.from_numpy(raw).view(16, 2, 144))
    scales, zeros = unpacked.scales.float()
    true = torch.from_numpy(gguf.dequantize(raw, Type.Q4_K)).view(16, -1, 32)
    nearest = true / scales[..., None] + zeros[..., None]
    usable = scales > 1e-5
    q = unpacked.integers.view(16, -1, 32).float()
    assert ((nearest - q).abs()[usable] < 0.1).all()


def test_tokenizer_and_settings(pair: tuple[Any, ModelSource]) -> None:
    _, source = pair
    text = source.files["tokenizer.json"]
    assert isinstance(text, bytes)
    tokenizer = tokenizers.Tokenizer.from_str(text.decode())
    ids = tokenizer.encode("the cat<|end|>", add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == "the cat<|end|>"
    assert ids[0] == 257 and ids[-1] == 256
    settings = source.files["tokenizer_config.json"]
    assert isinstance(settings, bytes) and b"messages[0]" in settings
    assert source.kind == "gguf" and source.config.eos_token_id == 256
    again = resolve(source.id)
    assert again.fingerprint() == source.fingerprint()


def test_only_what_is_read_is_in_memory(tmp_path: Path) -> None:
    """`read_quantized` works on blocks of rows: nothing of the tensor's size in f32 is made."""
    model = make_model("qwen3")
    write_gguf(tmp_path / "m.gguf", model, lambda name: Type.Q4_0)
    source = resolve(str(tmp_path / "m.gguf"))
    assert isinstance(source.weights, GgufWeights)
    packed, scales = source.weights.read_quantized("model.embed_tokens.weight")
    assert packed.shape == (18, 32, 16, 4) and scales.shape == (18, 8, 16)
    assert unpack(packed, 256).shape == (288, 256)


@pytest.mark.parametrize(
    ("kind", "says"),
    [(Type.TQ1_0, r"types that edgec does not take: TQ1_0 \(blk.0.attn_q.weight\)")],
)
def test_unknown_types_are_named(tmp_path: Path, kind: Any, says: str) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(
        path, make_model("qwen3"), lambda name: kind if name == "blk.0.attn_q.weight" else Type.Q8_0
    )
    with pytest.raises(ModelError, match=says) as error:
        resolve(str(path))
    assert "Q4_K_M" in (error.value.remedy or "")


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, make_model("qwen3"), lambda name: Type.Q8_0)
    content = path.read_bytes()
    cases = {"empty": b"", "text": b"hello" * 10, "header": content[:3000], "data": content[:-4000]}
    # A type that this version of ggml does not have.
    at = content.index(b"blk.0.attn_q.weight") + len("blk.0.attn_q.weight") + 4 + 16
    cases["type"] = content[:at] + (250).to_bytes(4, "little") + content[at + 4 :]
    for name, damaged in cases.items():
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"m\.gguf") as error:
            resolve(str(path))
        assert error.value.remedy, name


def test_what_is_not_imported_is_said(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    model = make_model("qwen3")
    scaling = {"qwen3.rope.scaling.type": "yarn", "qwen3.rope.scaling.factor": 4.0}
    write_gguf(path, model, lambda name: Type.Q8_0, metadata=scaling)
    with pytest.raises(ModelError, match="positions are scaled by yarn"):
        resolve(str(path))
    model = make_model("llama")
    write_gguf(path, model, lambda name: Type.Q8_0, rope_factors=np.linspace(1, 9, 32))
    with pytest.raises(ModelError, match=r"rope_freqs.weight is not the scaling"):
        resolve(str(path))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"llama", b"bloom"))
    with pytest.raises(ModelError, match="architecture bloom cannot be imported"):
        resolve(str(path))
