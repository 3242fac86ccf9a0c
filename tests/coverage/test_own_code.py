"""A folder with a modelling file of its own: compiled as any family where trusted, else not run."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec.coverage import check as checking
from edgec.errors import ModelError
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
from edgec.models.sources.resolve import resolve
from edgec.models.tiny import tiny_model

CODE = Path(__file__).parent / "own_code" / "modeling_parallel.py"
AUTO_MAP = {
    "AutoConfig": "modeling_parallel.ParallelConfig",
    "AutoModelForCausalLM": "modeling_parallel.ParallelForCausalLM",
}
RAN = "import builtins\n\nbuiltins.edgec_test_ran = True\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration, the code and the tokenizer; the weights are not made yet."""
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(CODE, folder)
    config = {
        "architectures": ["ParallelForCausalLM"],
        "model_type": "parallel",
        "auto_map": AUTO_MAP,
        "num_hidden_layers": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in byte_tokenizer_files(288).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return folder


def edit(folder: Path, **keys: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def test_it_compiles_and_agrees_with_eager(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    eager = tiny_model(config, trust_remote_code=True)
    eager.save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "saved" / "model.safetensors", folder)
    artifact = edgec.compile(
        str(folder),
        output=tmp_path / "artifact",
        ctx_size=128,
        chunk_size=96,
        trust_remote_code=True,
    )
    assert artifact is not None
    assert {buffer.kind for buffer in artifact.manifest.state} == {"attention"}
    stages = checking._Stages()
    assert checking._compare(eager, artifact, "cpu", stages) <= checking.TOLERANCE
    assert not list(artifact.path.rglob("*.py"))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether a file that starts with `RAN` was run since."""
    import builtins

    monkeypatch.setattr(builtins, "edgec_test_ran", False, raising=False)
    return lambda: bool(vars(builtins)["edgec_test_ran"])


def test_nothing_runs_without_the_flag(folder: Path, ran: Callable[[], bool]) -> None:
    """Neither the model's code, nor its tokenizer's, nor what merely lies beside them."""
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["tokenization_own.Own", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for name in ("modeling_parallel.py", "tokenization_own.py", "setup.py", "__init__.py"):
        (folder / name).write_text(RAN)
    message = r"ParallelForCausalLM needs .* in modeling_parallel\.py \(.*--trust-remote-code\)"
    with pytest.raises(ModelError, match=message):
        edgec.compile(str(folder))
    assert not ran()


def test_the_tokenizers_code_never_runs(folder: Path, ran: Callable[[], bool]) -> None:
    """The runtime has no transformers: `tokenizer.json` is all that it reads."""
    edit(folder, auto_map=AUTO_MAP | {"AutoTokenizer": ["tokenization_own.Own", None]})
    (folder / "tokenization_own.py").write_text(RAN)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="safetensors"):
        resolve(str(folder), trust_remote_code=True)
    assert not ran()


def test_a_known_type_does_not_run_the_folders_code(
    folder: Path, ran: Callable[[], bool], tmp_path: Path
) -> None:
    (folder / "modeling_parallel.py").write_text(RAN)
    edit(folder, model_type="llama", architectures=["LlamaForCausalLM"])
    with pytest.raises(ModelError, match="no model.safetensors"):
        resolve(str(folder))
    assert not ran()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("other/repository--modeling.Model", "'other/repository--modeling.Model' names no class"),
        ("../modeling_parallel.ParallelForCausalLM", "names no class in a file beside it"),
        (["modeling_parallel.ParallelForCausalLM"], "names no class in a file beside it"),
        ("modeling_missing.Model", r"no modeling_missing\.py \(auto_map in config.json names it"),
    ],
)
def test_only_code_that_came_with_the_model(
    folder: Path, named: Any, message: str, ran: Callable[[], bool]
) -> None:
    (folder / "modeling_parallel.py").write_text(RAN)
    edit(folder, auto_map=AUTO_MAP | {"AutoModelForCausalLM": named})
    with pytest.raises(ModelError, match=message):
        resolve(str(folder), trust_remote_code=True)
    assert not ran()
