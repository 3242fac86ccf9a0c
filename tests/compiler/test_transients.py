"""Allocations of a call, evaluated from IR of the stream dialect."""

from __future__ import annotations

import pytest

from edgec.compiler.transients import transient_bytes

TEXT = """
util.func public @prefill$async(%tokens: !hal.buffer_view, %start: i64) {
  %c32 = arith.constant 32 : index
  %c100 = arith.constant 100 : index
  %c0 = arith.constant 0 : index
  %p = hal.buffer_view.dim<%tokens : !hal.buffer_view>[1] : index
  %n = util.assume.int %p<umin = 32, umax = 256, udiv = 32> : index
  %s = arith.index_cast %start : i64 to index
  %end = arith.addi %s, %n : index
  %blocks = arith.ceildivui %end, %c32 : index
  %scores = arith.muli %n, %blocks : index
  %aligned = util.align %c100, %c32 : index
  %a, %ta = stream.resource.alloca uninitialized : !stream.resource<transient>{%scores} => !stream.timepoint
  %b, %tb = stream.resource.alloca uninitialized : !stream.resource<external>{%aligned} => !stream.timepoint
  util.return
}
util.func public @decode$async(%tokens: !hal.buffer_view) {
  %size = arith.constant 77 : index
  %a, %ta = stream.resource.alloca uninitialized : !stream.resource<transient>{%size} => !stream.timepoint
  util.return
}
"""  # noqa: E501


def test_the_largest_call_counts() -> None:
    # 64 tokens behind 320: 12 blocks of scores for each, and 128 bytes more.
    assert transient_bytes(TEXT, prompt=64, context=320) == 64 * 12 + 128
    assert transient_bytes(TEXT, prompt=0, context=0) == 128


def test_an_unknown_size_is_an_error() -> None:
    text = TEXT.replace("arith.muli", "arith.xori")
    with pytest.raises(ValueError, match=r"computed by arith\.xori"):
        transient_bytes(text, 32, 64)
