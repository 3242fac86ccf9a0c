"""Files of a model that cannot be: refused in one line of bounded length, and before the work."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgec.errors import LONGEST, EdgecError, ModelError
from edgec.json_files import MAX_DEPTH, parse_json, read_json
from edgec.models.load import load
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
from edgec.models.sources.resolve import resolve

DEEP = b"[" * 100_000
CONFIG = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **CONFIG)).save_pretrained(
        folder
    )
    for name, content in byte_tokenizer_files(260).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def change(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(folder: Path) -> str:
    """The line that `resolve` and then `load` say."""
    with pytest.raises(ModelError) as caught:
        load(resolve(str(folder)).config, "f32")
    assert len(str(caught.value)) <= 2 * LONGEST + 10
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_hidden_layers": 100_000}, "num_hidden_layers is 100000, and the checkpoint has 25"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, and the checkpoint"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000, and the checkpoint has"),
        ({"hidden_size": 2**62}, "hidden_size is"),
        ({"intermediate_size": 10**15}, "intermediate_size is"),
        ({"num_attention_heads": 2**40}, "num_attention_heads is"),
        ({"num_attention_heads": 10**400}, "num_attention_heads is"),
        ({"text_config": {"num_hidden_layers": 10**5}}, "num_hidden_layers is"),
        ({"vocab_size": "x"}, "config.json: "),
        ({"vocab_size": -1}, "transformers cannot build it: "),
        ({"head_dim": 0}, ""),
        ({"num_attention_heads": 0}, ""),
        ({"architectures": [{}]}, "architectures in config.json is not a list of names"),
        ({"architectures": [["a"]]}, "architectures in config.json is not a list of names"),
        ({"text_config": False}, "config.json"),
        ({"text_config": []}, "config.json"),
        ({"model_type": "x" * 10_000_000}, "is unknown to transformers"),
        ({"layer_types": {"a": 1}}, "config.json"),
        ({"rope_parameters": 5}, "config.json"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_configuration(folder: Path, values: dict[str, Any], says: str) -> None:
    change(folder, **values)
    assert says in refused(folder)


GROUPS: list[Any] = [
    [1], {"a": 1}, {"a": {"weights": 1}}, {"a": {"weights": {"num_bits": "x"}}}, 5, "x",
    {"a": {"weights": {"num_bits": [4], "type": {}}}}, {"a": {"weights": {"num_bits": 4.0}}},
    {}, {"a": {}}, {"a": {"weights": {"num_bits": 4}}, "b": {"weights": {"num_bits": 8}}},
]  # fmt: skip


@pytest.mark.parametrize(
    "quantization",
    [
        *({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": g}
          for g in GROUPS),
        *({"quant_method": method, "bits": bits}
          for method in ("gptq", "awq") for bits in ("x", 4.0, True, [4], None, {}, 10**400)),
        {"quant_method": ["gptq"]},
        {"quant_method": "gptq", "checkpoint_format": {}},
        {"quant_method": "awq", "version": [1]},
        [1], 5, "x",
    ],
    ids=lambda value: str(value)[:80],
)  # fmt: skip
@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
def test_quantization(folder: Path, key: str, quantization: Any) -> None:
    change(folder, **{key: quantization})
    assert "is not supported" in refused(folder)


def test_quantization_under_its_short_name(folder: Path) -> None:
    """A checkpoint without packed matrices: there is nothing to unpack, and no bug to report."""
    change(folder, quantization={"quant_method": "gptq", "bits": 4})
    assert resolve(str(folder)).config.vocab_size == 260


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    "content",
    [DEEP, b"[" * 500 + b"]" * 500, b'{"a":' * 500 + b"1" + b"}" * 500, b"\xff\xfe", b"", b"5",
     b"null", b'"model"', b'["model"]', b'{"model": 1}', b"[" * 50 + b"1" * 5000 + b"]" * 50],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_small_files(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    if "index" in name:  # which is not read beside the only file
        (folder / "model.safetensors").unlink()
    refused(folder)


def safetensors(folder: Path, header: bytes, data: bytes = b"") -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)


def entry(shape: str = "[1]", offsets: str = "[0, 4]", dtype: str = '"F32"') -> bytes:
    return f'"a": {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}'.encode()


@pytest.mark.parametrize(
    "header",
    [
        DEEP,
        b'{"__metadata__": ' + DEEP,
        b"{" + entry(shape="[Infinity]") + b"}",
        b"{" + entry(shape="[NaN]") + b"}",
        b"{" + entry(shape="[1e400]") + b"}",
        b"{" + entry(shape="[1.0]") + b"}",
        b"{" + entry(shape="[true]") + b"}",
        b"{" + entry(shape='["1"]') + b"}",
        b"{" + entry(shape="[-1, -1]") + b"}",
        b"{" + entry(shape="{}") + b"}",
        b"{" + entry(shape="5") + b"}",
        b"{" + entry(shape=str([2**63] * 1000)) + b"}",
        b"{" + entry(shape=f"[1{'0' * 4000}]") + b"}",
        b"{" + entry(shape=str([1] * 100_000)) + b"}",
        b"{" + entry(offsets="[0, Infinity]") + b"}",
        b"{" + entry(offsets="[0, -Infinity]") + b"}",
        b"{" + entry(offsets="[0, 4.0]") + b"}",
        b"{" + entry(offsets="[0]") + b"}",
        b"{" + entry(offsets="{}") + b"}",
        b"{" + entry(dtype="[]") + b"}",
        b"{" + entry(dtype="5") + b"}",
        b"{" + entry() + b", " + entry() + b"}",
        b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": 5}',
        b'{"a": null}',
        b"{" + b", ".join([b'"x": {"data_offsets": 1}'] * 300_000) + b"}",
    ],
    ids=lambda header: repr(header[:60]),
)
def test_safetensors_headers(folder: Path, header: bytes) -> None:
    """The format's own rules: <https://github.com/huggingface/safetensors>, "Format"."""
    safetensors(folder, header, b"\0\0\0\0")
    assert "model.safetensors: " in refused(folder)


@pytest.mark.parametrize(
    "model",
    ["~nobody-such/x", "~nobody-such", "a" * 5000, "/" + "a/" * 5000, "a\0b", "./a\udcffb", ""],
    ids=lambda model: repr(model[:20]),
)
def test_names(model: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(model)
    assert len(str(caught.value)) <= 2 * LONGEST


def test_messages_are_bounded() -> None:
    error = EdgecError("begin " + "x" * 10**7 + " end", "y" * 10**7)
    assert len(str(error)) < 2 * LONGEST + 10
    assert error.what.startswith("begin x") and error.what.endswith("x end")
    assert str(EdgecError("short", "mend it")) == "short (mend it)"


LINKED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json",
          "generation_config.json", "special_tokens_map.json")  # fmt: skip


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("target", ["absolute", "relative", "loop", "gone"])
def test_links_out_of_the_folder(folder: Path, tmp_path: Path, name: str, target: str) -> None:
    secret, file = tmp_path / "secret", folder / name
    secret.write_bytes(file.read_bytes() if file.exists() else b"{}")
    file.unlink(missing_ok=True)
    targets = {"absolute": secret, "relative": "../secret", "loop": name, "gone": tmp_path / "no"}
    file.symlink_to(targets[target])
    refused(folder)


def test_links_that_are_fine(folder: Path, tmp_path: Path) -> None:
    """Within the folder; a folder that is a link itself; weights on another disk."""
    (folder / "tokenizer.json").rename(folder / "real.json")
    (folder / "tokenizer.json").symlink_to("real.json")
    (folder / "model.safetensors").rename(tmp_path / "w")
    (folder / "model.safetensors").symlink_to(tmp_path / "w")
    (tmp_path / "link").symlink_to(folder)
    assert resolve(str(tmp_path / "link")).files["tokenizer.json"]


def test_the_hub_caches_links(folder: Path, tmp_path: Path) -> None:
    """As huggingface_hub lays its cache out: snapshots of links into blobs."""
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(repo / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert resolve(str(snapshot)).files["tokenizer.json"]
    (tmp_path / "secret").write_text("{}")
    (snapshot / "tokenizer_config.json").unlink(missing_ok=True)
    (snapshot / "tokenizer_config.json").symlink_to(tmp_path / "secret")
    assert "tokenizer_config.json is a link to" in refused(snapshot)


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 900, 10**5])
@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}")])
def test_depth(depth: int, pair: tuple[str, str]) -> None:
    text = pair[0] * depth + "1" * (pair[0] != "[") + pair[1] * depth
    if depth <= MAX_DEPTH:
        assert parse_json(text)
    else:
        with pytest.raises(ValueError, match="nested deeper than 100"):
            parse_json(text)


def test_which_of_equal_keys(tmp_path: Path) -> None:
    """The last, as in transformers; where the format forbids it, neither."""
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="the key 'a' is there twice"):
        parse_json('{"a": 1, "a": 2}', strict=True)
    (tmp_path / "f").write_text('{"time_step_limit": [0.0, Infinity]}')
    assert read_json(tmp_path / "f")["time_step_limit"][1] == float("inf")


def test_a_file_that_is_a_pipe_is_not_waited_for(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        saved = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        refused(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(saved)
