"""A created folder is what transformers loads and what the preset gives, tensor by tensor."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from edgec.errors import InputError, ModelError
from edgec.models.sources import create as create_module
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
from edgec.models.sources.create import create, list_models
from edgec.models.sources.resolve import resolve
from edgec.models.weights.source import SafetensorsWeights, torch_dtype


@pytest.mark.parametrize(
    ("preset", "dtype"),
    [
        ("smollm2-135m", "f32"),
        ("smollm2-135m", "bf16"),
        ("smollm2-135m", "f16"),
        ("pythia-160m", "f32"),
        ("qwen2.5-0.5b", "bf16"),
    ],
)
def test_created_equals_resolved(preset: str, dtype: str, tmp_path: Path) -> None:
    folder = create(preset, tmp_path / "model", layers=1, seed=3, dtype=dtype)
    source = resolve(f"preset:{preset}", layers=1, seed=3)
    made = resolve(str(folder))
    assert made.weights.tensors().keys() == source.weights.tensors().keys()
    for name in source.weights.tensors():
        value = made.weights.read(name)
        assert value.dtype == torch_dtype(dtype)
        assert torch.equal(value, source.weights.read(name).to(value.dtype))
    assert made.config.num_hidden_layers == 1
    assert made.config.eos_token_id == source.config.eos_token_id
    assert made.config.rope_parameters == source.config.rope_parameters


@pytest.mark.parametrize("preset", ["smollm2-135m", "pythia-160m", "qwen3-0.6b"])
def test_transformers_loads_it(preset: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = create(f"preset:{preset}", tmp_path / "model", layers=1, dtype="f32")
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, report = loaded
    assert not report["missing_keys"] and not report["unexpected_keys"]
    source = SafetensorsWeights(folder)
    state = model.state_dict()
    for name in source.tensors():
        assert torch.equal(state[name], source.read(name)), name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(chat, return_tensors="pt").input_ids
    assert ids[0, 0] == 257 and ids.max() < 259
    output = model.generate(ids, max_new_tokens=3)
    assert not model.generation_config.do_sample
    assert torch.isfinite(model(output).logits).all()


def test_progress(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    create("smollm2-135m", tmp_path / "m", layers=1, progress=lambda *a: seen.append(a))
    assert [what for what, _, _ in seen] == ["write"] * len(seen)
    total = sum(i.nbytes for i in SafetensorsWeights(tmp_path / "m").tensors().values())
    assert seen[-1][1:] == (total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_existing_folder_needs_force(tmp_path: Path) -> None:
    folder = create("smollm2-135m", tmp_path / "m", layers=1)
    before = (folder / "config.json").read_text()
    with pytest.raises(InputError, match=r"exists.*--force"):
        create("smollm2-135m", folder, layers=2)
    assert (folder / "config.json").read_text() == before
    create("smollm2-135m", folder, layers=2, force=True)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_force_spares_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("all my work")
    with pytest.raises(InputError, match="not a model"):
        create("smollm2-135m", tmp_path / "home", layers=1, force=True)
    assert (tmp_path / "home" / "thesis.txt").exists()


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_nothing_half_written(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise failure

    monkeypatch.setattr(create_module, "_write_safetensors", fail)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        create("smollm2-135m", tmp_path / "m", layers=1)
    if isinstance(failure, OSError):
        assert "No space left" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dtype 'int8'"):
        create("smollm2-135m", tmp_path / "m", dtype="int8")
    with pytest.raises(ModelError, match=r"did you mean smollm2-135m\?"):
        create("smollm2-135", tmp_path / "m")
    with pytest.raises(InputError, match="layers 99"):
        create("smollm2-135m", tmp_path / "m", layers=99)
    with pytest.raises(InputError, match="cannot write"):
        (tmp_path / "file").write_text("")
        create("smollm2-135m", tmp_path / "file" / "m", layers=1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    content = byte_tokenizer_files(151936)["tokenizer.json"]
    assert isinstance(content, bytes)
    return Tokenizer.from_str(content.decode())


@pytest.mark.parametrize("text", ["hello", " two  spaces\n", "héllo 日本 🙂", "\x00\t\x7f", ""])
def test_tokenizer_encodes_bytes(text: str, tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode(text)
    assert encoding.ids == list(text.encode())
    assert tokenizer.decode(encoding.ids) == text


def test_tokenizer_decodes_every_id(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 151936
    assert [tokenizer.token_to_id(s) for s in create_module.SPECIALS] == [256, 257, 258]
    words = [tokenizer.decode([i]) for i in range(259, 151936)]
    assert len(set(words)) == len(words)
    assert all(word[0] == " " and word[1:].isalpha() for word in words)
    assert tokenizer.decode([104, 105, 258]) == "hi"
    assert tokenizer.decode([200_000]) == ""
    assert tokenizer.decode([0xFF, 0xC3]) == "\ufffd\ufffd"


def test_tokenizer_needs_room() -> None:
    with pytest.raises(InputError, match="vocabulary of 258"):
        byte_tokenizer_files(258)
    assert byte_tokenizer_files(259)


def test_list_models() -> None:
    rows = {row.name: row for row in list_models()}
    qwen = rows["preset:qwen3-0.6b"]
    assert (qwen.kind, qwen.architecture) == ("preset", "Qwen3ForCausalLM")
    assert (qwen.parameters, qwen.bytes) == (596_049_920, 1_192_099_840)
    bundled = rows["bundled:tiny-dense"]
    assert bundled.kind == "bundled" and bundled.parameters > 1_000_000
