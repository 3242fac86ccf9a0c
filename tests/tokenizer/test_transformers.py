"""Ids and text are those of transformers' AutoTokenizer, for folders of every form.

A folder is compiled first (`edgec.models.sources.tokenizer`), because that is how it comes to a
device. Where AutoTokenizer takes the plain class, the folder itself must give the same.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from tests.tokenizer.folders import KINDS, PROCESSORS, TEXTS, write
from tokenizers import AddedToken
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from edgec.models.sources.tokenizer import tokenizer_files
from edgec.runtime.tokenizer import Detokenizer, Tokenizer

NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
FLAGS = [
    {},
    {"add_bos_token": True},
    {"add_bos_token": False},
    {"add_bos_token": None},
    {"add_eos_token": False},
    {"add_bos_token": True, "add_eos_token": True},
]
CLASSES = [
    ("PreTrainedTokenizerFast", "granite", "byte level"),
    ("LlamaTokenizerFast", "llama", "sentencepiece"),
    ("Qwen2Tokenizer", "qwen3", "byte level"),
]
MORE_CLASSES = [
    ("TokenizersBackend", "mistral", "sentencepiece"),
    ("LlamaTokenizer", "llama", "byte level"),
    ("GemmaTokenizer", "gemma2", "sentencepiece"),
    ("GPT2Tokenizer", "gpt2", "byte level"),
    ("GPTNeoXTokenizerFast", "gpt_neox", "byte level"),
    ("CohereTokenizerFast", "cohere", "byte level"),
    ("NoSuchTokenizer", "llama", "metaspace first"),
    (None, "phi3", "metaspace first"),
    (None, "opt", "byte level"),
    (None, "falcon", "wordpiece"),
]


def compiled(folder: Path) -> Tokenizer:
    """The folder's tokenizer as an artifact has it."""
    files = tokenizer_files("org/name", folder, AutoConfig.from_pretrained(folder))
    return from_files(folder / "artifact", files)


def from_files(folder: Path, files: dict[str, bytes]) -> Tokenizer:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Tokenizer(folder)


def check(folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    tokenizers = {"compiled": compiled(folder)}
    if type(theirs) is PreTrainedTokenizerFast:
        tokenizers["folder"] = Tokenizer(folder)
    for name, ours in tokenizers.items():
        assert ours.special_tokens == theirs.special_tokens_map, name
        for text, special in itertools.product(TEXTS, (True, False)):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids, (name, text, special)
            for skip in (True, False):
                expected = theirs.decode(ids, skip_special_tokens=skip)
                assert ours.decode(ids, skip_special_tokens=skip) == expected, (name, text)
            stream = Detokenizer(ours)
            pieces = [*(stream.add(token) for token in ids), stream.finish()]
            assert "".join(pieces) == theirs.decode(ids, skip_special_tokens=True), (name, text)


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize(
    ("name", "model_type", "kind"),
    [*CLASSES, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE_CLASSES)],
)
def test_flags_and_post_processors(
    name: str | None, model_type: str, kind: str, processor: str, tmp_path: Path
) -> None:
    """No flag overrules a tokenizer.json; what a class makes of the file is that class's affair."""
    for number, flags in enumerate(FLAGS):
        config = {**NAMES, **({"tokenizer_class": name} if name else {}), **flags}
        folder = tmp_path / str(number)
        made, end = KINDS[kind](), PROCESSORS[processor]
        check(write(folder, made, model_type=model_type, processor=end, tokenizer_config=config))


def test_the_two_reports(tmp_path: Path) -> None:
    for number, flags in enumerate(({"add_eos_token": False}, {"add_bos_token": None})):
        made, end = KINDS["sentencepiece"](), PROCESSORS["bos"]
        folder = write(
            tmp_path / str(number), made, processor=end, tokenizer_config={**NAMES, **flags}
        )
        assert Tokenizer(folder).encode("Hello")[0] == 1
        assert compiled(folder).encode("Hello")[0] == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clean", [True, False])
def test_kinds(kind: str, clean: bool, tmp_path: Path) -> None:
    config = {
        **NAMES,
        "clean_up_tokenization_spaces": clean,
        "tokenizer_class": "TokenizersBackend",
    }
    check(write(tmp_path / "m", KINDS[kind](), model_type="mistral", tokenizer_config=config))


def described(content: str, **flags: bool) -> dict[str, Any]:
    usual = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {"content": content, **usual, "special": False, **flags}


TOOL = described("<|tool|>", special=True)
UNSAID = {k: v for k, v in described("<|word|>", rstrip=True).items() if k != "special"}
ADDED: dict[str, dict[str, Any]] = {
    "added_tokens_decoder": {"tokenizer_config": {"added_tokens_decoder": {"900": TOOL}}},
    "several, out of order": {
        "tokenizer_config": {
            "added_tokens_decoder": {
                "901": described("<img>", special=True),
                "900": TOOL,
                "7": described("<pad>"),
            }
        }
    },
    "flags": {
        "tokenizer_config": {
            "added_tokens_decoder": {
                "900": described("<|tool|>", rstrip=True),
                "901": described("<extra>", lstrip=True, special=True),
                "902": described("<|word|>", single_word=True, normalized=True),
            }
        }
    },
    "other flags than in tokenizer.json": {
        "in_file": (
            AddedToken("<|tool|>", normalized=False),
            AddedToken("<img>", normalized=False),
        ),
        "tokenizer_config": {
            "added_tokens_decoder": {
                "900": described("<|tool|>", rstrip=True, special=True),
                "901": described("<img>", lstrip=True),
            }
        },
    },
    "added_tokens.json": {"added_tokens": {"<|tool|>": 900, "<img>": 901, "<pad>": 902}},
    "added_tokens.json, special": {
        "added_tokens": {"<|tool|>": 900, "<pad>": 901},
        "tokenizer_config": {"pad_token": "<pad>", "extra_special_tokens": ["<|tool|>"]},
    },
    "added_tokens.json beside a decoder": {
        "added_tokens": {"<img>": 901},
        "tokenizer_config": {"added_tokens_decoder": {"900": TOOL}},
    },
    "additional in the map": {
        "special_tokens_map": {"additional_special_tokens": ["<|tool|>", "<extra>"]}
    },
    "additional in both": {
        "special_tokens_map": {"additional_special_tokens": ["<extra>"]},
        "tokenizer_config": {"additional_special_tokens": ["<|tool|>", "<img>"]},
    },
    "extra in both": {
        "special_tokens_map": {"extra_special_tokens": ["<extra>", UNSAID]},
        "tokenizer_config": {"extra_special_tokens": ["<|tool|>", "<img>"]},
    },
    "map beside a decoder": {
        "special_tokens_map": {"additional_special_tokens": ["<img>"], "pad_token": "<pad>"},
        "tokenizer_config": {"added_tokens_decoder": {"900": TOOL}},
    },
    "objects in the map": {
        "special_tokens_map": {
            "bos_token": {k: v for k, v in described("<s>").items() if k != "special"},
            "pad_token": described("<pad>", lstrip=True, rstrip=True),
        }
    },
    "names of its own": {
        "tokenizer_config": {
            "image_token": "<img>",
            "pad_token": "<pad>",
            "mask_token": "<|word|>",
            "extra_special_tokens": {"video": "<extra>", "tool_token": "<|tool|>"},
        }
    },
    "typed objects": {
        "tokenizer_config": {
            "pad_token": {"__type": "AddedToken", **described("<pad>", lstrip=True)},
            "additional_special_tokens": [
                {"__type": "AddedToken", **described("<|tool|>", rstrip=True)},
                "<img>",
            ],
        }
    },
    "a name that is not in the vocabulary": {"tokenizer_config": {"pad_token": "<pad>"}},
    "special tokens are split": {
        "in_file": (AddedToken("<|tool|>", special=True),),
        "tokenizer_config": {"split_special_tokens": True},
    },
}


@pytest.mark.parametrize("case", ADDED)
@pytest.mark.parametrize(
    ("name", "model_type", "kind"),
    [
        ("TokenizersBackend", "mistral", "byte level"),
        ("LlamaTokenizer", "llama", "sentencepiece"),
        pytest.param("PreTrainedTokenizerFast", "llama", "sentencepiece", marks=pytest.mark.slow),
        pytest.param("Qwen2Tokenizer", "qwen2", "byte level", marks=pytest.mark.slow),
    ],
)
def test_added_tokens(case: str, name: str, model_type: str, kind: str, tmp_path: Path) -> None:
    files = dict(ADDED[case])
    config = {"tokenizer_class": name, **NAMES, **files.pop("tokenizer_config", {})}
    made = KINDS[kind]()
    check(write(tmp_path / "m", made, model_type=model_type, tokenizer_config=config, **files))


@pytest.mark.parametrize("space", [True, False, None])
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_prefix_space(space: bool | None, legacy: bool, name: str, tmp_path: Path) -> None:
    config = {**NAMES, "add_prefix_space": space, "legacy": legacy, "tokenizer_class": name}
    check(write(tmp_path / "m", KINDS["metaspace first"](), tokenizer_config=config))
