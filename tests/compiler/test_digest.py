"""Two builds are the same when, and only when, everything that they depend on is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgec.compiler.digest
from edgec.artifact import Artifact

Compile = Callable[..., Artifact]


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "f16"},
        {"ctx_size": 64},
        {"prompt_multiple": 16},
        {"chunk_size": 64},
        {"dynamic_shapes": "none"},
        {"dynamic_shapes": "op"},
        {"seed": 1},
        {"extra_compile_args": ("--iree-opt-level=O1",)},
        {"target": "cpu:cortex-a76"},
    ],
    ids=str,
)
def test_each_option_counts(fake_compile: Compile, tmp_path: Path, options: dict[str, Any]) -> None:
    plain = fake_compile().manifest.digest
    other = fake_compile(output=tmp_path / "other", **options).manifest
    assert other.digest != plain
    recorded = json.loads(json.dumps(options))
    assert {k: other.options[k] for k in recorded if k != "target"} == {
        k: v for k, v in recorded.items() if k != "target"
    }


def test_what_is_filled_in_is_what_was_meant(fake_compile: Compile, tmp_path: Path) -> None:
    plain = fake_compile(ctx_size=None).manifest.digest
    said = fake_compile(output=tmp_path / "b", ctx_size=512, chunk_size=256, target="cpu:host")
    assert said.manifest.digest == plain


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_the_model_counts(fake_compile: Compile, model: Path, tmp_path: Path, file: str) -> None:
    plain = fake_compile().manifest.digest
    content = (model / file).read_bytes()
    changed = {
        "model.safetensors": content[:-1] + bytes([content[-1] ^ 1]),
        "tokenizer.json": content.replace(b"<|im_end|>", b"<|im_stop|>"),
        "config.json": content.replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 1e-05'),
    }[file]
    assert changed != content
    (model / file).write_bytes(changed)
    assert fake_compile(output=tmp_path / "other").manifest.digest != plain


def test_edgec_itself_counts(
    fake_compile: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fake_compile().manifest.digest
    monkeypatch.setattr(edgec.compiler.digest, "_own_code", lambda: "mended")
    assert fake_compile(output=tmp_path / "other").manifest.digest != plain


def test_where_it_happens_does_not_count(
    fake_compile: Compile, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fake_compile().manifest.digest
    elsewhere = tmp_path / "else" / "where"
    shutil.copytree(model, elsewhere)
    (elsewhere / "README.md").write_text("about the model")
    monkeypatch.chdir(elsewhere.parent)
    assert fake_compile(model=Path("where"), output="o").manifest.digest == plain
    dumped = fake_compile(output=tmp_path / "d", dump_ir=tmp_path / "ir", use_cache=False)
    assert dumped.manifest.digest == plain
