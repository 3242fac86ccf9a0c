"""Checkpoints as people have them, read by edgec and by transformers' `from_pretrained`.

What transformers fills with random numbers edgec refuses; everything else is the same, parameter by
parameter, and so is what is said to be unused or not tied.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from edgec.errors import ModelError
from edgec.models.load import load
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
from edgec.models.sources.resolve import resolve
from edgec.models.weights.check import check_weights

Tensors = dict[str, torch.Tensor]
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 48,
    "vocab_size": 288,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
MORE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "roberta": {"is_decoder": True, "type_vocab_size": 1},
    "mixtral": {"num_local_experts": 4},
    "gemma3_text": {"sliding_window": 24},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write(folder: Path, family: str, **more: Any) -> Tensors:
    """A folder of a tiny random model; returns what its file holds."""
    config = AutoConfig.for_model(family, **SIZES | MORE.get(family, {}) | more)
    config.bos_token_id = config.eos_token_id = 256
    config.pad_token_id = 1
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    for name, content in byte_tokenizer_files(288).items():
        assert isinstance(content, bytes)
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    tensors: Tensors = load_file(folder / FILE)
    return tensors


def by_transformers(folder: Path) -> tuple[Any, dict[str, Any]]:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
    )
    return model, info


def values(module: torch.nn.Module) -> Tensors:
    persistent = set(module.state_dict())
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
    return {name: tensor.data for name, tensor in named if name in persistent}


def ties(names: Tensors) -> set[frozenset[str]]:
    groups: dict[int, set[str]] = {}
    for name, tensor in names.items():
        groups.setdefault(id(tensor), set()).add(name)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def compare(folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Both read the folder alike; returns edgec's refusal where transformers lacks something."""
    model, info = by_transformers(folder)
    expected = values(model)
    untied = {r.getMessage() for r in caplog.records if "will NOT" in r.getMessage()}
    caplog.clear()
    source = resolve(str(folder))
    loaded = load(source.config, "f32", weights=source.weights)
    if info["missing_keys"] or info["mismatched_keys"]:
        with pytest.raises(ModelError) as refused:
            check_weights(loaded.expected, source.weights)
        return str(refused.value)
    weights = check_weights(loaded.expected, source.weights)
    for name, tensor in expected.items():
        if name in loaded.parameters or name in loaded.tied or name in weights.names:
            read = weights.read(loaded.tied.get(name, name))
            assert torch.equal(read.float(), tensor), name
        else:
            pytest.fail(f"{name} is not read")
    by_name = {frozenset({a, b}) for a, b in loaded.tied.items()}
    assert {pair for group in ties(dict(model.named_parameters(remove_duplicate=False)))
            for pair in [group]} == by_name  # fmt: skip
    ours = [
        r.getMessage() for r in caplog.records if "is read from the checkpoint" in r.getMessage()
    ]
    assert len(ours) == len(untied)
    caplog.clear()
    weights.warn_of_unused()
    assert len(caplog.records) == bool(info["unexpected_keys"])
    assert len(weights.unused) == len(info["unexpected_keys"])
    return ""


def untouched(tensors: Tensors) -> Tensors:
    return tensors


def prefixed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        return {
            new + name.removeprefix(old) if name.startswith(old) else name: tensor
            for name, tensor in tensors.items()
        }

    return change


def all_prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def own_head(tensors: Tensors) -> Tensors:
    return tensors | {"lm_head.weight": torch.randn(288, 32)}


def same_head(tensors: Tensors) -> Tensors:
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


def only_head(tensors: Tensors) -> Tensors:
    return prefixed("model.embed_tokens.", "lm_head.")(tensors)


def no_embedding(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if "embed_tokens" not in name}


def no_head(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}


def own_decoder(tensors: Tensors) -> Tensors:
    return tensors | {"lm_head.decoder.weight": torch.randn(288, 32)}


def old_norms(tensors: Tensors) -> Tensors:
    """As checkpoints from before 2019 call them."""
    names = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    for new, old in names:
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    return tensors


def mixed_types(tensors: Tensors) -> Tensors:
    kinds = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    return {n: t.to(kinds[i % 4]) for i, (n, t) in enumerate(sorted(tensors.items()))}


def head_of_another_type(tensors: Tensors) -> Tensors:
    """Equal to the embedding but for its precision, in which both are what they were trained as."""
    embedding = tensors["model.embed_tokens.weight"].bfloat16()
    return tensors | {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.float()}


def eight_bits(tensors: Tensors) -> Tensors:
    kinds = [torch.float8_e4m3fn, torch.float8_e5m2]
    return {n: t.to(kinds[i % 2]) for i, (n, t) in enumerate(sorted(tensors.items()))}


def old_extras(tensors: Tensors) -> Tensors:
    return tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}


def unknown(tensors: Tensors) -> Tensors:
    return tensors | {
        "model.layers.7.mlp.up_proj.weight": torch.ones(2, 2),
        "v_head": torch.ones(1),
    }


CASES: dict[str, tuple[str, dict[str, Any], Callable[[Tensors], Tensors]]] = {
    "plain": ("llama", {}, untouched),
    "gpt2": ("gpt2", {}, untouched),
    "gpt2-bare": ("gpt2", {}, prefixed("transformer.", "")),
    "roberta": ("roberta", {}, untouched),
    "roberta-old": ("roberta", {}, old_norms),
    "mixtral": ("mixtral", {}, untouched),
    "gemma": ("gemma3_text", {}, untouched),
    "bare": ("llama", {}, prefixed("model.", "")),
    "bare-tied": ("llama", {"tie_word_embeddings": True}, prefixed("model.", "")),
    "language-model": ("llama", {}, prefixed("model.", "language_model.")),
    "language-model-model": ("llama", {}, all_prefixed("language_model.")),
    "model-language-model": ("gemma3_text", {}, prefixed("model.", "model.language_model.")),
    "of-gemma-with-pictures": ("gemma3_text", {}, all_prefixed("language_model.")),
    "twice": ("llama", {}, prefixed("model.", "model.model.")),
    "module": ("llama", {}, all_prefixed("module.")),
    "tied": ("llama", {"tie_word_embeddings": True}, untouched),
    "tied-same-head": ("llama", {"tie_word_embeddings": True}, same_head),
    "tied-own-head": ("llama", {"tie_word_embeddings": True}, own_head),
    "tied-only-head": ("llama", {"tie_word_embeddings": True}, only_head),
    "tied-nothing": ("llama", {"tie_word_embeddings": True}, no_embedding),
    "tied-head-of-another-type": ("llama", {"tie_word_embeddings": True}, head_of_another_type),
    "untied-no-head": ("llama", {}, no_head),
    "gpt2-own-head": ("gpt2", {}, own_head),
    "roberta-own-bias": ("roberta", {}, lambda t: t | {"lm_head.decoder.bias": torch.randn(288)}),
    "roberta-own-head": ("roberta", {}, own_decoder),
    "types": ("llama", {}, mixed_types),
    "f8": ("llama", {}, eight_bits),
    "f8-experts": ("mixtral", {}, eight_bits),
    "old-extras": ("llama", {}, old_extras),
    "unknown": ("llama", {}, unknown),
    "wrong-shape": ("llama", {}, lambda t: t | {"model.norm.weight": torch.ones(31)}),
}  # fmt: skip
REFUSED = {
    "model-language-model",
    "of-gemma-with-pictures",
    "language-model",
    "language-model-model",
    "module",
    "tied-nothing",
    "untied-no-head",
    "wrong-shape",
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_read_as_by_transformers(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    family, settings, change = CASES[name]
    tensors = change(write(tmp_path, family, **settings))
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / FILE)
    caplog.clear()
    assert bool(compare(tmp_path, caplog)) == (name in REFUSED)


def put(folder: Path, weight_map: dict[str, str], **files: Tensors) -> None:
    """An index, and `a="..."` as a.safetensors."""
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))


def halves(tensors: Tensors) -> tuple[Tensors, Tensors]:
    names = sorted(tensors)
    return {n: tensors[n] for n in names[::2]}, {n: tensors[n] for n in names[1::2]}


def sharded(folder: Path, tensors: Tensors) -> None:
    a, b = halves(tensors)
    (folder / FILE).unlink()
    put(folder, dict.fromkeys(a, "a.safetensors") | dict.fromkeys(b, "b.safetensors"), a=a, b=b)


def not_in_the_index(folder: Path, tensors: Tensors) -> None:
    a, b = halves(tensors)
    (folder / FILE).unlink()
    put(folder, {min(a): "a.safetensors", min(b): "b.safetensors"}, a=a, b=b)


def misplaced(folder: Path, tensors: Tensors) -> None:
    a, b = halves(tensors)
    (folder / FILE).unlink()
    put(folder, dict.fromkeys(a, "b.safetensors") | dict.fromkeys(b, "a.safetensors"), a=a, b=b)


def in_two_files(folder: Path, tensors: Tensors) -> None:
    (folder / FILE).unlink()
    other = {"model.norm.weight": torch.full((32,), 3.0)}
    put(
        folder, dict.fromkeys(tensors, "a.safetensors") | {"x": "b.safetensors"}, a=tensors, b=other
    )


def stale(folder: Path, tensors: Tensors) -> None:
    old = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    put(folder, dict.fromkeys(old, "old.safetensors"), old=old)


def one_file(folder: Path, tensors: Tensors) -> None:
    put(folder, dict.fromkeys(tensors, FILE))


def named(folder: Path, tensors: Tensors) -> None:
    save_file({n: torch.zeros_like(t) for n, t in tensors.items()}, folder / FILE)
    save_file(tensors, folder / "model.fp32.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["transformers_weights"] = "model.fp32.safetensors"
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "arrange", [sharded, not_in_the_index, misplaced, in_two_files, stale, one_file, named]
)
def test_files_are_read_as_by_transformers(
    arrange: Callable[[Path, Tensors], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrange(tmp_path, write(tmp_path, "llama"))
    assert not compare(tmp_path, caplog)


@pytest.mark.parametrize(
    ("tensor", "more"),
    [
        (torch.arange(32, dtype=torch.int8), {}),
        (torch.ones(32).to(torch.float8_e4m3fn), {"model.norm.weight_scale": torch.ones(1)}),
    ],
)
def test_numbers_that_are_not_the_values(
    tensor: torch.Tensor, more: Tensors, tmp_path: Path
) -> None:
    """transformers takes them for the values; here it is refused, which nobody wants in silence."""
    tensors = write(tmp_path, "llama") | {"model.norm.weight": tensor} | more
    save_file(tensors, tmp_path / FILE)
    source = resolve(str(tmp_path))
    loaded = load(source.config, "f32", weights=source.weights)
    with pytest.raises(ModelError, match=r"model\.norm\.weight has the packed dtype"):
        check_weights(loaded.expected, source.weights)
