"""A model that could not be opened is refused before the work, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.artifact import Artifact
from edgec.compiler import driver
from edgec.errors import ModelError
from edgec.runtime.chat import ChatTemplate
from edgec.runtime.config import GenerationConfig
from edgec.runtime.tokenizer import Tokenizer

Compile = Callable[..., Artifact]

UNREADABLE = [
    ("tokenizer.json", b'{"model": {}}'),
    ("tokenizer.json", b'{"model": 1}'),
    ("tokenizer.json", b'["model"]'),
    ("tokenizer.json", b'{"model": {"type": "Nonesuch"}}'),
    ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": 5, "merges": []}}'),
    ("tokenizer_config.json", b"{{{"),
    ("tokenizer_config.json", b"[]"),
    ("tokenizer_config.json", b"\xff"),
    ("tokenizer_config.json", b"[" * 100_000),
    ("special_tokens_map.json", b"{{{"),
    ("generation_config.json", b"{{{"),
    ("generation_config.json", b'{"top_p": 5}'),
    ("generation_config.json", b'{"temperature": "hot"}'),
    ("generation_config.json", b'{"eos_token_id": 1.5}'),
    ("generation_config.json", b'{"stop_strings": 5}'),
    ("generation_config.json", b"5"),
    ("generation_config.json", b"[" * 100_000),
    ("chat_template.jinja", b"{% for"),
    ("chat_template.jinja", b"{% nonesuch %}"),
    ("chat_template.jinja", b"{{ messages | nonesuch }}"),
    ("chat_template.jinja", b"\xff\xfe"),
    ("chat_template.jinja", b"{{ " + b"(" * 2000 + b")" * 2000 + b" }}"),
]


@pytest.mark.parametrize(("name", "content"), UNREADABLE, ids=lambda value: repr(value)[:60])
def test_unreadable(
    fake_compile: Compile,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
) -> None:
    def work(*_: Any, **__: Any) -> None:
        pytest.fail("the work began")

    monkeypatch.setattr(driver, "load", work)
    (model / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        fake_compile()
    assert name in str(caught.value)
    assert ".edgec-building" not in str(caught.value)
    assert "compile again" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_compiles_can_be_opened(fake_compile: Compile, model: Path) -> None:
    """Odd and readable files are no error."""
    (model / "tokenizer_config.json").write_text('{"add_bos_token": null, "a": [[[]]]}')
    (model / "generation_config.json").write_text('{"top_p": 1, "num_beams": 4, "x": {}}')
    (model / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    folder = fake_compile().path
    tokenizer = Tokenizer(folder)
    assert ChatTemplate.load(folder, tokenizer)
    with pytest.warns(UserWarning, match="num_beams"):
        GenerationConfig.from_file(folder / "generation_config.json")
