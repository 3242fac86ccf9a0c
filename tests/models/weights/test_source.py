"""Weights are read one at a time, damage is found when a file is opened, seeds are reproducible."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from edgec.errors import ModelError
from edgec.models.weights import source as weights_module
from edgec.models.weights.check import (
    CheckedWeights,
    ExpectedTensors,
    check_weights,
    expected_tensors,
)
from edgec.models.weights.source import (
    INDEX_FILE,
    MAX_TENSORS,
    SINGLE_FILE,
    RandomWeights,
    SafetensorsWeights,
    TensorInfo,
    WeightSource,
    torch_dtype,
)

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).view(3, 4),
    "b": torch.arange(7, dtype=torch.float16),
    "c": torch.randn(5, 3, 2).to(torch.bfloat16),
    "d": torch.tensor(3, dtype=torch.int64),
    "e": torch.empty(0, 4),
    "f": torch.tensor([True, False, True]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / SINGLE_FILE)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    names = {n: f"model-0000{1 + (n > 'c')}-of-00002.safetensors" for n in TENSORS}
    for shard in set(names.values()):
        save_file({n: TENSORS[n] for n, s in names.items() if s == shard}, tmp_path / shard)
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": names}))
    return tmp_path


def raw(folder: Path, header: object, data: bytes = b"") -> None:
    """Writes a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / SINGLE_FILE).write_bytes(struct.pack("<Q", len(text)) + text + data)


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and torch.equal(left, right)


@pytest.mark.parametrize("layout", ["folder", "sharded"])
def test_reads_what_safetensors_wrote(layout: str, request: pytest.FixtureRequest) -> None:
    source = SafetensorsWeights(request.getfixturevalue(layout))
    infos = source.tensors()
    assert set(infos) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert infos[name].shape == tensor.shape
        assert torch_dtype(infos[name].dtype) == tensor.dtype
        assert infos[name].nbytes == tensor.nbytes
        assert same(source.read(name), tensor)


@settings(deadline=None, max_examples=25)
@given(pad=st.integers(0, 9), shape=st.lists(st.integers(0, 4), max_size=3))
def test_reads_whatever_the_header_is_aligned_to(
    pad: int, shape: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    tensor = torch.randn(shape)
    data = tensor.numpy().tobytes()
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}
    raw(folder, json.dumps({"x": entry}).encode() + b" " * pad, data)
    assert same(SafetensorsWeights(folder).read("x"), tensor)


def test_writing_to_a_tensor_leaves_the_file_alone(folder: Path) -> None:
    source = SafetensorsWeights(folder)
    source.read("a").zero_()
    assert same(source.read("a"), TENSORS["a"])


def test_memory_is_bounded_by_one_tensor(tmp_path: Path) -> None:
    """Ten tensors of 32 MB are read in turn; only one may be resident."""
    count, size = 10, 32 << 20
    entries = {
        f"t{i}": {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(count)
    }
    raw(tmp_path, entries)
    with (tmp_path / SINGLE_FILE).open("ab") as stream:
        for _ in range(count):
            stream.write(b"\1" * size)
    script = f"""
import resource, torch
from pathlib import Path
from edgec.models.weights.source import SafetensorsWeights
source = SafetensorsWeights(Path({str(tmp_path)!r}))
torch.ones(size := {size}, dtype=torch.uint8).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in source.tensors():
    assert source.read(name).sum() == size
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 3 * size


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"this is not JSON", b"", "its header is not JSON"),
        (b"[1, 2]", b"", "its header is not an object"),
        ({"x": ENTRY}, b"1234567", "truncated: "),
        ({"x": ENTRY}, b"123456789", "1 bytes more than"),
        ({"x": {**ENTRY, "shape": [3]}}, b"12345678", "x has 8 bytes, its shape"),
        ({"x": {**ENTRY, "dtype": "F99"}}, b"12345678", "entry of x is damaged"),
        ({"x": {"dtype": "F32"}}, b"12345678", "entry of x is damaged"),
        ({"x": 3}, b"12345678", "entry of x is damaged"),
        ({"x": {**ENTRY, "shape": [-2], "data_offsets": [8, 0]}}, b"", "entry of x is damaged"),
        ({"x": {**ENTRY, "data_offsets": [8, 0]}}, b"", "x has -8 bytes"),
        (
            b'{"x": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 8]}}',
            b"",
            "Infinity is not JSON",
        ),
        (b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1e999]}}', b"", "entry of x"),
        (b'{"x": {"dtype": [], "shape": [2], "data_offsets": [0, 8]}}', b"", "entry of x"),
        (b'{"x": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}', b"", "entry of x"),
        (b"[" * 100_000, b"", "not JSON"),
        ({"x" * 10_000_000: 3}, b"", r"entry of x{200}\.\.\. is"),
        ({"x": ENTRY, "y": {**ENTRY, "data_offsets": [4, 12]}}, b"1" * 12, "y overlaps"),
        ({"x": ENTRY, "y": {**ENTRY, "data_offsets": [9, 17]}}, b"1" * 17, "y leaves a gap"),
    ],
)
def test_damaged_file(header: object, data: bytes, message: str, tmp_path: Path) -> None:
    raw(tmp_path, header, data)
    with pytest.raises(ModelError, match=message) as caught:
        SafetensorsWeights(tmp_path)
    assert SINGLE_FILE in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated: 0 bytes"),
        (b"\xff" * 20, "its header's length makes no sense"),
        (struct.pack("<Q", 1000) + b"{", "truncated in its header"),
    ],
)
def test_damaged_start(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / SINGLE_FILE).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        SafetensorsWeights(tmp_path)


def test_every_truncation_is_found(folder: Path) -> None:
    content = (folder / SINGLE_FILE).read_bytes()
    for length in range(len(content)):
        (folder / SINGLE_FILE).write_bytes(content[:length])
        with pytest.raises(ModelError):
            SafetensorsWeights(folder)


def test_file_cut_after_it_was_opened(folder: Path) -> None:
    source = SafetensorsWeights(folder)
    (folder / SINGLE_FILE).write_bytes(b"")
    with pytest.raises(ModelError, match="cannot read tensor a"):
        source.read("a")


def test_missing_shards(sharded: Path) -> None:
    for shard in sharded.glob("*.safetensors"):
        shard.unlink()
    with pytest.raises(ModelError, match="2 of 2 weight files missing: model-00001-of-00002"):
        SafetensorsWeights(sharded)


def test_tensors_are_those_of_the_files_wherever_the_index_has_them(sharded: Path) -> None:
    """As transformers reads them: an index says which files there are, and no more."""
    index = json.loads((sharded / INDEX_FILE).read_text())
    names = list(index["weight_map"])
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"] = {names[0]: files[1], "nowhere": files[0]}
    (sharded / INDEX_FILE).write_text(json.dumps(index))
    assert set(SafetensorsWeights(sharded).tensors()) == set(TENSORS)


def test_files_of_an_index_have_any_name(sharded: Path) -> None:
    text = (sharded / INDEX_FILE).read_text()
    (sharded / "parts").mkdir()
    for number, name in (
        (1, "model.safetensors-00001-of-00002.safetensors"),
        (2, "parts/b.safetensors"),
    ):
        old = f"model-0000{number}-of-00002.safetensors"
        (sharded / old).rename(sharded / name)
        text = text.replace(old, name)
    (sharded / INDEX_FILE).write_text(text)
    source = SafetensorsWeights(sharded)
    assert all(same(source.read(name), tensor) for name, tensor in TENSORS.items())


def test_a_stale_index_is_not_used(sharded: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers reads model.safetensors where there is one."""
    save_file({"new": torch.ones(3)}, sharded / SINGLE_FILE)
    assert set(SafetensorsWeights(sharded).tensors()) == {"new"}
    (message,) = [record.getMessage() for record in caplog.records]
    assert "model.safetensors is read" in message and "model-00001-of-00002" in message
    caplog.clear()
    (sharded / INDEX_FILE).write_text(json.dumps({"weight_map": {"new": SINGLE_FILE}}))
    assert set(SafetensorsWeights(sharded).tensors()) == {"new"} and not caplog.records
    (sharded / INDEX_FILE).write_text("{{{")
    assert set(SafetensorsWeights(sharded).tensors()) == {"new"} and not caplog.records


def test_an_index_of_one_file(folder: Path) -> None:
    (folder / SINGLE_FILE).rename(folder / "weights.safetensors")
    index = {"weight_map": dict.fromkeys(TENSORS, "weights.safetensors")}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    assert set(SafetensorsWeights(folder).tensors()) == set(TENSORS)


def test_the_file_that_the_configuration_names(folder: Path) -> None:
    """`transformers_weights`; as in transformers it must lie in the folder."""
    save_file({"x": torch.ones(3)}, folder / "model.fp32.safetensors")
    assert set(SafetensorsWeights(folder, "model.fp32.safetensors").tensors()) == {"x"}
    with pytest.raises(ModelError, match=r"no a\.safetensors, which transformers_weights"):
        SafetensorsWeights(folder, "a.safetensors")
    for name in ("../model.safetensors", "/etc/x.safetensors", "model.bin"):
        with pytest.raises(ModelError, match="is no safetensors file of the model's folder"):
            SafetensorsWeights(folder, name)


@pytest.mark.parametrize("count", [MAX_TENSORS + 1, 1_500_000])
def test_a_header_of_far_too_many_tensors(count: int, tmp_path: Path) -> None:
    """Refused at once; the largest checkpoints have 100,000."""
    entry = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    text = "{" + ",".join(entry % i for i in range(count)) + "}"
    raw(tmp_path, text.encode())
    with pytest.raises(ModelError, match=r"makes no sense|250000 tensors"):
        SafetensorsWeights(tmp_path)


@pytest.mark.parametrize("index", ["", "[]", '{"weight_map": 3}', "{}"])
def test_damaged_index(index: str, sharded: Path) -> None:
    (sharded / INDEX_FILE).write_text(index)
    with pytest.raises(ModelError, match="not an index"):
        SafetensorsWeights(sharded)


def test_index_must_stay_in_its_folder(sharded: Path) -> None:
    (sharded / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(ModelError, match="not its shards"):
        SafetensorsWeights(sharded)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        SafetensorsWeights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pickles .*safetensors"):
        SafetensorsWeights(tmp_path)


@pytest.mark.parametrize("whole_file", [0, 1 << 30])
def test_digest_follows_content(
    whole_file: int, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights_module, "WHOLE_FILE", whole_file)
    before = SafetensorsWeights(folder).digest()
    save_file(TENSORS, folder / SINGLE_FILE)  # a new time, the same content
    assert SafetensorsWeights(folder).digest() == before
    save_file({**TENSORS, "c": TENSORS["c"] + 1}, folder / SINGLE_FILE)
    assert SafetensorsWeights(folder).digest() != before


def config(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"initializer_range": 0.5, "dtype": torch.float32, **values})


SHAPES: dict[str, tuple[int, ...]] = {
    "m.weight": (700, 900),
    "n.weight": (5,),
    "m.bias": (4,),
    "p.weight": (3, 1, 5),
}


def test_random_weights_are_reproducible() -> None:
    source = RandomWeights(SHAPES, config(), seed=1)
    again = RandomWeights(dict(reversed(SHAPES.items())), config(), seed=1)
    other = RandomWeights(SHAPES, config(), seed=2)
    assert {n: i.shape for n, i in source.tensors().items()} == SHAPES
    for name, shape in SHAPES.items():
        assert source.read(name).shape == shape
        assert same(source.read(name), again.read(name))
    assert not same(source.read("m.weight"), other.read("m.weight"))
    assert source.digest() != other.digest()
    assert source.digest() != RandomWeights(SHAPES, config(initializer_range=1.0), 1).digest()
    # The values are a promise: a compiled artifact of the same seed has them.
    promised = [-0.144928, 0.345223, 0.363738]
    assert source.read("m.weight")[0, :3].tolist() == pytest.approx(promised, abs=1e-6)


def test_random_weights_are_normal() -> None:
    source = RandomWeights(SHAPES, config(), seed=0)
    values = source.read("m.weight").flatten() / 0.5
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**3).mean()) < 0.02
    assert abs((values**4).mean() - 3) < 0.05
    assert abs((values[1:] * values[:-1]).mean()) < 0.01
    blocks = RandomWeights({"x": (2, 1 << 18)}, config(), 0).read("x")
    assert not torch.equal(blocks[0], blocks[1])
    assert torch.equal(source.read("n.weight"), torch.ones(5))
    assert torch.equal(source.read("m.bias"), torch.zeros(4))


def test_random_weights_have_the_configured_dtype() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert RandomWeights(SHAPES, config(dtype=dtype), 0).read("m.weight").dtype == dtype
    assert RandomWeights(SHAPES, SimpleNamespace(), 0).read("m.weight").dtype == torch.bfloat16


class Checkpoint:
    """A checkpoint with just names and shapes."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], dtype: str = "f32") -> None:
        self.infos = {name: TensorInfo(shape, dtype) for name, shape in shapes.items()}

    def tensors(self) -> dict[str, TensorInfo]:
        return self.infos

    def read(self, name: str) -> torch.Tensor:
        return torch.zeros(self.infos[name].shape)

    def digest(self) -> str:
        return ""


def tiny(model_type: str, **values: Any) -> Any:
    from transformers import AutoConfig

    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 300,
    }
    return AutoConfig.for_model(model_type, **{**shape, **values})


def test_check_reports_all_at_once() -> None:
    expected: dict[str, tuple[int, ...]] = {f"w{i}": (2, 3) for i in range(12)}
    with pytest.raises(ModelError) as caught:
        check_weights(expected, Checkpoint({"w0": (3, 2), "w1": (2, 3)}), {})
    message = str(caught.value)
    assert "11 tensors do not fit" in message
    assert "w0 is [3, 2], not [2, 3]" in message
    assert "w2 is missing" in message and "and 3 more" in message
    assert "\n" not in message


def test_check_refuses_packed_weights() -> None:
    with pytest.raises(ModelError, match="w has the packed dtype i8"):
        check_weights({"w": (2,)}, Checkpoint({"w": (2,)}, "i8"))


def test_check_accepts_either_name_of_a_tied_weight() -> None:
    expected: dict[str, tuple[int, ...]] = {"embed": (2, 3)}
    for stored in (["embed"], ["head"], ["embed", "head"]):
        checked = check_weights(
            expected, Checkpoint(dict.fromkeys(stored, (2, 3))), {"head": "embed"}
        )
        assert checked.names == {"embed": stored[0], "head": stored[0]}
        assert checked.unused == []
        assert checked.read("head").shape == (2, 3)


def test_check_returns_unused_tensors() -> None:
    checked = check_weights({"a": (1,)}, Checkpoint({"a": (1,), "b": (1,)}))
    assert checked.unused == ["b"]
    assert set(checked.tensors()) == {"a"}


def test_tied_weights_are_expected_once() -> None:
    expected = expected_tensors(tiny("qwen3", tie_word_embeddings=True))
    assert expected.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in expected.shapes
    untied = expected_tensors(tiny("qwen3", tie_word_embeddings=False))
    assert untied.tied == {} and "lm_head.weight" in untied.shapes


def test_names_without_the_base_prefix() -> None:
    """As a checkpoint of the base model has them, and one with a prefix too many."""
    expected = expected_tensors(tiny("qwen3", tie_word_embeddings=True))
    bare = {name.removeprefix("model."): shape for name, shape in expected.shapes.items()}
    checked = check_weights(expected, Checkpoint(bare))
    assert checked.names["model.norm.weight"] == "norm.weight"
    assert checked.unused == []


def test_names_that_transformers_renames() -> None:
    """Pythia's published files call the head embed_out and carry buffers that nobody needs."""
    expected = expected_tensors(tiny("gpt_neox"))
    published = {
        ("embed_out.weight" if name == "lm_head.weight" else name): shape
        for name, shape in expected.shapes.items()
    }
    buffers: dict[str, tuple[int, ...]] = {"gpt_neox.layers.0.attention.bias": (1, 1, 4, 4)}
    checked = check_weights(expected, Checkpoint(published | buffers))
    assert checked.names["lm_head.weight"] == "embed_out.weight"
    assert checked.unused == []


def test_a_checked_checkpoint_is_a_source() -> None:
    def digest(source: WeightSource) -> str:
        return source.digest()

    checked = check_weights(ExpectedTensors({"a": (1,)}), Checkpoint({"a": (1,)}))
    assert isinstance(checked, CheckedWeights) and digest(checked) == ""
