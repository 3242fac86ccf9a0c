"""GGUF files: the same integers, the same model, and what is refused."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from tests.models.gguf.files import Type, blocks, write_gguf
from transformers import AutoConfig, AutoModelForCausalLM

from edgec.errors import ModelError
from edgec.models.gguf.model import gguf_config
from edgec.models.gguf.weights import GgufFile, GgufWeights, _q4_k
from edgec.models.sources.resolve import ModelSource, resolve
from edgec.models.weights.check import check_weights, expected_tensors
from edgec.models.weights.packing import dequantize, unpack
from edgec.weight_formats import WeightFormat

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
    "gemma": {"head_dim": 64},
    "gemma2": {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 24},
    "gemma3_text": {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 24},
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
        # Sums go in another order where tensors lie otherwise in memory.
        assert torch.allclose(made(ids).logits, model(ids).logits, rtol=1e-3, atol=1e-2)


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
        rows = wanted[name].shape[0]
        found, true = dequantize(packed, scales, form, rows), wanted[name].detach()
        if kind in (Type.Q8_0, Type.Q4_0, Type.Q5_0):
            assert torch.equal(found, true), name
            continue
        groups = (found - true).abs().reshape(rows, -1, 32).amax(-1)
        if kind in (Type.Q4_1, Type.Q4_K):
            assert form == WeightFormat(4, 32, "zero_point")
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
    assert unpack(packed, WeightFormat(4)).shape == (288, 256)


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
    model = make_model("llama")
    write_gguf(path, model, lambda name: Type.Q8_0, rope_factors=np.linspace(1, 9, 32))
    with pytest.raises(ModelError, match=r"rope_freqs.weight is not the scaling"):
        resolve(str(path))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"llama", b"bloom"))
    with pytest.raises(ModelError, match="architecture bloom cannot be imported"):
        resolve(str(path))


def config_of(path: Path, family: str, **metadata: Any) -> Any:
    write_gguf(
        path,
        make_model(family),
        lambda _: Type.Q8_0,
        metadata={key if "." in key else f"{family}.{key}": v for key, v in metadata.items()},
    )
    return gguf_config(GgufFile(path))


def frequencies(config: Any) -> tuple[torch.Tensor, float]:
    rotary = AutoModelForCausalLM.from_config(config).model.rotary_emb
    return rotary.inv_freq.double(), float(rotary.attention_scaling)


def ggml_yarn(
    width: int, base: float, factor: float, trained: int, attention: float
) -> tuple[torch.Tensor, float]:
    """Frequencies and scale of sine and cosine, as ggml's `rope_yarn` computes them."""

    def dimension(turns: float) -> float:
        return width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = math.floor(dimension(32.0)), math.ceil(dimension(1.0))
    low, high = max(0, low), min(width - 1, high)
    place = torch.arange(width // 2).double()
    mix = 1 - ((place - low) / max(0.001, high - low)).clamp(0, 1)
    plain = base ** (-2 * place / width)
    return plain / factor * (1 - mix) + plain * mix, attention * (1 + 0.1 * math.log(factor))


LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 256,
}


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({}, (1.0, 1.0)),
        (LINEAR, (4.0, 1.0)),
        # What files of 2023 have; llama.cpp divides positions by it.
        ({"rope.scale_linear": 4.0}, (4.0, 1.0)),
        # The newer name is read first, and 0 says nothing.
        ({"rope.scale_linear": 4.0, "rope.scaling.factor": 2.0}, (2.0, 1.0)),
        ({"rope.scaling.factor": 0.0}, (1.0, 1.0)),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, (1.0, 1.0)),
        (YARN, ggml_yarn(64, 10000.0, 4.0, 256, 1.0)),
        (YARN | {"rope.scaling.attn_factor": 1.5}, ggml_yarn(64, 10000.0, 4.0, 256, 1.5)),
        # Trained at the context that the file states.
        (YARN | {"rope.scaling.original_context_length": None}, ggml_yarn(64, 1e4, 4.0, 1024, 1)),
    ],
)
def test_positions_are_scaled_as_in_ggml(
    tmp_path: Path, metadata: dict[str, Any], wanted: tuple[Any, float]
) -> None:
    found, scale = frequencies(config_of(tmp_path / "m.gguf", "qwen3", **metadata_of(metadata)))
    right, right_scale = wanted
    if isinstance(right, float):
        right = 10000.0 ** (-torch.arange(0, 64, 2).double() / 64) / right
    assert torch.allclose(found, right, rtol=1e-5) and scale == pytest.approx(right_scale)


def metadata_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """The keys of a file of `qwen3` with heads of 64 and the usual base."""
    base = {"attention.key_length": 64, "attention.value_length": 64, "rope.dimension_count": 64}
    return {f"qwen3.{key}": v for key, v in (base | {"rope.freq_base": 10000.0} | metadata).items()}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope.dimension_count", 32),
        ("rope.scaling.alpha", 1000.0),
        ("rope.scaling.attn_factor", 1.5),
        ("rope.scaling.yarn_beta_fast", 16.0),
        ("rope.scaling.yarn_log_multiplier", 0.1),
        ("rope.scaling.type", "longrope"),
        ("rope.freq_base_swa", 1e4),
        ("attention.sliding_window", 64),
        ("attention.causal", False),
        ("attention.scale", 0.5),
        ("attention.key_length_mla", 32),
        ("attn_logit_softcapping", 50.0),
        ("embedding_scale", 12.0),
        ("expert_count", 8),
        ("nextn_predict_layers", 1),
        ("rope.dimension_sections", [16, 8, 8]),
        ("nobody.knows", "this"),
    ],
)
def test_keys_that_change_results_are_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ModelError) as error:
        config_of(tmp_path / "m.gguf", "llama", **{f"llama.{key}": value})
    named = {"expert_count": "experts", "rope.scaling.type": "longrope"}
    assert named.get(key, key) in str(error.value)


def test_keys_that_say_nothing_are_taken(tmp_path: Path) -> None:
    """Keys that converters write for every model, with the value that these models have."""
    harmless = {
        "attention.layer_norm_epsilon": 1e-5,
        "attention.causal": True,
        "attention.sliding_window": 1024,  # the whole context
        "expert_count": 0,
        "expert_used_count": 0,
        "leading_dense_block_count": 0,
        "pooling_type": 3,
        "rope.freq_base_swa": 500000.0,
        "rope.scaling.finetuned": False,
        "tensor_data_layout": "Meta AI original pth",
        "final_logit_softcapping": 0.0,
    }
    config = config_of(
        tmp_path / "m.gguf", "llama", **{f"llama.{k}": v for k, v in harmless.items()}
    )
    assert config.rope_parameters["rope_type"] == "default"


def test_what_is_not_said_is_as_in_llama_cpp(tmp_path: Path) -> None:
    """Not as in transformers, whose Qwen 3 has heads of 128 and whose Qwen 2 32 for keys."""
    absent = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    keys = {f"qwen2.{key}": None for key in (*absent, "rope.freq_base")}
    config = config_of(tmp_path / "m.gguf", "qwen2", **keys)
    assert (config.head_dim, config.rope_parameters["rope_theta"]) == (64, 10000.0)
    lists = {"qwen2.attention.head_count": [4], "qwen2.feed_forward_length": [512]}
    config = config_of(tmp_path / "m.gguf", "qwen2", **lists)
    assert (config.num_attention_heads, config.intermediate_size) == (4, 512)
    scales = {f"granite.{k}": None for k in ("attention.scale", "embedding_scale")}
    config = config_of(tmp_path / "m.gguf", "granite", **scales)
    assert (config.attention_multiplier, config.embedding_multiplier) == (0.125, 1.0)


def split_model(folder: Path) -> tuple[Any, list[Path]]:
    model = make_model("qwen3")
    write_gguf(folder / "m.gguf", model, lambda _: Type.Q8_0, tensors_in_part=5)
    return model, sorted(folder.glob("m-*.gguf"))


def test_parts_are_found_beside_the_first(tmp_path: Path) -> None:
    model, parts = split_model(tmp_path)
    assert [part.name for part in parts] == [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    source = resolve(str(parts[0]))
    checked = check_weights(expected_tensors(source.config), source.weights)
    for name, parameter in model.named_parameters():
        assert torch.equal(checked.read(name), parameter), name
    before = source.fingerprint()
    content = bytearray(parts[2].read_bytes())
    content[-1] ^= 1
    parts[2].write_bytes(content)
    assert resolve(str(parts[0])).fingerprint() != before


def test_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    _, (first, second, third) = split_model(tmp_path)
    whole = second.read_bytes()

    def refused(path: Path, says: str) -> str:
        with pytest.raises(ModelError, match=says) as error:
            GgufFile(path)
        return error.value.remedy or ""

    assert first.name in refused(second, "holds part 2 of 3")
    second.unlink()
    refused(first, "1 of 3 parts missing: m-00002-of-00003.gguf")
    second.write_bytes(third.read_bytes())
    refused(first, "m-00002-of-00003.gguf: holds part 3 of 3, not 2")
    second.write_bytes(whole[:-2000])
    refused(first, "m-00002-of-00003.gguf: truncated in")
    second.write_bytes(whole.replace(b"split.count", b"split.kount"))
    refused(first, "m-00002-of-00003.gguf: belongs to another number")
    other = tmp_path / "other.gguf"
    other.write_bytes(first.read_bytes())
    assert "NAME-00001-of-00003.gguf" in refused(other, "the first of 3 parts, by another name")
    second.write_bytes(whole)
    count = b"split.tensors.count" + struct.pack("<I", 5)
    content, total = first.read_bytes(), len(GgufFile(first).tensors)
    one_less = content.replace(count + struct.pack("<i", total), count + struct.pack("<i", 12))
    first.write_bytes(one_less)
    refused(first, f"12 tensors in all parts, {total} found")


def files_of(path: Path, **metadata: Any) -> tuple[Any, tokenizers.Tokenizer, dict[str, Any]]:
    """The configuration, the tokenizer and its settings of a qwen3 with these tokenizer keys."""
    keys = {f"tokenizer.{key}": value for key, value in metadata.items()}
    write_gguf(path, make_model("qwen3"), lambda _: Type.Q8_0, metadata=keys)
    source = resolve(str(path))
    read = {name: file for name, file in source.files.items() if isinstance(file, bytes)}
    made = tokenizers.Tokenizer.from_str(read["tokenizer.json"].decode())
    settings = json.loads(read["tokenizer_config.json"])
    return json.loads(read["generation_config.json"]), made, settings


def test_all_ends_of_a_turn_end_a_text(tmp_path: Path) -> None:
    """llama.cpp's ends: of a text, of a turn, of a message, and what is spelled like one."""
    metadata = {"ggml.eos_token_id": 259, "ggml.eot_token_id": 260, "ggml.eom_token_id": 261}
    found, _, settings = files_of(tmp_path / "m.gguf", **metadata)
    # 256 is spelled <|end|>.
    assert found["eos_token_id"] == [259, 260, 261, 256]
    assert settings["eos_token"] == "[unused259]"
    found, _, _ = files_of(tmp_path / "m.gguf", **{"ggml.eos_token_id": 256})
    assert found["eos_token_id"] == 256


def test_each_pre_cuts_in_its_own_way(tmp_path: Path) -> None:
    """`\\s?\\p{L}+` of DeepSeek takes the tab to the word; GPT-2's rule leaves it alone."""
    for name, pieces in {
        "deepseek-llm": ["x", "\tfoo", " ", "12"],
        "smollm": ["x", "\t", "foo", " ", "1", "2"],
        "gpt-2": ["x", "\t", "foo", " 12"],
    }.items():
        _, made, _ = files_of(tmp_path / "m.gguf", **{"ggml.pre": name})
        cut = made.pre_tokenizer.pre_tokenize_str("x\tfoo 12")
        assert ["x\tfoo 12"[a:b] for _, (a, b) in cut] == pieces, name
    with pytest.raises(ModelError, match=r"tokenizer.ggml.pre 'nonesuch' is not known"):
        files_of(tmp_path / "m.gguf", **{"ggml.pre": "nonesuch"})


def test_named_templates_keep_their_names(tmp_path: Path) -> None:
    name = "chat_template.tool_use"
    _, _, settings = files_of(tmp_path / "m.gguf", **{name: "{{ tools }}"})
    assert settings["chat_template"] == [
        {"name": "default", "template": "{{ messages[0]['content'] }}"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]
