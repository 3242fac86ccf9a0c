"""A byte-level tokenizer, and sessions on a program in Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.fakes import EOS, FakeProgram, make_manifest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

from edgec.artifact import Artifact
from edgec.runtime import GenerationConfig, LoadedModel, Session
from edgec.runtime.chat import ChatTemplate
from edgec.runtime.tokenizer import Tokenizer

SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>")
TEMPLATE = """\
{% for message in messages %}
<|{{ message.role }}|>{{ message.content }}<|end|>
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with one token for each byte, and three special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    by_byte = {ord(c): c for c in alphabet if ord(c) < 256}
    shifted = iter(c for c in alphabet if ord(c) >= 256)
    vocab = {by_byte.get(b) or next(shifted): b for b in range(256)}
    tokenizer = HFTokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": SPECIAL[0]}))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer(tokenizer_folder)


@pytest.fixture
def make_program() -> Callable[..., FakeProgram]:
    """`make_program(script=..., fail_at=..., **manifest)`."""

    def make(
        script: dict[int, int] | None = None, fail_at: int | None = None, **manifest: Any
    ) -> FakeProgram:
        return FakeProgram(make_manifest(**manifest), script or {}, fail_at)

    return make


@pytest.fixture
def make_session(
    make_program: Callable[..., FakeProgram], tokenizer: Tokenizer
) -> Callable[..., Session]:
    """`make_session(text="what it answers", prompt="what it is asked", **engine)`."""

    def make(
        answer: str | bytes | None = None, prompt: str = "", template: bool = True, **engine: Any
    ) -> Session:
        fake = make_program(**engine)
        if answer is not None:
            data = answer.encode() if isinstance(answer, str) else answer
            start = len(prompt.encode())
            fake.script.update({start + i: b for i, b in enumerate([*data, EOS])})
        chat = ChatTemplate(TEMPLATE, tokenizer.special_tokens) if template else None
        defaults = GenerationConfig(eos_token_id=(EOS,))
        artifact = Artifact(Path("fake"), fake.manifest)
        return Session(LoadedModel(artifact, fake, tokenizer, chat, defaults))

    return make
