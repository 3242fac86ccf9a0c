"""A model of one layer, compiled with all stages dumped, and builds that take no time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import edgec
from edgec.artifact import Artifact
from edgec.compiler import driver
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files

FAKE = '''
"""Puts stages that take no time in place of the true ones; `hang` holds the last one up."""
from iree.compiler import ir
from edgec.compiler import driver

def fake(source, output, target, options):
    output.write_bytes(source.read_bytes() + b"//" + output.name.encode())

def install(hang=lambda: None):
    def last(source, output, target, options):
        fake(source, output, target, options)
        hang()
    driver.export = lambda model, options, context: ir.Module.parse("module {}", context)
    driver.STAGES.update(lowered=fake, input=fake, stream=fake, vmfb=last)
'''


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HF folder: Qwen3, one layer, tied embeddings, context 512. Do not write to it."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name, content in byte_tokenizer_files(260).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_folder` that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture(scope="session")
def dump(compile_once: Callable[..., Artifact], tiny_folder: Path, shared_folder: Path) -> Path:
    """The dump of a true compile of `tiny_folder` with context 128."""
    folder = shared_folder / "one-layer-ir"
    compile_once("one-layer", str(tiny_folder), ctx_size=128, dump_ir=folder)
    return folder


@pytest.fixture(scope="session")
def tiny_artifact(dump: Path, shared_folder: Path) -> Artifact:
    """What that compile wrote."""
    return Artifact.open(shared_folder / "one-layer.edgec")


@pytest.fixture
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that only copy: a compile takes no time, all but the programs is true."""
    for name in driver.STAGES:
        monkeypatch.setitem(driver.STAGES, name, driver.STAGES[name])
    monkeypatch.setattr(driver, "export", driver.export)
    scope: dict[str, Any] = {}
    exec(FAKE, scope)
    scope["install"]()


@pytest.fixture
def fake_compile(fake_stages: None, model: Path, tmp_path: Path) -> Callable[..., Artifact]:
    """`fake_compile(**options)`: compiles `model` into `tmp_path / "out"` with `fake_stages`."""

    def compile(**options: Any) -> Artifact:
        options = {"output": tmp_path / "out", "ctx_size": 128, **options}
        artifact = edgec.compile(str(options.pop("model", model)), **options)
        assert artifact is not None
        return artifact

    return compile


@pytest.fixture(scope="session")
def fake_script() -> str:
    """The text of a module with `install(hang)`, for a compile in another process."""
    return FAKE
