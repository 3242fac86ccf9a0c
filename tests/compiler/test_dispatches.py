"""How many dispatches there are, where the CPU has kernels: seen in what the compiler schedules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgec.compiler.targets import parse_targets

pytest.importorskip("ziglang")

_DISPATCH = re.compile(r"stream\.cmd\.dispatch @[\w$]+::@([\w$]+)")


def dispatches(dump: Path, function: str) -> list[str]:
    """The dispatches of an entry point of the model of one layer, in order."""
    if not parse_targets("cpu")[0].kernels:
        pytest.skip("this CPU has no kernels")
    text = (dump / "cpu.stream.mlir").read_text()
    body = text.split(f"util.func public @{function}$async")[1].split("util.func public @")[0]
    return _DISPATCH.findall(body)


def test_a_step_attends_in_one_dispatch(dump: Path) -> None:
    """Nothing stands between the product for query, key and value and that after attention."""
    found = dispatches(dump, "decode")
    (at,) = [i for i, name in enumerate(found) if name.startswith("attention_step_")]
    assert (found[at - 1], found[at + 1]) == ("few3_f32", "few1_f32")
    # Embedding, angles, cosines, sines; eight of the layer; norm, head, argmax.
    assert len(found) <= 15, found


def test_a_block_has_one_dispatch_before_attention(dump: Path) -> None:
    """Of the one layer only the last row is attended with; keys and values are those of all."""
    found = dispatches(dump, "prefill")
    assert sum(name.startswith("rotate_") for name in found) == 1
    assert sum(name.startswith("attention_f") for name in found) == 1
