"""Tokenizers that cannot be used are refused by name, and their code runs only if trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tokenizer.folders import KINDS, write
from transformers import AutoConfig

from edgec.errors import ModelError
from edgec.models.sources.tokenizer import tokenizer_files


def files_of(folder: Path, **options: Any) -> dict[str, bytes]:
    return tokenizer_files("org/name", folder, AutoConfig.from_pretrained(folder), **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "m", KINDS["byte level"](), model_type="mistral")


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "no object": ("tokenizer_config.json", b"[1]", "config.json cannot be read: .*object"),
    "no JSON": ("special_tokens_map.json", b"{{{", "special_tokens_map.json cannot be read"),
    "no UTF-8": ("added_tokens.json", b"\xff", "added_tokens.json cannot be read"),
    "deep": ("tokenizer_config.json", b"[" * 100_000, "tokenizer_config.json cannot be read"),
    "a token that is a number": (
        "tokenizer_config.json",
        b'{"bos_token": 5}',
        "a file beside it cannot be loaded.*bos_token",
    ),
    "a tokenizer of no kind": (
        "tokenizer.json",
        b'{"model": {"type": "Nonesuch"}, "added_tokens": []}',
        "tokenizer.json or a file beside it cannot be loaded",
    ),
    "a template that is a number": (
        "tokenizer_config.json",
        b'{"chat_template": 5}',
        "tokenizer_config.json: chat template",
    ),
    "a template without a text": (
        "tokenizer_config.json",
        b'{"chat_template": [{"name": "x"}]}',
        "loaded: 'template'",
    ),
    "a template by name": (
        "tokenizer_config.json",
        b'{"chat_template": [{"name": "rag", "template": "{% for"}]}',
        "chat template 'rag' cannot be used: .*does not parse",
    ),
    "a template in a file": ("chat_template.jinja", b"{{ x | nonesuch }}", "chat_template.jinja: "),
    "a template that is no text": ("chat_template.jinja", b"\xff{{", "chat_template.jinja cannot"),
    "a break": ("chat_template.jinja", b"{% break %}", "'break' outside loop"),
    "a deep template": (
        "chat_template.jinja",
        b"{% if 1 %}" * 500 + b"{% endif %}" * 500,
        "chat_template.jinja: ",
    ),
    "an older file": ("chat_template.json", b'["x"]', "chat_template.json cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(folder: Path, name: str) -> None:
    file, content, says = BROKEN[name]
    (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        files_of(folder)
    assert caught.value.remedy and "\n" not in str(caught.value)


def test_what_cannot_be_read_again(folder: Path) -> None:
    """Two tokens of one id: only one of them is written, and a merge needs the other."""
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["model"]["vocab"]["He"] = stored["model"]["vocab"]["ll"]
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    with pytest.raises(ModelError, match="cannot be loaded: Token `(He|ll)` out of vocabulary"):
        files_of(folder)


def test_half_a_character_in_a_name(folder: Path) -> None:
    config = {"extra_special_tokens": {"x\ud800": "<s>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert json.loads(files_of(folder)["tokenizer_config.json"]) == config


def test_parsing_a_template_computes_nothing(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ 'x' * 10**11 }}")
    assert files_of(folder)["chat_template.jinja"] == b"{{ 'x' * 10**11 }}"


@pytest.mark.parametrize("trusted", [True, False])
def test_code_of_the_model_runs_only_if_trusted(folder: Path, trusted: bool) -> None:
    mark = folder / "ran"
    (folder / "own.py").write_text(
        f"from transformers import PreTrainedTokenizerFast\nopen({str(mark)!r}, 'w').close()\n"
        "class Own(PreTrainedTokenizerFast):\n"
        "    def __init__(self, **options):\n"
        "        super().__init__(**{**options, 'pad_token': '<own>'})\n"
    )
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<s>"}))
    settings = json.loads(files_of(folder, trust_remote_code=trusted)["tokenizer_config.json"])
    assert mark.exists() is trusted
    assert settings["bos_token"] == "<s>"
    assert settings.get("pad_token") == ("<own>" if trusted else None)


def test_a_class_in_python_leaves_the_file_as_it_is(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}')
    kept = json.loads(files_of(folder)["tokenizer.json"])
    assert kept["model"] == json.loads((folder / "tokenizer.json").read_text())["model"]


def test_a_name_on_the_hub_counts(tmp_path: Path) -> None:
    """transformers takes these models' files as they are, whatever class they name."""
    config = {"tokenizer_class": "LlamaTokenizer"}
    folder = write(tmp_path / "m", KINDS["metaspace never"](), tokenizer_config=config)
    loaded = AutoConfig.from_pretrained(folder)

    def scheme(model: str) -> str:
        files = tokenizer_files(model, folder, loaded)
        found: str = json.loads(files["tokenizer.json"])["pre_tokenizer"]["prepend_scheme"]
        return found

    assert scheme("deepseek-ai/deepseek-coder-1.3b-base") == "never"
    assert scheme("org/name") != "never"
