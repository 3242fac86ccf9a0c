"""The list of the contract, from the command line: one line, exit code 2, nothing half-written.

Each kind is here once, end to end. Its variants, and what else can be wrong with a thing, are
tested where the thing is:

| bad input | here | variants |
|---|---|---|
| unknown model or preset | `test_compile` | tests/models/sources/test_resolve.py, test_hub.py, test_presets.py |
| architecture that is not causal LM | `test_compile` | tests/models/sources/test_resolve.py |
| config keys that matter and are not supported | `test_compile` | tests/models/sources/test_resolve.py |
| safetensors missing, truncated | `test_weights` | tests/models/weights/test_source.py |
| safetensors mis-shaped, all mismatches at once | `test_all_mismatches_at_once` | tests/models/weights/test_source.py |
| context not a multiple, beyond the model's | `test_compile` | tests/compiler/test_options.py |
| unknown target, dtype | `test_compile` | tests/compiler/test_targets.py, test_options.py |
| no disk space, unwritable output | `test_no_disk_space`, `test_compile` | tests/compiler/test_artifact.py |
| existing output without `--force` | `test_existing_output` | tests/compiler/test_artifact.py |
| artifact corrupted, truncated, foreign, newer | `test_artifact` | tests/compiler/test_manifest.py, tests/runtime/test_program.py |
| tokenizer missing | `test_compile`, `test_artifact` | tests/models/sources/test_resolve.py, tests/runtime/test_tokenizer.py |
| empty prompt | `test_run` | tests/cli/test_errors.py, tests/runtime/test_session.py |
| prompt + new tokens beyond the context | `test_run` | tests/runtime/test_session.py |
| sampling values out of range | `test_run` | tests/runtime/test_config.py |
| interrupted compile, then a run | `test_interrupted` | tests/compiler/test_artifact.py, tests/cli/test_errors.py |
| two compiles into the same cache at once | – | tests/compiler/test_artifact.py |
"""  # noqa: E501 - a table

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from edgec import cli
from edgec.artifact import Artifact
from edgec.manifest import MANIFEST_NAME, SCHEMA_VERSION
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    config = AutoConfig.for_model(
        "llama",
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name, content in byte_tokenizer_files(260).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: in it a model, `m`, and a file, `file`."""
    shutil.copytree(made, tmp_path / "m")
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def artifact(tiny_dense_artifact: Artifact, place: Path) -> Path:
    """A copy of the bundled model's artifact, `a`, in the current folder."""
    return Path(shutil.copytree(tiny_dense_artifact.path, "a"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


@pytest.fixture
def refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Runs a command that must fail and change nothing in its folder; returns its one line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        before = tree(tmp_path)
        capfd.readouterr()
        code = cli.execute(arguments)
        said = capfd.readouterr()
        lines = [line for line in said.err.splitlines() if not line.startswith("stage ")]
        assert (code, said.out, len(lines)) == (2, "", 1), said.err
        assert lines[0].startswith("edgec: error: ")
        assert tree(tmp_path) == before
        return lines[0]

    return run


def edit(file: Path, **keys: Any) -> None:
    values = json.loads(file.read_text()) | keys
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "model 'nothing': not found (give org/name on the hub, a folder, "),
        (["./none"], "model ./none: no such folder (check the path)"),
        (["preset:qwen4"], "preset 'qwen4': unknown ("),
        (["bundled:tiny"], "bundled model 'tiny': unknown ("),
        (["org/name", "--offline"], "org/name"),
        (["m", "--target", "tpu"], "target 'tpu': must be one of cpu"),
        (["m", "--target", "cpu:none"], "target 'cpu:none': Unknown CPU"),
        (["m", "--dtype", "f8"], "dtype 'f8': must be one of f32, f16, bf16"),
        (["m", "-c", "100"], "ctx-size 100: must be a multiple of the prompt multiple, 32 (try 96"),
        (["m", "-c", "1024"], "ctx-size 1024: beyond the context of m, 512 tokens (use -c 512 "),
        (["m", "-o", "file/out"], "output file/out: cannot write to file: not a folder (choose"),
        (["m", "-o", "/proc/out"], "output /proc/out: cannot write to /proc: "),
        (["m", "--cache-dir", "file"], "cache: cannot write to file/locks: not a folder (choose "),
        (
            ["m", "-o", "o", "--dump-ir", "file"],
            "dump-ir: cannot write to file: not a folder (choo",
        ),
    ],
)
@pytest.mark.usefixtures("place")
def test_compile(refused: Refused, arguments: list[str], says: str) -> None:
    assert says in refused("compile", *arguments)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
            "model m: BertForMaskedLM is not a causal language model (give a model that generates",
        ),
        ({"model_type": "t5", "is_encoder_decoder": True}, "model m: t5 is an encoder-decoder (gi"),
        ({"quantization_config": {"quant_method": "fp8"}}, "model m: its weights are quantised"),
        ({"rope_parameters": {"rope_type": "sideways", "rope_theta": 1.0}}, "sideways"),
        ({"hidden_act": "sideways"}, "sideways"),
    ],
)
@pytest.mark.usefixtures("place")
def test_config(refused: Refused, keys: dict[str, Any], says: str) -> None:
    edit(Path("m/config.json"), **keys)
    assert says in refused("compile", "m", "-o", "out")


@pytest.mark.usefixtures("place")
def test_tokenizer_missing(refused: Refused) -> None:
    Path("m/tokenizer.json").unlink()
    assert "model m: no tokenizer.json (make one: " in refused("compile", "m", "-o", "out")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("missing", "model m: no model.safetensors (download"),
        ("truncated", "m/model.safetensors: truncated: "),
        ("foreign", "m/model.safetensors: not a safetensors file"),
    ],
)
@pytest.mark.usefixtures("place")
def test_weights(refused: Refused, damage: str, says: str) -> None:
    file = Path("m/model.safetensors")
    if damage == "missing":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-100] if damage == "truncated" else b"PK" * 100)
    assert says in refused("compile", "m", "-o", "out")


@pytest.mark.usefixtures("place")
def test_all_mismatches_at_once(refused: Refused) -> None:
    file = Path("m/model.safetensors")
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    tensors["lm_head.weight"] = torch.zeros(260, 31)
    save_file(tensors, file, {"format": "pt"})
    line = refused("compile", "m", "-o", "out")
    assert "weights: 2 tensors do not fit the configuration" in line
    assert "model.norm.weight is missing" in line
    assert "lm_head.weight is [260, 31], not [260, 32]" in line


@pytest.mark.usefixtures("place")
def test_no_disk_space(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    line = refused("compile", "m", "-o", "out")
    assert "output out: needs 64 MB, the disk has 1 MB free (free some space or choose" in line


def test_existing_output(refused: Refused, artifact: Path) -> None:
    says = "output a: exists and is another build (add --force to replace it, or choose"
    assert says in refused("compile", "m", "-o", "a")
    assert "output m: exists and is no artifact" in refused("compile", "m", "-o", "m", "--force")


DAMAGES = {
    "manifest": "a/manifest.json: not valid JSON: ",
    "truncated": "artifact a: weights.irpa has ",
    "missing": "artifact a: cpu.vmfb is missing (compile again)",
    "foreign": "a/manifest.json: not an edgec manifest (give a folder that edgec made)",
    "newer": f"is newer than this edgec reads ({SCHEMA_VERSION}) (upgrade edgec)",
    "iree": "IREE",
    "program": "cpu.vmfb",
    "tokenizer": "tokenizer.json",
}


@pytest.mark.parametrize(
    ("command", "damage"),
    [
        (command, damage)
        for command in ("run", "inspect")
        for damage in DAMAGES
        if (command, damage) != ("inspect", "iree")  # any IREE's artifact can be inspected
    ],
)
def test_artifact(refused: Refused, artifact: Path, command: str, damage: str) -> None:
    manifest = artifact / MANIFEST_NAME
    if damage == "manifest":
        manifest.write_bytes(manifest.read_bytes()[:-20])
    elif damage == "truncated":
        file = artifact / "weights.irpa"
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "missing":
        (artifact / "cpu.vmfb").unlink()
    elif damage == "foreign":
        manifest.write_text('{"name": "an app", "version": 3}')
    elif damage == "newer":
        edit(manifest, schema_version=SCHEMA_VERSION + 1)
    elif damage == "iree":
        said = Artifact.open(artifact).manifest
        changed = dataclasses.replace(said, versions=said.versions | {"iree": "2.0.0"})
        manifest.write_text(changed.to_json())
    elif damage == "program":
        file = artifact / "cpu.vmfb"
        content = file.read_bytes()
        half = len(content) // 2
        file.write_bytes(content[:half] + b"\0" * 64 + content[half + 64 :])
    else:
        said = Artifact.open(artifact).manifest
        (artifact / "tokenizer.json").unlink()
        if command == "run":  # the artifact of a program that forgot it
            files = {k: v for k, v in said.files.items() if k != "tokenizer.json"}
            manifest.write_text(dataclasses.replace(said, files=files).to_json())
    options = {"run": ["-p", "hi"], "inspect": ["--verify"]}[command]
    assert DAMAGES[damage] in refused(command, "a", *options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-p", ""], "the prompt is empty (give -p TEXT"),
        (["-p", "hi", "-n", "100000"], "new ones are beyond the context of 1024 (shorten the pro"),
        (["-p", "word " * 2000], "beyond the context of 1024 (shorten the prompt"),
        (["-p", "hi", "-n", "0"], "max_new_tokens=0: must be an integer of at least 1"),
        (["-p", "hi", "--temperature", "-1"], "temperature=-1.0: must be a number of at least 0"),
        (["-p", "hi", "--top-k", "-1"], "top_k=-1: must be"),
        (["-p", "hi", "--top-p", "1.5"], "top_p=1.5: must be a number from 0 to 1"),
        (["-p", "hi", "--min-p", "nan"], "min_p=nan: must be a number from 0 to 1"),
        (["-p", "hi", "--repetition-penalty", "0"], "repetition_penalty=0.0: must be"),
        (["-p", "hi", "--seed", "-1"], "seed=-1: must be"),
        (["-p", "hi", "--device", "tpu"], "tpu"),
    ],
)
def test_run(
    refused: Refused, tiny_dense_artifact: Artifact, options: list[str], says: str
) -> None:
    assert says in refused("run", str(tiny_dense_artifact.path), *options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted(place: Path, number: signal.Signals) -> None:
    """Stopped while iree-compile runs: nothing of it is left, and the next compile succeeds."""
    command = [sys.executable, "-c", "from edgec.cli import main; main()"]
    arguments = ["compile", "m", "-c", "64", "-o", "out", "--json"]
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs in the background of a script inherits a SIGINT that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: any(place.glob(".edgec-building-*/*.lowered.mlir")))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    killed = number == signal.SIGKILL
    assert process.returncode == (-9 if killed else 128 + number)
    assert out == ""
    assert err == ("edgec: interrupted\n" if number == signal.SIGINT else "")
    assert len(list(place.glob(".edgec-building-*"))) == killed
    assert killed or not working_in(place)  # iree-compile has gone too
    assert not Path("out").exists()
    if killed:  # once is enough: a compile takes seconds
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        Artifact.open("out").verify()
    wait_for(lambda: not list(place.glob(".edgec-building-*")))


def working_in(folder: Path) -> list[str]:
    """Processes, besides this one, whose current folder it is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.name != str(os.getpid()) and (process / "cwd").readlink() == folder:
                found.append(process.name)
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
