"""Headers that lie are refused in one line, at once, and for what they say nothing is allocated."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.gguf.files import (
    Type,
    raw_array,
    raw_gguf,
    raw_key,
    raw_tensor,
    raw_text,
    write_gguf,
)
from tests.models.gguf.test_gguf import make_model

from edgec.errors import ModelError
from edgec.models.gguf.header import Header, Values
from edgec.models.gguf.model import gguf_config, gguf_tokenizer, gguf_weights
from edgec.models.gguf.weights import GgufFile

ARCHITECTURE = raw_key("general.architecture", 8, raw_text(b"llama"))
F32 = np.zeros(8, np.float32).tobytes()


def key_of_u32(name: str, value: int) -> bytes:
    return raw_key(name, 4, struct.pack("<I", value))


HEADERS: dict[str, tuple[bytes, str]] = {
    # The first is the 94 bytes that once never ended.
    "array of bytes": (
        raw_gguf([ARCHITECTURE, raw_key("x", 9, raw_array(0, 2**60))]),
        "ends within x",
    ),
    "array of strings": (raw_gguf([raw_key("x", 9, raw_array(8, 2**61))]), f"counts {2**61} str"),
    "array of 2^61 u64": (raw_gguf([raw_key("x", 9, raw_array(10, 2**61))]), "ends within x"),
    "array of arrays": (raw_gguf([raw_key("x", 9, raw_array(9, 1, b"\0" * 64))]), "the type 9"),
    "array of nothing known": (raw_gguf([raw_key("x", 9, raw_array(77, 0))]), "the type 77"),
    "string in an array": (
        raw_gguf([raw_key("x", 9, raw_array(8, 2, raw_text(b"a") + raw_text(b"b", 2**63)))]),
        "ends within x",
    ),
    "string": (raw_gguf([raw_key("x", 8, raw_text(b"abc", 2**64 - 1))]), "ends within x"),
    "name of a key": (raw_gguf([raw_text(b"x", 2**40)]), "bytes"),
    "no name": (raw_gguf([raw_key("", 4, b"\0" * 4)]), "no readable name"),
    "type": (raw_gguf([raw_key("x", 99, b"\0" * 64)]), "unknown type 99"),
    "key twice": (raw_gguf([key_of_u32("x", 1), key_of_u32("x", 2)]), "x is there twice"),
    "not UTF-8": (raw_gguf([raw_key("x", 8, raw_text(b"\xff"))]), "x is not UTF-8"),
    "count of keys": (raw_gguf(counts=(0, 2**63)), f"counts {2**63} keys"),
    "count of tensors": (raw_gguf(counts=(2**63, 0)), f"counts {2**63} tensors"),
    "a key too few": (raw_gguf([key_of_u32("x", 1)], counts=(0, 2)), "counts 2 keys|no readable"),
    "version": (raw_gguf(version=9), "version 9"),
    "other end first": (raw_gguf(version=3 << 24), "big-endian"),
    "another format": (b"PK\3\4" + bytes(60), "begin with GGUF"),
    "short": (b"GGUF\3\0\0\0", "8 bytes"),
    "alignment 0": (raw_gguf([key_of_u32("general.alignment", 0)]), "is 0, no power of 2"),
    "alignment 3": (raw_gguf([key_of_u32("general.alignment", 3)]), "is 3, no power of 2"),
    "alignment 2^31": (
        raw_gguf([key_of_u32("general.alignment", 1 << 31)], [raw_tensor("t", [8])], F32),
        "truncated in t",
    ),
    "alignment as text": (
        raw_gguf([raw_key("general.alignment", 8, raw_text(b"32"))]),
        "is '32', no power of 2",
    ),
    "tensor twice": (raw_gguf([], [raw_tensor("t", [8])] * 2, F32 * 2), "t is there twice"),
    "no dimensions": (raw_gguf([], [raw_tensor("t", [])], F32), "t has 0 dimensions"),
    "nine dimensions": (raw_gguf([], [raw_tensor("t", [1] * 9)], F32), "t has 9 dimensions"),
    "dimension 0": (raw_gguf([], [raw_tensor("t", [0, 4])], F32), r"shape \[4, 0\]"),
    # Their product is 2^64 + 8, which wraps to 8.
    "dimensions wrap": (raw_gguf([], [raw_tensor("t", [2**63 + 4, 2])], F32), "truncated in t"),
    "half a block": (raw_gguf([], [raw_tensor("t", [8], Type.Q8_0)], F32), r"shape \[8\] in Q8_0"),
    "unknown tensor": (raw_gguf([], [raw_tensor("t", [8], 250)], F32), r"250 \(t\)"),
    "offset": (raw_gguf([], [raw_tensor("t", [8], 0, 2**63)], F32), "begins at"),
    "overlap": (
        raw_gguf([], [raw_tensor("t", [8]), raw_tensor("u", [8])], F32 * 2),
        "u begins at 0",
    ),
    "data cut": (raw_gguf([], [raw_tensor("t", [8])], F32[:-1]), "truncated in t"),
    "no data": (raw_gguf([], [raw_tensor("t", [8])]), "truncated in t"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_lies_are_refused_at_once(tmp_path: Path, name: str) -> None:
    content, says = HEADERS[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    before = time.process_time()
    with pytest.raises(ModelError, match=says) as error:
        Header(path)
    seconds, (_, peak) = time.process_time() - before, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1 and peak < 1 << 20
    assert "\n" not in str(error.value) and error.value.remedy


def test_every_cut_of_a_header_is_refused(tmp_path: Path) -> None:
    texts = raw_key("x", 9, raw_array(8, 2, raw_text(b"ab") * 2))
    whole = raw_gguf([ARCHITECTURE, texts, key_of_u32("y", 1)], [raw_tensor("t", [8])], F32)
    path = tmp_path / "x.gguf"
    path.write_bytes(whole)
    assert isinstance(Header(path).metadata["x"], Values)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            Header(path)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(ModelError, match="not a regular file"):
        Header(tmp_path / "x.gguf")


def test_arrays_are_read_when_asked_for(tmp_path: Path) -> None:
    numbers = np.array([1.5, -2.0], np.float32).tobytes()
    keys = [
        raw_key("texts", 9, raw_array(8, 2, raw_text("é".encode()) + raw_text(b""))),
        raw_key("bad", 9, raw_array(8, 1, raw_text(b"\xff"))),
        raw_key("numbers", 9, raw_array(6, 2, numbers)),
        raw_key("flag", 7, b"\1"),
    ]
    (tmp_path / "x.gguf").write_bytes(raw_gguf(keys))
    found = Header(tmp_path / "x.gguf").metadata
    assert found["texts"].texts() == ["é", ""]
    assert found["numbers"].numbers().tolist() == [1.5, -2.0] and found["flag"] is True
    for name, method in (("bad", "texts"), ("numbers", "texts"), ("texts", "numbers")):
        with pytest.raises(ModelError, match=name):
            getattr(found[name], method)()


VALUES: dict[str, tuple[Any, ...]] = {
    "general.architecture": (None, 5, "bloom", "x" * 100_000),
    "general.type": ("adapter", 7),
    "qwen3.block_count": (None, 0, 100_000, 2**32 - 1, "1", 2, -1.0),
    "qwen3.context_length": (None, 0, "x", float("nan")),
    "qwen3.embedding_length": (None, 0, 257, 2**31, "x"),
    "qwen3.feed_forward_length": (None, 0, 511, "x", [512, 511]),
    "qwen3.attention.head_count": (None, 0, 3, 2**31, "x", [4, 3]),
    "qwen3.attention.head_count_kv": (0, 3, "x", True),
    "qwen3.attention.key_length": (0, 31, 3, 2**31, "x"),
    "qwen3.attention.value_length": (64, "x"),
    "qwen3.attention.layer_norm_rms_epsilon": (None, 0.0, float("inf"), "x"),
    "qwen3.attention.causal": (False,),
    "qwen3.rope.freq_base": (0.0, -1.0, float("nan"), float("inf"), "x"),
    "qwen3.rope.scaling.factor": (float("nan"), -2.0, "x", 1e30),
    "qwen3.rope.scaling.type": ("longrope", 3, "x"),
    "qwen3.expert_count": (8, "x"),
    "split.count": ("x", 2**31, 3, -1.0),
    "split.no": ("x",),
    "tokenizer.ggml.model": (None, 5, "rwkv", "nonesuch"),
    "tokenizer.ggml.tokens": (None, "x", [1, 2], ["a"] * 300),
    "tokenizer.ggml.token_type": (5, [1], ["a"]),
    "tokenizer.ggml.merges": (None, 5, [1], ["th"], ["x y"], [" "]),
    "tokenizer.ggml.eos_token_id": ("x", 1.5, True),
    "tokenizer.ggml.add_bos_token": (1, "x"),
    "tokenizer.chat_template": (5,),
}


@pytest.mark.parametrize("key", VALUES)
def test_values_that_cannot_be(tmp_path: Path, key: str) -> None:
    """One line about the key or what it does not fit; nothing of transformers' own."""
    path = tmp_path / "x.gguf"
    model = make_model("qwen3")
    for value in VALUES[key]:
        write_gguf(path, model, lambda _: Type.Q8_0, metadata={key: value})
        before = time.process_time()
        with pytest.raises(ModelError, match=r"x\.gguf") as error:
            file = GgufFile(path)
            gguf_weights(file, gguf_config(file))
            gguf_tokenizer(file)
        assert time.process_time() - before < 5, value
        assert len(str(error.value)) < 500 and "\n" not in str(error.value), value


def test_tensors_must_be_those_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(path, make_model("qwen3"), lambda _: Type.Q8_0)
    content = path.read_bytes()
    changes = {
        "blk.0.attn_q.weight": b"blk.0.attn_z.weight",
        "output_norm.weight": b"output_nurm.weight",
        "blk.0.ffn_norm.weight": b"blk.7.ffn_norm.weight",
    }
    for name, other in changes.items():
        path.write_bytes(content.replace(name.encode(), other))
        with pytest.raises(ModelError, match=r"no place for|blocks by") as error:
            file = GgufFile(path)
            gguf_weights(file, gguf_config(file))
        assert other.decode() in str(error.value) or "2 in its tensors" in str(error.value)
