"""Every spelling of MODEL resolves, and every model that edgec cannot compile is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from edgec.errors import EdgecError, InputError, ModelError
from edgec.models.sources.bundled import bundled_models
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
from edgec.models.sources.resolve import ModelSource, resolve
from edgec.models.weights.source import RandomWeights

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 300,
    "eos_token_id": [7, 8, 9, 10],
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}

Edit = Callable[..., None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("made")
    values = dict(CONFIG)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name, content in byte_tokenizer_files(300).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


@pytest.fixture
def edit(folder: Path) -> Edit:
    """Changes keys of config.json; None removes."""

    def change(**keys: Any) -> None:
        path = folder / "config.json"
        values = {**json.loads(path.read_text()), **keys}
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))

    return change


def refused(model: str | Path, message: str, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolve(str(model), **options)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def bytes_of(source: ModelSource, name: str) -> bytes:
    content = source.files[name]
    assert isinstance(content, bytes)
    return content


def test_folder(folder: Path) -> None:
    source = resolve(str(folder))
    assert (source.kind, source.folder) == ("folder", folder)
    assert source.revision.startswith("sha256:")
    assert source.config.model_type == "qwen3"
    tensors = load_file(folder / "model.safetensors")
    assert source.weights.tensors().keys() == tensors.keys()
    assert all(torch.equal(source.weights.read(n), t) for n, t in tensors.items())
    assert source.files["generation_config.json"] == folder / "generation_config.json"
    kept = Tokenizer.from_str(bytes_of(source, "tokenizer.json").decode())
    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert kept.get_vocab() == stored.get_vocab()
    assert bytes_of(source, "chat_template.jinja") == (folder / "chat_template.jinja").read_bytes()


def test_spellings_of_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = resolve(str(folder)).fingerprint()
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for spelling in (
        "model",
        "./model",
        "model/",
        "~/model",
        "../" + folder.parent.name + "/model",
    ):
        assert resolve(spelling).fingerprint() == expected
    shutil.copytree(folder, folder.parent / "org" / "name")
    assert resolve("org/name").kind == "folder"  # a folder wins over the hub


def test_bundled() -> None:
    source = resolve("bundled:tiny-dense")
    assert source.kind == "bundled" and source.id == "bundled:tiny-dense"
    assert source.folder is not None and "chat_template.jinja" in source.files


def test_generation_config_is_made_when_absent(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    content = resolve(str(folder)).files["generation_config.json"]
    assert isinstance(content, bytes)
    assert json.loads(content) == {"eos_token_id": [7, 8, 9, 10]}


def test_layers(folder: Path) -> None:
    config = resolve(str(folder), layers=3).config
    assert config.num_hidden_layers == 3
    assert config.layer_types == ["full_attention"] * 3
    assert config.eos_token_id == [7, 8, 9, 10]
    for layers in (0, 5, -1):
        refused(folder, f"layers {layers}: .* has 4", layers=layers)


def test_layers_of_a_family_with_another_name_for_them(folder: Path, edit: Edit) -> None:
    edit(model_type="gpt2", architectures=["GPT2LMHeadModel"], n_layer=4, n_embd=32, n_head=4)
    assert resolve(str(folder), layers=2).config.num_hidden_layers == 2


def test_fingerprint_follows_what_the_model_is(folder: Path, edit: Edit) -> None:
    def now() -> str:
        return resolve(str(folder)).fingerprint()

    seen = [now()]
    elsewhere = shutil.copytree(folder, folder.parent / "copy")
    assert resolve(str(elsewhere)).fingerprint() == seen[0]

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors")
    seen.append(now())
    assert resolve(str(folder)).revision != resolve(str(elsewhere)).revision
    edit(rms_norm_eps=1e-3)
    seen.append(now())
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    seen.append(now())
    other = (folder / "tokenizer.json").read_text().replace("<|im_end|>", "<|im_stop|>")
    (folder / "tokenizer.json").write_text(other)
    seen.append(now())
    seen.append(resolve(str(folder), layers=1).fingerprint())
    assert len(set(seen)) == 6


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "not found .*org/name"),
        ("qwen3-0.6b", "did you mean preset:qwen3-0.6b"),
        ("tiny-dense", "did you mean bundled:tiny-dense"),
        ("nothing-like-it", "not found .*org/name"),
        ("a/b/c", "not found"),
        ("org/na me", "not found"),
        ("preset:qwen3-0.6", r"preset 'qwen3-0.6': unknown \(did you mean qwen3-0.6b\? there are"),
        ("preset:", "preset '': unknown .*there are granite"),
        ("bundled:tiny-dens", r"did you mean tiny-dense\?"),
        ("bundled:../bundled/tiny-dense", "unknown"),
        ("./no-such-folder", "no such folder"),
        ("/no/such/folder", "no such folder"),
    ],
)
def test_unknown_names(model: str, message: str) -> None:
    refused(model, message)


def test_options_that_do_not_fit(folder: Path) -> None:
    refused("preset:qwen3-0.6b", "a revision needs a model on the hub", revision="main")
    refused(folder, "a revision needs a model on the hub", revision="main")
    with pytest.raises(InputError, match="seed -1"):
        resolve("preset:qwen3-0.6b", seed=-1)


def test_not_a_model_folder(folder: Path) -> None:
    refused(folder / "config.json", "a file .*folder that holds")
    (folder / "config.json").unlink()
    refused(folder, "no config.json .*Hugging Face format")
    (folder / "manifest.json").write_text("{}")
    refused(folder, "no config.json .*compiled artifact")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[]", "not an object"),
        ("{}", "no model_type"),
        ('{"model_type": 3}', "no model_type"),
        ('{"model_type": "qwen3", "architectures": "x"}', "not a list"),
    ],
)
def test_damaged_config(text: str, message: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, message)


def test_config_with_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    refused(folder, "not JSON")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "BertForMaskedLM is not a"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForSequence.* is not a"),
        ({"architectures": ["ViTModel"], "model_type": "vit"}, "ViTModel is not a causal"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "t5 is an encoder-decoder"),
        ({"model_type": "qwen99"}, "'qwen99' is unknown to transformers"),
        ({"vision_config": {}, "model_type": "gemma3"}, r"more than text \(vision_config\)"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            r"quantised already \(bitsandbytes\)",
        ),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantised already"),
        (
            {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Own"}},
            "needs code that comes with it.*--trust-remote-code",
        ),
        ({"model_type": "own", "auto_map": {"AutoModel": "own.Own"}}, "no causal language model"),
        ({"hidden_size": "many"}, "config.json: .*hidden_size"),
        (
            {"num_attention_heads": None, "layer_types": ["sideways"] * 4},
            "config.json: .*layer_types",
        ),
    ],
)
def test_unsupported_config(keys: dict[str, Any], message: str, folder: Path, edit: Edit) -> None:
    edit(**keys)
    refused(folder, message)


def test_own_code_beside_a_known_type_is_not_needed(folder: Path, edit: Edit) -> None:
    """As transformers does: its own class wins, and the model's code is not run."""
    edit(auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    assert type(resolve(str(folder)).config).__module__.startswith("transformers.")


def test_own_code_runs_when_trusted(
    folder: Path, edit: Edit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    code = "from transformers import PreTrainedConfig\n\n\nclass Own(PreTrainedConfig):\n"
    (folder / "own.py").write_text(
        code + '    model_type = "own"\n    num_hidden_layers: int = 3\n'
    )
    edit(
        model_type="own",
        architectures=["OwnForCausalLM"],
        auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"},
    )
    source = resolve(str(folder), trust_remote_code=True)
    assert type(source.config).__name__ == "Own" and source.trust_remote_code
    before = source.fingerprint()
    (folder / "own.py").write_text((folder / "own.py").read_text() + "# changed\n")
    assert resolve(str(folder), trust_remote_code=True).fingerprint() != before


def test_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "tokenizer.json is damaged")
    (folder / "tokenizer.json").unlink()
    refused(folder, "no tokenizer.json .*save_pretrained")


def test_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])
    refused(folder, "truncated")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pickles")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "no model.safetensors")


def test_error_types(folder: Path) -> None:
    assert issubclass(ModelError, InputError) and issubclass(InputError, EdgecError)
    with pytest.raises(ModelError) as caught:
        resolve("preset:x")
    assert caught.value.exit_code == 2


def test_preset() -> None:
    source = resolve("preset:smollm2-135m")
    assert (source.id, source.kind, source.folder) == ("preset:smollm2-135m", "preset", None)
    assert isinstance(source.weights, RandomWeights)
    assert source.config.eos_token_id == 256  # the byte tokenizer's, not the published one
    assert all(isinstance(content, bytes) for content in source.files.values())


def test_bundled_models_are_found() -> None:
    assert {"tiny-dense", "tiny-moe"} <= set(bundled_models())
