"""The traps of padding at the input, each as a test; and proof that these tests can fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec
from edgec import Session
from edgec.errors import InputError

TOLERANCE = 1e-4


@pytest.fixture
def qwen3(make_pair: Callable[..., Any]) -> Any:
    return make_pair("qwen3")


def run_prefill(session: Session, ids: list[int], start: int, padding: int) -> np.ndarray[Any, Any]:
    """One call of the program with a chosen padding token, below everything that checks."""
    program, state = session.model.program, session.sequence._state
    multiple = session.artifact.manifest.prompt.multiple_of
    padded = -(-len(ids) // multiple) * multiple
    tokens = np.full((1, padded), padding, np.int32)
    tokens[0, : len(ids)] = ids
    return program.prefill(tokens, start, len(ids), state).logits()


def test_what_padding_holds_does_not_matter(qwen3: Any) -> None:
    """Neither for the logits nor, through the cache, for what comes after."""
    ids, logits = qwen3.ids(40), []
    for padding in (0, 99):
        qwen3.session.reset()
        qwen3.session.prefill(ids[:1])  # the state exists from here on
        first = run_prefill(qwen3.session, ids[1:34], 1, padding)
        second = run_prefill(qwen3.session, ids[34:], 34, padding)
        logits.append((first, second))
    assert np.array_equal(logits[0][0], logits[1][0])
    assert np.array_equal(logits[0][1], logits[1][1])


def test_head_runs_for_one_row(qwen3: Any) -> None:
    outputs = qwen3.artifact.manifest.entry_points["prefill"].outputs
    assert outputs[0].shape == (1, 288)


def test_state_of_another_sequence_is_not_seen(
    qwen3: Any, relative_error: Callable[..., float]
) -> None:
    """Two sequences step in turn on one program; a reset leaves nothing behind."""
    a, b = qwen3.session.share(), qwen3.session.share()
    ids_a, ids_b = qwen3.ids(70, seed=5), qwen3.ids(50, seed=6)
    expected_a, expected_b = qwen3.eager_logits(ids_a), qwen3.eager_logits(ids_b)
    a.prefill(ids_a[:40])
    b.prefill(ids_b[:20])
    for i in range(30):
        assert relative_error(a.decode(ids_a[40 + i]), expected_a[40 + i]) <= TOLERANCE
        assert relative_error(b.decode(ids_b[20 + i]), expected_b[20 + i]) <= TOLERANCE
    a.reset()
    assert relative_error(a.prefill(ids_b[:5]), expected_b[4]) <= TOLERANCE


def test_context_to_the_last_row(qwen3: Any, relative_error: Callable[..., float]) -> None:
    """A padded block that ends past the context still fits; one token more is refused."""
    context = qwen3.artifact.manifest.model.context
    ids = qwen3.ids(context, seed=7)
    expected = qwen3.eager_logits(ids)
    qwen3.session.reset()
    qwen3.session.prefill(ids[: context - 6])
    assert relative_error(qwen3.session.prefill(ids[-6:-1]), expected[-2]) <= TOLERANCE
    assert relative_error(qwen3.session.decode(ids[-1]), expected[-1]) <= TOLERANCE
    with pytest.raises(InputError, match=str(context)):
        qwen3.session.decode(ids[0])


def test_a_wrong_position_is_noticed(qwen3: Any, relative_error: Callable[..., float]) -> None:
    ids = qwen3.ids(40, seed=8)
    expected = qwen3.eager_logits(ids)
    qwen3.session.reset()
    qwen3.session.prefill(ids[:20])
    assert relative_error(run_prefill(qwen3.session, ids[20:], 20, 0), expected[-1]) <= TOLERANCE
    assert relative_error(run_prefill(qwen3.session, ids[20:], 21, 0), expected[-1]) > 1e-2


def test_a_stale_cache_is_noticed(qwen3: Any, relative_error: Callable[..., float]) -> None:
    ids = qwen3.ids(40, seed=9)
    expected = qwen3.eager_logits(ids)
    qwen3.session.reset()
    qwen3.session.prefill(qwen3.ids(20, seed=10))
    assert relative_error(run_prefill(qwen3.session, ids[20:], 20, 0), expected[-1]) > 1e-2


def test_a_wrong_mask_is_noticed(
    tmp_path: Path, write_model: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    """A program whose attention sees one token of the future, built from edited IR."""
    model = tmp_path / "model"
    write_model(model, "qwen3")
    options: dict[str, Any] = {"ctx_size": 128, "chunk_size": 64, "dump_ir": tmp_path / "ir"}
    edgec.compile(str(model), output=tmp_path / "right.edgec", **options)
    lowered = tmp_path / "ir" / "cpu.lowered.mlir"
    text = lowered.read_text("utf-8")
    start = r"(@edgec\.attention[^}]*?)(%\S+) = arith.index_cast (%\S+) : i64 to index"
    late = r"""\1%one = arith.constant 1 : i64
    %late = arith.addi \3, %one : i64
    \2 = arith.index_cast %late : i64 to index"""
    edited, count = re.subn(start, late, text)
    assert count == 3  # prefill, its last layer's one query, and decode
    lowered.write_text(edited, "utf-8")
    edgec.compile(str(model), output=tmp_path / "wrong.edgec", start_from=lowered, **options)
    ids = list(range(40))
    right = Session(tmp_path / "right.edgec").prefill(ids)
    wrong = Session(tmp_path / "wrong.edgec").prefill(ids)
    assert relative_error(wrong, right) > 1e-2
