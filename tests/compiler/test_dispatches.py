"""How many dispatches there are, where a CPU has kernels: seen in what the compiler schedules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgec.compiler import compile

pytest.importorskip("ziglang")

_DISPATCH = re.compile(r"stream\.cmd\.dispatch @[\w$]+::@([\w$]+)")


@pytest.fixture(scope="module")
def dump(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The IR of a model of one layer for a CPU with kernels, whatever this one has."""
    folder = tmp_path_factory.mktemp("dispatches")
    compile(
        str(tiny_folder), target="cpu:znver4", ctx_size=128, dump_ir=folder, stop_after="stream"
    )
    return folder


def dispatches(dump: Path, function: str) -> list[str]:
    """The dispatches of an entry point, in order."""
    text = (dump / "cpu.stream.mlir").read_text()
    body = text.split(f"util.func public @{function}$async")[1].split("util.func public @")[0]
    return _DISPATCH.findall(body)


def test_a_step_has_five_dispatches_a_layer(dump: Path) -> None:
    """Norms, rotation, cache update, activation and sums are in those of products and attention."""
    found = dispatches(dump, "decode")
    (at,) = [i for i, name in enumerate(found) if name.startswith("attention_step_")]
    assert found[at - 1] == "linear3_few_f32"
    assert found[at + 1 : at + 4] == [
        "linear1_few_f32",
        "linear_gated_few_f32",
        "linear1_few_f32",
    ]
    # Embedding, angles, cosines, sines; five of the layer; head, argmax, whether that is finite.
    assert len(found) <= 13, found


def test_a_block_has_one_dispatch_before_attention(dump: Path) -> None:
    """The one layer attends with its last row only; keys and values are those of all."""
    found = dispatches(dump, "prefill")
    assert sum(name.startswith("rotate_") for name in found) == 1
    assert sum(name.startswith("attention_f") for name in found) == 1
    assert "linear_gated_few_f32" in found
