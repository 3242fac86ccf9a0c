"""The options that a compile accepts, and the defaults of those that are not given."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.compiler import CompileOptions
from edgec.errors import InputError
from edgec.options import DEFAULT_CONTEXT


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": "f8"}, "dtype 'f8': must be one of f32, f16, bf16"),
        ({"dtype": ""}, "dtype ''"),
        ({"kv_dtype": "f8"}, "kv-dtype 'f8': must be one of f32, f16, bf16, int8"),
        ({"dynamic_shapes": "some"}, "dynamic-shapes 'some': must be one of input, op, none"),
        ({"prompt_multiple": 0}, "prompt-multiple 0: must be from 1 to 1024"),
        ({"prompt_multiple": -32}, "prompt-multiple -32"),
        ({"prompt_multiple": 1025}, "prompt-multiple 1025"),
        ({"ctx_size": 100}, r"ctx-size 100: must be a multiple .*, 32 \(try 96\)"),
        ({"ctx_size": 0}, r"ctx-size 0: .* \(try 32\)"),
        ({"ctx_size": -32}, r"ctx-size -32: .* \(try 32\)"),
        ({"ctx_size": 96, "prompt_multiple": 64}, r"ctx-size 96: .*, 64 \(try 128\)"),
        ({"chunk_size": 33}, r"chunk-size 33: .* \(try 32\)"),
        ({"chunk_size": 0}, "chunk-size 0"),
        ({"embedding_quantize": "int2"}, "embedding-quantize 'int2': must be one of none, int8"),
        ({"asymmetric": True}, "asymmetric: none has no zero points"),
        ({"asymmetric": True, "quantize": "int8"}, r"int8 has no .* \(add --quantize int4"),
        ({"layers": 0}, "layers 0: must be at least 1"),
    ],
)
def test_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        CompileOptions(**options)


@pytest.mark.parametrize(
    ("options", "context", "says"),
    [
        ({"ctx_size": 544}, 512, r"ctx-size 544: beyond the context of m, 512 .*\(use -c 512 "),
        ({"ctx_size": 544}, 520, r"\(use -c 512 or less\)"),
        ({"ctx_size": 64, "chunk_size": 96}, 512, "chunk-size 96: larger than the context, 64"),
        ({"prompt_multiple": 64}, 32, "prompt-multiple 64: longer than the context of m, 32"),
    ],
)
def test_refused_for_a_model(options: dict[str, Any], context: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        CompileOptions(**options).for_model(context, "m")


@given(
    multiple=st.integers(1, 1024),
    limit=st.integers(1, 100_000),
    blocks=st.none() | st.integers(1, 200),
    chunk_blocks=st.none() | st.integers(1, 200),
)
def test_filled_in(multiple: int, limit: int, blocks: int | None, chunk_blocks: int | None) -> None:
    """Context and chunk are multiples, the chunk fits in the context and that in the model's."""
    asked = CompileOptions(
        prompt_multiple=multiple,
        ctx_size=blocks and blocks * multiple,
        chunk_size=chunk_blocks and chunk_blocks * multiple,
    )
    try:
        options = asked.for_model(limit, "m")
    except InputError:
        context = asked.ctx_size or limit // multiple * multiple
        assert not 0 < context <= limit or (asked.chunk_size or 0) > min(context, DEFAULT_CONTEXT)
        return
    assert options.ctx_size is not None and options.chunk_size is not None
    assert options.ctx_size % multiple == options.chunk_size % multiple == 0
    assert 0 < options.chunk_size <= options.ctx_size <= limit
    assert asked.ctx_size in (None, options.ctx_size)
    assert asked.chunk_size in (None, options.chunk_size)
    assert options.for_model(limit, "m") == options


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CompileOptions().dtype = "f16"  # type: ignore[misc]


def test_as_json() -> None:
    options = CompileOptions(extra_compile_args=("-a", "-b")).to_dict()
    assert options["extra_compile_args"] == ["-a", "-b"]
    assert options.keys() == {field.name for field in dataclasses.fields(CompileOptions)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "f32"),
        ({"dtype": "bf16"}, "bf16"),
        ({"quantize": "int4"}, "f16"),
        ({"quantize": "int8", "dtype": "bf16"}, "bf16"),
        ({"quantize": "int8", "kv_dtype": "f32"}, "f32"),
    ],
)
def test_type_of_the_cache(options: dict[str, Any], expected: str) -> None:
    assert CompileOptions(**options).for_model(512, "m").kv_dtype == expected


@pytest.mark.parametrize(("kv_dtype", "expected"), [(None, "f16"), ("f32", "f32")])
def test_cache_of_weights_that_come_quantised(kv_dtype: str | None, expected: str) -> None:
    options = CompileOptions(kv_dtype=kv_dtype).for_model(512, "m", quantized=True)
    assert options.kv_dtype == expected
    assert CompileOptions(dtype="bf16").for_model(512, "m", quantized=True).kv_dtype == "bf16"
